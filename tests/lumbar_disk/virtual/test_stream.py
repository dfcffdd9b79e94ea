"""The stream: repeatable sample by sample, and made of what the paper says."""

import pytest
import torch
from torch.utils.data import DataLoader

from lumbar_disk.data import plausible
from lumbar_disk.virtual import ShapeModel, Stream, VirtualDiscs, border_anchors, fit_splines, warp


def test_a_sample_is_the_same_bits_whatever_the_batch(stream):
    whole = stream.at(torch.arange(40))
    for part in (torch.tensor([17]), torch.tensor([39, 3, 20]), torch.arange(5, 30)):
        some = stream.at(part)
        assert torch.equal(some.images, whole.images[part])
        assert torch.equal(some.contours, whole.contours[part])
        assert torch.equal(some.source, whole.source[part])
    far = stream.at(torch.tensor([123_456]))
    assert torch.equal(far.images, stream.at(torch.arange(123_450, 123_460)).images[6:7])


def test_seeds_and_places_give_other_samples(stream):
    first, other = stream.at(torch.arange(8)), Stream(stream.discs, stream.model, seed=12).at(torch.arange(8))
    assert not any(torch.equal(a, b) for a, b in zip(first.contours, other.contours, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.contours, first.contours[1:], strict=False))


def test_a_sample_is_a_real_image_bent_to_a_virtual_shape(stream):
    samples = stream.at(torch.arange(12))
    real = stream.discs.take(samples.source.tolist())
    tps = fit_splines(samples.contours, real.contours, anchors=border_anchors(stream.size))
    exact = warp(real.images, tps, exact=True)
    assert (samples.images - exact).abs().max() < 0.02
    assert plausible(samples.contours, stream.size).all()
    assert ((samples.images >= 0) & (samples.images <= 1)).all()
    assert torch.equal(samples.target()["contour"], samples.contours)
    codes = stream.model.encode(samples.contours)
    assert codes.abs().max() <= 2 + 1e-4


def test_textures_are_drawn_evenly_and_apart_from_shapes(stream):
    source = stream._sources(torch.arange(20_000))
    counts = torch.bincount(source, minlength=len(stream.discs)).double()
    assert ((counts - counts.mean()).abs() < 5 * counts.mean().sqrt()).all()
    first = stream.model.encode(stream.model.sample(stream.seed, torch.arange(20_000)))[:, 0]
    assert abs(torch.corrcoef(torch.stack([source.double(), first]))[0, 1]) < 0.03


def test_implausible_shapes_are_redrawn_and_counted(stream):
    wild = ShapeModel(stream.model.mean, stream.model.modes, 4 * stream.model.deviations, stream.model.shares)
    loose = Stream(stream.discs, wild, seed=1)
    index = torch.arange(64)
    first = plausible(wild.sample(1, index), loose.size)
    samples = loose.at(index)
    assert not first.all()
    assert torch.equal(samples.redrawn == 0, first)
    assert plausible(samples.contours, loose.size).all()
    report = loose.plausibility(64)
    assert report["implausible"] == pytest.approx(1 - first.double().mean().item())
    assert 0 < report["folds"] <= 1


def test_a_model_without_plausible_shapes_is_named(stream):
    impossible = ShapeModel(
        stream.model.mean + 1000, stream.model.modes, stream.model.deviations, stream.model.shares
    )
    with pytest.raises(ValueError, match=r"sample 5: 101 shapes in a row.*fewer components \(it has 5\)"):
        Stream(stream.discs, impossible).at(torch.tensor([5]))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on machines with fewer cores
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_and_resuming_do_not_change_the_order(stream, workers):
    data = VirtualDiscs(stream, batch=4, start=2, stop=21)
    with_workers = list(DataLoader(data, batch_size=None, num_workers=workers))
    assert [len(images) for images, _ in with_workers] == [4, 4, 4, 4, 3]
    straight = stream.at(torch.arange(2, 21))
    assert torch.equal(torch.cat([images for images, _ in with_workers]), straight.images)
    assert torch.equal(torch.cat([target["contour"] for _, target in with_workers]), straight.contours)


def test_wrong_stretches_are_refused(stream):
    with pytest.raises(ValueError, match="batch of at least 1"):
        VirtualDiscs(stream, batch=0)
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        VirtualDiscs(stream, batch=1, start=5, stop=4)
