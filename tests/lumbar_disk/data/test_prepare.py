import json
import os
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from advreg.metrics import rasterise
from lumbar_disk.data import Options, build, counts, crops, load, phantom, phantoms, prepare

TINY = Options("phantom", size=32, patients=2, test_patients=1, seed=3)


@cache
def drawn(index):
    return phantom(1, index)


def folder(root, count=3):
    """Phantoms as a user's own folder; a disc of the first patient crosses itself."""
    for name in ("images", "contours"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        one = drawn(index)
        outlines = dict(one.outlines)
        if index == 0:
            outlines["bad"] = np.array([[60.0, 60], [100, 80], [100, 60], [60, 84], [50, 70]])
        np.save(root / "images" / f"p{index}.npy", one.image)
        np.savez(root / "contours" / f"p{index}.npz", pixel_mm=one.pixel_mm, **outlines)
    return Options("folder", root, size=32, test_patients=1)


def test_what_is_loaded_is_what_was_built(tmp_path):
    built = build(TINY)
    manifest, reasons = prepare(TINY, tmp_path / "new" / "d.npz", command="the words")
    assert reasons == [f"{tmp_path}/new/d.npz is not there yet"]
    loaded = load(tmp_path / "new" / "d.npz")
    assert loaded.manifest == json.loads(json.dumps(manifest))
    for one, other in ((built.train, loaded.train), (built.test, loaded.test)):
        for name in ("images", "contours", "masks", "pixel_mm"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert (one.patients, one.levels) == (other.patients, other.levels)
    assert torch.equal(loaded.train.masks[:, 0] > 0, rasterise(loaded.train.contours, (32, 32)))
    everyone = crops(phantoms(2, seed=3), size=32)
    expected = everyone.split(manifest["test_patients"])[1]
    assert torch.equal(loaded.test.images, expected.images)


def test_the_manifest_accounts_for_every_disc_file_and_refusal(tmp_path, caplog):
    options = folder(tmp_path / "own")
    manifest, _ = prepare(options, tmp_path / "d.npz", command="the words")
    assert manifest["command"] == "the words"
    assert set(manifest["versions"]) == {"python", "advreg", "numpy", "scipy"}
    assert manifest["options"] == {
        "data": "folder",
        "upright": True,
        "size": 32,
        "test_patients": 1,
        "seed": 0,
    }
    assert len(manifest["train_patients"]) == 2
    assert len(manifest["test_patients"]) == 1
    assert len(manifest["discs"]) == 15
    for disc in manifest["discs"]:
        assert disc["patient"] in manifest[f"{disc['split']}_patients"]
        assert disc["source"] == f"images/{disc['patient']}.npy"
        assert 0.9 < disc["pixel_mm"] < 2.5
    stat = (tmp_path / "own" / "images" / "p1.npy").stat()
    known = manifest["sources"]["images/p1.npy"]
    assert (known["bytes"], known["mtime_ns"], len(known["sha256"])) == (stat.st_size, stat.st_mtime_ns, 64)
    assert len(manifest["sources"]) == 6
    (refused,) = manifest["refused"]
    assert (refused["source"], refused["level"]) == ("images/p0.npy", "bad")
    assert f"images/p0.npy, bad refused: {refused['reason']}" in caplog.text
    assert counts(manifest).endswith("(1 of 3 patients, drawn with seed 0); refused 1 discs")


def test_an_unchanged_file_is_left_alone_and_its_refused_discs_are_named_again(tmp_path, caplog):
    options, path = folder(tmp_path / "own"), tmp_path / "d.npz"
    first, _ = prepare(options, path)
    caplog.clear()
    written = path.stat()
    os.utime(tmp_path / "own" / "images" / "p1.npy")  # a new time, but the same content
    began = time.perf_counter()
    again, reasons = prepare(options, path, command="other words")
    assert time.perf_counter() - began < 1
    assert not reasons
    assert again == first
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    assert "images/p0.npy, bad refused" in caplog.text


def changed_image(root, options):
    image = root / "images" / "p1.npy"
    np.save(image, np.load(image) + 1)
    return options


def new_pair(root, options):
    for name in ("images/p1.npy", "contours/p1.npz"):
        (root / name).with_stem("p9").write_bytes((root / name).read_bytes())
    return options


def gone_pair(root, options):
    for name in ("images/p1.npy", "contours/p1.npz"):
        (root / name).unlink()
    return options


def new_table(root, options):
    (root / "spacing.csv").write_text("name,pixel_mm\np1,0.5\n")
    return options


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (changed_image, ["images/p1.npy has changed"]),
        (new_pair, ["images/p9.npy is new", "contours/p9.npz is new"]),
        (gone_pair, ["images/p1.npy is gone", "contours/p1.npz is gone"]),
        (new_table, ["spacing.csv is new"]),
        (lambda root, options: replace(options, size=48), ["size: then 32, now 48"]),
        (lambda root, options: replace(options, seed=4), ["seed: then 0, now 4"]),
        (
            lambda root, options: replace(TINY, root=None),
            [
                "data: then 'folder', now 'phantom'",
                "seed: then 0, now 3",
                "patients: then None, now 2",
                *(f"{kind} is gone" for i in range(3) for kind in (f"images/p{i}.npy", f"contours/p{i}.npz")),
            ],
        ),
    ],
)
def test_a_change_rebuilds_the_file_and_is_named(tmp_path, change, expected):
    options, path = folder(tmp_path / "own"), tmp_path / "d.npz"
    prepare(options, path)
    options = change(tmp_path / "own", options)
    _, reasons = prepare(options, path)
    assert sorted(reasons) == sorted(expected)
    assert prepare(options, path)[1] == []
    built = build(options)
    assert torch.equal(load(path).train.images, built.train.images)


