"""What `lumbar-disk augment` writes."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lumbar_disk import phantom, virtual
from lumbar_disk.cli import app
from lumbar_disk.discs import crops
from lumbar_disk.figures import modes_figure, virtual_figure
from lumbar_disk.shapes import ShapeModel
from lumbar_disk.storage import Stored


@pytest.fixture(scope="module")
def discs():
    return crops([phantom.patient(5, number) for number in range(4)], 64)


def test_report_figures_and_samples(discs, tmp_path, monkeypatch):
    monkeypatch.setattr(virtual, "LOOKED_AT", 20)
    found = virtual.run(discs, tmp_path, components=4, count=6, command="words", manifest={"a": 1}, shard=4)
    assert [path.name for path in found.files] == ["augment.json", "figure2.png", "modes.png"]
    assert len(found.shards) == 2
    assert len(Stored(tmp_path)) == 6
    summary = json.loads((tmp_path / "augment.json").read_text())
    assert summary["command"] == "words"
    assert summary["data"] == {"a": 1}
    assert summary["explained"]["5"]["published"] == 0.822
    for components, share in found.explained.items():
        assert summary["explained"][str(components)]["ours"] == share
        assert share == pytest.approx(ShapeModel.fit(discs.contours, components).explained)
    assert sorted(found.explained) == [3, 4, 5, 10]
    assert set(found.plausibility[4]) == {"implausible", "leaves", "folds", "folded"}
    for path in found.files[1:]:
        with Image.open(path) as image:
            assert image.width > 400


def test_a_report_without_samples(discs, tmp_path, monkeypatch):
    monkeypatch.setattr(virtual, "LOOKED_AT", 5)
    found = virtual.run(discs, tmp_path, components=3, count=0, command="", manifest={})
    assert found.shards == ()
    assert not list(tmp_path.glob("samples-*"))


def test_figure_two_shows_each_samples_own_source(discs):
    stream = virtual.Stream(discs, ShapeModel.fit(discs.contours, 3), seed=0)
    samples = stream.at(torch.arange(3))
    axes = virtual_figure(discs, samples).axes
    assert len(axes) == 9
    for place in range(3):
        source = int(samples.source[place])
        left, middle, right = axes[3 * place : 3 * place + 3]
        assert discs.patients[source] in left.get_title()
        assert (left.images[0].get_array() == discs.images[source, 0].numpy()).all()
        assert (right.images[0].get_array() == samples.images[place, 0].numpy()).all()
        drawn = torch.from_numpy(middle.lines[1].get_xydata()[:-1]).float()
        torch.testing.assert_close(drawn, samples.contours[place])


@pytest.mark.parametrize("components", [1, 3, 7])
def test_modes_are_drawn_two_deviations_to_either_side(discs, components):
    model = ShapeModel.fit(discs.contours, components)
    axes = [axes for axes in modes_figure(model, (64, 64)).axes if axes.get_visible()]
    assert len(axes) == components
    low, middle, high = (torch.from_numpy(line.get_xydata()[:-1]) for line in axes[0].lines)
    torch.testing.assert_close(middle, model.mean)
    torch.testing.assert_close(high - low, 4 * model.deviations[0] * model.modes[0])


def test_the_commands_prepare_and_augment_follow_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(virtual, "LOOKED_AT", 10)
    prepared, out = tmp_path / "discs.npz", tmp_path / "virtual"
    words = [
        "--data",
        "phantom",
        "--patients",
        "4",
        "--test-patients",
        "1",
        "--size",
        "64",
        "--out",
        str(prepared),
    ]
    assert CliRunner().invoke(app, ["prepare", *words]).exit_code == 0
    words = ["augment", "--prepared", str(prepared), "--components", "3", "--count", "9", "--shard", "4"]
    result = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "SSM-P10" in result.output
    assert "82.2 %" in result.output
    assert "and 2 more shards" in result.output
    assert len(Stored(out)) == 9
    summary = json.loads((out / "augment.json").read_text())
    assert summary["stream"]["discs"] == 15  # the training discs alone
    again = CliRunner().invoke(app, [*words, "--seed", "1", "--out", str(out)])
    assert again.exit_code == 2
    assert "seed: then 0, now 1" in again.output
    missing = CliRunner().invoke(app, ["augment", "--prepared", str(tmp_path / "none.npz")])
    assert missing.exit_code == 2
    assert "lumbar-disk prepare" in missing.output
