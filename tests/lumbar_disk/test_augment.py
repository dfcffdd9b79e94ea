"""The stream: repeatable sample by sample, made of what the paper says, and stored without loss."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader

from lumbar_disk import phantom
from lumbar_disk.augment import Stream, VirtualDiscs
from lumbar_disk.discs import crops
from lumbar_disk.shapes import ShapeModel, plausible
from lumbar_disk.storage import Stored, generate
from lumbar_disk.warps import border_anchors, fit, warp


@pytest.fixture(scope="module")
def stream():
    discs = crops([phantom.patient(3, number) for number in range(4)], 64)
    return Stream(discs, ShapeModel.fit(discs.contours, 5), seed=11)


def equal(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("images", "contours", "source", "redrawn")
    )


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
    tps = fit(samples.contours, real.contours, anchors=border_anchors(stream.size))
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


def test_storing_resumes_extends_and_repairs(stream, tmp_path):
    generate(stream, tmp_path, 10, shard=4, batch=3)
    names = sorted(path.name for path in tmp_path.glob("*.npz"))
    assert names == [f"samples-{a:09d}-{b:09d}.npz" for a, b in ((0, 4), (4, 8), (8, 10))]
    stored, live = Stored(tmp_path).at(torch.arange(10)), stream.at(torch.arange(10))
    assert (stored.images - live.images).abs().max() < 5e-4
    assert torch.equal(stored.contours, live.contours)
    untouched = (tmp_path / names[0]).stat().st_mtime_ns
    (tmp_path / names[1]).write_bytes(b"half a file")
    generate(stream, tmp_path, 11, shard=4)
    assert (tmp_path / names[0]).stat().st_mtime_ns == untouched
    assert len(Stored(tmp_path)) == 11
    assert len(list(tmp_path.glob("*.npz"))) == 3
    walked = torch.cat([samples.index for samples in Stored(tmp_path).batches(4)])
    assert torch.equal(walked, torch.arange(11))
    assert equal(Stored(tmp_path).at(torch.tensor([9, 0])), Stored(tmp_path).at(torch.tensor([9, 0])))


def test_another_stream_is_refused_by_what_differs(stream, tmp_path):
    generate(stream, tmp_path, 2, shard=2)
    with pytest.raises(ValueError, match="seed: then 11, now 12"):
        generate(Stream(stream.discs, stream.model, seed=12), tmp_path, 2, shard=2)
    with pytest.raises(ValueError, match="components: then 5, now 3"):
        generate(
            Stream(stream.discs, ShapeModel.fit(stream.discs.contours, 3), seed=11), tmp_path, 2, shard=2
        )
    with pytest.raises(ValueError, match="shard: then 2, now 4"):
        generate(stream, tmp_path, 2, shard=4)
    with pytest.raises(FileNotFoundError, match="has no sample 7; it holds 2"):
        Stored(tmp_path).at(torch.tensor([7]))
    with pytest.raises(FileNotFoundError, match="no stored samples"):
        len(Stored(tmp_path / "elsewhere"))


SCRIPT = """
import sys, pathlib, torch
torch.set_num_threads(1)
from lumbar_disk import phantom
from lumbar_disk.augment import Stream
from lumbar_disk.discs import crops
from lumbar_disk.shapes import ShapeModel
from lumbar_disk.storage import generate
discs = crops([phantom.patient(3, number) for number in range(4)], 64)
generate(Stream(discs, ShapeModel.fit(discs.contours, 5), seed=11), pathlib.Path(sys.argv[1]), 4000, shard=16)
"""


def test_a_killed_run_loses_and_doubles_nothing(stream, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("samples-*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = len(list(tmp_path.glob("samples-*.npz")))
    assert found >= 3
    generate(stream, tmp_path, 16 * (found + 2), shard=16)
    stored = Stored(tmp_path)
    assert len(stored) == 16 * (found + 2)
    index = torch.cat([samples.index for samples in stored.batches(16)])
    assert torch.equal(index, torch.arange(len(stored)))
    some = torch.tensor([0, 16 * found - 1, 16 * found, len(stored) - 1])
    assert torch.equal(stored.at(some).contours, stream.at(some).contours)
    assert json.loads((tmp_path / "stream.json").read_text())["seed"] == 11


def test_wrong_stretches_are_refused(stream):
    with pytest.raises(ValueError, match="batch of at least 1"):
        VirtualDiscs(stream, batch=0)
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        VirtualDiscs(stream, batch=1, start=5, stop=4)