def rewritten(path, **changes):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {name: change(arrays[name]) for name, change in changes.items()}))


def edited(text, **changes):
    manifest = json.loads(text.tobytes()) | changes
    return np.frombuffer(json.dumps(manifest).encode(), dtype=np.uint8)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else"),
        flipped,
        lambda path: rewritten(path, images=lambda images: images * 0.5),
        lambda path: rewritten(path, manifest=lambda text: text[:-5]),
        lambda path: np.savez(path, other=np.zeros(3)),
        lambda path: np.save(path.with_suffix(".npy"), np.zeros(3)) or path.with_suffix(".npy").rename(path),
    ],
    ids=["truncated", "empty", "text", "bit", "array", "manifest", "archive", "npy"],
)
def test_a_damaged_file_is_an_error_that_names_it_and_the_remedy(tmp_path, damage):
    path = tmp_path / "d.npz"
    prepare(TINY, path)
    damage(path)
    before = path.read_bytes()
    message = "d.npz is damaged, or is not what it should be: .+ Delete it, or choose another"
    with pytest.raises(ValueError, match=message):
        load(path)
    with pytest.raises(ValueError, match=message):
        prepare(TINY, path)
    assert path.read_bytes() == before


def test_another_format_or_version_is_made_again_but_not_loaded(tmp_path):
    path = tmp_path / "d.npz"
    prepare(TINY, path)
    rewritten(path, manifest=lambda text: edited(text, format=0, versions={"advreg": "0.0.1"}))
    with pytest.raises(ValueError, match=r"d.npz is of format 0, and this version reads 1. Run"):
        load(path)
    _, reasons = prepare(TINY, path)
    assert reasons[0] == "format: then 0, now 1"
    assert reasons[1].startswith("advreg: then '0.0.1', now ")
    assert len(load(path).train) == 5
    with pytest.raises(FileNotFoundError, match=r"none.npz is not there. Make it with"):
        load(tmp_path / "none.npz")
    with pytest.raises(
        IsADirectoryError, match=r"is a folder; expected a file that `lumbar-disk prepare` wrote"
    ):
        load(tmp_path)


def test_the_real_data_are_read_again_in_under_a_second(tmp_path):
    data = os.environ.get("LUMBAR_DATA")
    if not data:
        pytest.skip("real images: set LUMBAR_DATA to the folder that holds spider/")
    options, path = Options("spider", Path(data) / "spider"), tmp_path / "d.npz"
    manifest, _ = prepare(options, path)
    assert len(manifest["discs"]) == 150
    assert not manifest["refused"]
    began = time.perf_counter()
    assert prepare(options, path)[1] == []
    assert len(load(path).test) == 30
    assert time.perf_counter() - began < 1
