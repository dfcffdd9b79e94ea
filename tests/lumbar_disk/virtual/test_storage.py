"""Samples on disk: stored without loss, by runs that are killed and begun again."""

import json
import time

import pytest
import torch

from lumbar_disk.virtual import ShapeModel, Stored, Stream, generate


def equal(a, b):
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("images", "contours", "source", "redrawn")
    )


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


def test_a_shard_that_is_damaged_while_it_is_used_is_named_with_the_remedy(stream, tmp_path):
    (shard,) = generate(stream, tmp_path, 4, shard=4)
    data = bytearray(shard.read_bytes())
    data[3000] ^= 1  # inside the images
    shard.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"samples-0.*npz is damaged, .*Bad CRC.*Delete it, and run the same"
    ):
        Stored(tmp_path).at(torch.arange(4))
    shard.unlink()
    generate(stream, tmp_path, 4, shard=4)
    assert len(Stored(tmp_path).at(torch.arange(4)).index) == 4


def test_a_killed_run_loses_and_doubles_nothing(forking, stream, tmp_path):
    process = forking.Process(target=generate, args=(stream, tmp_path, 4000), kwargs={"shard": 16})
    process.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("samples-*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -9  # it ran until then
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
