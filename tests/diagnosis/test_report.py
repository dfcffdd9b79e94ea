"""What a diagnosis shows: text, file and figure."""

import json
import math

import pytest

from advreg.diagnosis import Check, Diagnosis

EXAMPLE = Diagnosis(
    (
        Check("mode", "pass", {"layers in train mode": 0.0}, "fine"),
        Check("steps", "flag", {"steps": [0.0, 1.0, 10.0], "gain": [0.1, 0.4, 0.3]}, "long " * 40, "do this"),
        Check("radius", "pass", {"radius": [0.5, 1.0], "gain": [0.1, 0.3]}, "rises"),
        Check("noise", "pass", {"gain of gradient": 0.3, "gain of noise": 0.1}, "less", ""),
        Check("gradient_free", "pass", {"gain of square": 0.4, "missed": math.inf}, "more", ""),
        Check("transfer", "skipped", {}, "no other model was given"),
    ),
    {"examples": 4, "radius": 0.1},
)


def test_the_report_says_what_was_seen_and_what_to_do():
    text = str(EXAMPLE)
    assert text.startswith("examples 4, radius 0.1: 1 of 6 checks flagged\n")
    assert "FLAG     steps            long" in text
    assert "-> do this" in text
    assert max(map(len, text.splitlines())) <= 100
    assert EXAMPLE.flagged == ("steps",)
    with pytest.raises(KeyError, match="there are mode, steps"):
        EXAMPLE["depth"]


def test_json_holds_everything(tmp_path):
    path = EXAMPLE.save(tmp_path / "new" / "diagnosis.json")
    assert [p.name for p in path.parent.iterdir()] == ["diagnosis.json"]
    read = json.loads(path.read_text())
    assert read["passed"] is False
    assert [check["name"] for check in read["checks"]] == [check.name for check in EXAMPLE.checks]
    assert read["checks"][1]["evidence"]["gain"] == [0.1, 0.4, 0.3]
    assert read["checks"][4]["evidence"]["missed"] == "inf"


def test_the_figure_shows_curves_and_bars(tmp_path):
    steps, radius, bars = EXAMPLE.plot()
    assert list(steps.lines[0].get_ydata()) == [0.1, 0.4, 0.3]
    assert list(radius.lines[0].get_ydata()) == [0.1, 0.3]
    assert [round(bar.get_width(), 2) for bar in bars.patches] == [0.4, 0.1, 0.3]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["square", "noise", "gradient"]
    EXAMPLE.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    EXAMPLE.plot((steps, radius, bars))
    Diagnosis(EXAMPLE.checks[:1]).plot()
    with pytest.raises(ValueError, match="three axes"):
        EXAMPLE.plot((steps,))
