"""What the paper's attack overstates, and the report that shows both attacks."""

import csv
import json

import numpy as np
import pytest

from advreg.evaluation import Row, Table
from lumbar_disk.report import _report, cells, curve_figure, read_results, write_report
from lumbar_disk.report._attacks import overstated, sentence
from lumbar_disk.report._figures import THIN
from lumbar_disk.study import CONTOUR_DICE, MASK_DICE, MEASURES, POINT_ERROR, small_recipe

NAMES = ("P3_std", "P10_std", "P10_adv_rs")
WORSE = 0.04


def rows(measure, attack, values, radius=0.03):
    return [
        Row(index, f"p{index // 2}", radius, attack, measure.head, measure.metric, value)
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(("measure", "sign"), [(MASK_DICE, -1), (CONTOUR_DICE, -1), (POINT_ERROR, 1)])
def test_it_is_taken_disc_by_disc_and_towards_worse(measure, sign):
    weak, strong = np.array([0.8, 0.7, 0.9, 0.6]), np.array([0.5, 0.7, 0.4, 0.7])
    clean = rows(measure, measure.attack(), weak, 0.0) + rows(measure, measure.attack("auto"), weak, 0.0)
    table = Table(
        [*clean, *rows(measure, measure.attack(), weak), *rows(measure, measure.attack("auto"), strong[::-1])]
    )
    found = overstated({"mine": table}, measure)
    assert list(found) == [("mine", 0.03)]
    np.testing.assert_allclose(found["mine", 0.03].values(), sign * (strong[::-1] - weak))
    assert found["mine", 0.03].groups() == ["p0", "p0", "p1", "p1"]


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Figures, which test_report looks at, take most of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_report, "pictures", lambda *_: ([], []))
        yield


@pytest.fixture(scope="module")
def both(tmp_path_factory, make_study, page_of):
    folder = make_study(tmp_path_factory.mktemp("study"), NAMES, WORSE)
    write_report(folder)
    return folder, page_of(folder / "report")


def test_the_report_says_by_how_much(both):
    folder, page = both
    results = read_results(folder)
    for measure in MEASURES.values():
        told = sentence(results, measure)
        number = f"{2 * 100 * WORSE:.2f} pixels" if measure.unit else f"{WORSE:.3f}"  # in crops of 128 pixels
        verb = "understates" if measure.unit else "overstates"
        assert f"The paper's attack {verb} the {measure.label} by {number} (95 % interval" in told
        passes = small_recipe().auto_passes
        assert f"with {passes} passes for each disc, finds worse in 18 of 18 pairs" in told
        assert told in page.text
        assert told in (folder / "report" / "report.md").read_text()


def test_an_attack_that_is_stronger_than_auto_attack_overstates_nothing(tmp_path, make_study):
    told = sentence(read_results(make_study(tmp_path, ["P10_std"], -0.1)), MASK_DICE)
    assert "The paper's attack does not overstate the mask Dice on average, -0.100 (95 % interval" in told
    assert "finds worse in 0 of 6 pairs" in told


def test_tables_have_both_attacks(both):
    folder, page = both
    results = read_results(folder)
    for measure in MEASURES.values():
        with (folder / "report" / f"table{measure.table}.csv").open(newline="") as file:
            row = {row["model"]: row for row in csv.DictReader(file)}["P10_std"]
        apart = 200 * WORSE if measure.unit else -WORSE
        for name in ("mean", "low", "high"):
            assert float(row[f"0.03 auto {name}"]) == pytest.approx(float(row[f"0.03 {name}"]) + apart)
            assert row[f"0 auto {name}"] == row[f"0 {name}"]
        shown = [
            f"{float(row[f'0.03 {name}']):.{measure.digits}f}"
            for name in ("mean", "low", "high", "auto mean")
        ]
        assert "{} {} to {} auto {}".format(*shown) in page.text
        assert f" {shown[0]} / {shown[3]} (" in (folder / "report" / "report.md").read_text()
    drawn = curve_figure(5, cells(results), cells(results, "auto"))
    thin = [line for line in drawn.axes[2].lines if line.get_linewidth() == THIN]
    assert len(thin) == 2  # P10_adv_rs and P10_std
    expected = [cells(results, "auto")["mask_dice", "P10_std", radius].mean for radius in thin[1].get_xdata()]
    np.testing.assert_allclose(thin[1].get_ydata(), expected)


def test_claims_are_judged_on_the_papers_attack_and_answered_under_both(tmp_path, make_study):
    folder = make_study(tmp_path, ["P3_std", "P5_std", "P10_std", "P10_adv_rs"], -0.6)
    claims = json.loads([*write_report(folder)][-1].read_text())
    assert claims[0]["verdict"] == "holds"
    assert claims[0]["auto_verdict"] == "fails"  # 0.6 above 0.177, 0.297 and 0.2907
    for part in claims[0]["parts"]:
        assert part["auto_measured"] == pytest.approx(part["measured"] + 0.6)
        assert part["auto_verdict"] == "fails"
    assert claims[5]["parts"][2]["auto_measured"] == claims[5]["parts"][2]["measured"]  # clean images
    markdown = (folder / "report" / "report.md").read_text()
    assert "| **holds** | fails | 3 holds |" in markdown


def test_without_auto_attack_nothing_is_said_of_it(tmp_path, make_study, page_of):
    folder = make_study(tmp_path, ["P10_std"])
    write_report(folder)
    assert sentence(read_results(folder), MASK_DICE) == ""
    report = folder / "report"
    claims = json.loads((report / "claims.json").read_text())
    assert all("auto_verdict" not in claim for claim in claims)
    assert "auto" not in (report / "claims.csv").read_text() + (report / "table3.csv").read_text()
    without_recipe = page_of(report).text.split("Run times Training")[0]
    assert "auto_attack" not in without_recipe
