"""Augmentation: report, figures and samples."""

import json

import pytest
import torch
from PIL import Image

from lumbar_disk.data import crops, phantoms
from lumbar_disk.virtual import ShapeModel, Stored, Stream, _augment, augment, modes_figure, virtual_figure


@pytest.fixture(scope="module")
def discs():
    return crops(phantoms(4, seed=5), 64)


def test_report_figures_and_samples(discs, tmp_path, monkeypatch):
    monkeypatch.setattr(_augment, "LOOKED_AT", 20)
    found = augment(discs, tmp_path, components=4, count=6, command="words", manifest={"a": 1}, shard=4)
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
    monkeypatch.setattr(_augment, "LOOKED_AT", 5)
    found = augment(discs, tmp_path, components=3, count=0, command="", manifest={})
    assert found.shards == ()
    assert not list(tmp_path.glob("samples-*"))


def test_figure_two_shows_each_samples_own_source(discs):
    stream = Stream(discs, ShapeModel.fit(discs.contours, 3), seed=0)
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
