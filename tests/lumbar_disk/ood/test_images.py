import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lumbar_disk.cli import app
from lumbar_disk.ood import made_images, paint_out, read_images


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


def test_a_folder_of_folders_is_read_by_name_and_bad_files_are_named(tmp_path, caplog):
    ramp = np.tile(np.arange(100, dtype=np.uint8), (60, 1))
    picture(tmp_path / "lung" / "deep" / "a.png", ramp)
    picture(tmp_path / "lung" / "b.jpg", ramp)
    picture(tmp_path / "colour" / "c.png", np.stack([ramp, ramp, 0 * ramp], axis=2))
    picture(tmp_path / "colour" / "d.tif", (ramp * 300.0).astype(np.uint16))
    picture(tmp_path / "colour" / "flat.png", 0 * ramp)
    (tmp_path / "lung" / "broken.png").write_text("no picture")
    (tmp_path / "lung" / "notes.txt").write_text("left alone")
    colour, lung = read_images(tmp_path, 64)
    assert (colour.name, lung.name) == ("colour", "lung")
    assert lung.images.shape == colour.images.shape == (2, 1, 64, 64)
    for source in (colour, lung):
        assert source.images.amin() == 0
        assert source.images.amax() == 1
    across = lung.images[0, 0].mean(0)
    assert (across.diff() >= 0).all()  # the central square of a ramp, not mirrored or turned
    assert [reason.split(":")[0] for reason in lung.skipped] == ["broken.png"]
    assert "expected varied grey values; got 0 to 0" in colour.skipped[0]
    assert "broken.png" in caplog.text


def test_a_folder_without_readable_images_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_images(tmp_path / "nowhere", 64)
    with pytest.raises(ValueError, match="got none"):
        read_images(tmp_path, 64)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"none that can be read: broken\.png.*Mend them, or move them away"):
        read_images(tmp_path, 64)


RAMP = np.tile(np.arange(100, dtype=np.uint8), (60, 1))


def sized(width, height):
    """A PNG whose header claims another size."""

    def make(path):
        picture(path, RAMP)
        data = path.read_bytes()
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])

    return make


def cut(path):
    picture(path, np.random.default_rng(0).integers(0, 256, (60, 100), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:2000])


def frames(path):
    Image.fromarray(RAMP).save(path, save_all=True, append_images=[Image.fromarray(RAMP.T.copy())])


def nowhere(path):
    path.symlink_to(path.with_name("gone"))


BAD = {
    "cut.png": (cut, "truncated"),
    "cut.jpg": (cut, "truncated"),
    "cut.tif": (cut, ""),
    "empty.png": (lambda path: path.write_bytes(b""), "it is empty"),
    "text.png": (lambda path: path.write_text("no picture"), "cannot identify image file"),
    "script.png": (
        lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "identify",
    ),
    "moving.gif": (frames, "it holds 2 images; expected one"),
    "moving.png": (frames, "it holds 2 images; expected one"),
    "pages.tif": (frames, "it holds 2 images; expected one"),
    "zero.png": (sized(0, 60), ""),
    "bomb.png": (sized(30_000, 30_000), "decompression bomb"),
    "large.png": (sized(10_000, 10_000), "decompression bomb"),
    "nan.tif": (
        lambda path: picture(path, np.where(RAMP == 50, np.nan, RAMP).astype(np.float32)),
        "got nan to nan",
    ),
    "lab.tif": (lambda path: Image.new("LAB", (60, 60)).save(path), "conversion from LAB"),
    "flat.png": (lambda path: picture(path, 0 * RAMP), "expected varied grey values; got 0 to 0"),
    "layers.psd": (lambda path: path.write_bytes(b"8BPS"), "expected one of .png, .jpg"),
    "link.png": (nowhere, "No such file"),
    "pipe.png": (os.mkfifo, "it is no regular file"),
    "scan.dcm": (lambda path: path.write_bytes(b"DICM"), ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_named_counted_and_skipped(tmp_path, caplog, name):
    picture(tmp_path / "lung" / "good.png", RAMP)
    make, why = BAD[name]
    make(tmp_path / "lung" / name)
    (lung,) = read_images(tmp_path, 64)
    assert len(lung.images) == 1
    (skipped,) = lung.skipped
    assert skipped.startswith(f"{name}: ")
    assert why in skipped
    assert len(skipped) < 250
    assert f"lung skipped: {name}: " in caplog.text
    assert "lung: 1 of 2 pictures are skipped" in caplog.text


def test_a_source_of_bad_pictures_alone_ends_the_command_in_one_sentence(tmp_path, monkeypatch):
    picture(tmp_path / "pictures" / "lung" / "good.png", RAMP)
    for name in ("empty.png", "bomb.png"):
        (tmp_path / "pictures" / "brain").mkdir(exist_ok=True)
        BAD[name][0](tmp_path / "pictures" / "brain" / name)
    words = ["--data=phantom", "--size=smoke", f"--ood={tmp_path / 'pictures'}", f"--out={tmp_path / 'out'}"]
    result = CliRunner().invoke(app, ["ood", *words])
    assert result.exit_code == 2
    assert "brain: expected images" in result.stderr
    assert "empty.png: it is empty" in result.stderr
    assert "Mend them, or move them away." in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_pictures_of_every_depth_and_palette_give_the_same_image(tmp_path):
    deep = RAMP.astype(np.uint16) * 600
    big_endian = Image.frombytes("I;16B", (100, 60), deep.astype(">u2").tobytes())
    kinds = {
        "grey.png": Image.fromarray(RAMP),
        "deep.png": Image.fromarray(deep),
        "deep.tif": Image.fromarray(deep),
        "big.tif": big_endian,
        "float.tif": Image.fromarray(RAMP / np.float32(7)),
        "int.tif": Image.fromarray(RAMP.astype(np.int32) * 1000),
        "colour.png": Image.fromarray(np.stack([RAMP] * 3, 2)),
        "clear.png": Image.fromarray(RAMP).convert("LA"),
        "palette.png": Image.fromarray(RAMP).convert("P"),
        "one.gif": Image.fromarray(RAMP),
        "lossless.webp": Image.fromarray(RAMP).convert("RGB"),
    }
    for name, image in kinds.items():
        options = {"lossless": True} if name.endswith("webp") else {}
        image.save(tmp_path / name, **options)
    (source,) = read_images(tmp_path, 64)
    assert not source.skipped
    names = sorted(kinds)
    expected = source.images[names.index("grey.png")]
    for name, image in zip(names, source.images, strict=True):
        torch.testing.assert_close(image, expected, atol=2e-3, rtol=0, msg=name)


@pytest.mark.parametrize("name", ["uniform", "blocks", "painted", "Uniform"])
def test_a_folder_with_the_name_of_a_made_source_is_refused(tmp_path, name):
    picture(tmp_path / name / "a.png", RAMP)
    with pytest.raises(
        ValueError, match=f"images cannot be called {name}, which is the name of images that are"
    ):
        read_images(tmp_path, 64)
    shutil.rmtree(tmp_path / name)
    picture(tmp_path / "painted" / "a.png", RAMP)
    with pytest.raises(ValueError, match="images cannot be called painted"):
        read_images(tmp_path / "painted", 64)


def test_a_folder_inside_of_the_same_name_is_refused(tmp_path):
    picture(tmp_path / "lung" / "a.png", RAMP)
    picture(tmp_path / "lung" / "Lung" / "b.png", RAMP)
    with pytest.raises(ValueError, match=r"cannot be called Lung, which is the name of another.*Rename"):
        read_images(tmp_path / "lung", 64)


def test_the_folder_where_one_is_has_a_name(tmp_path, monkeypatch):
    picture(tmp_path / "lung" / "a.png", RAMP)
    monkeypatch.chdir(tmp_path / "lung")
    assert [source.name for source in read_images(Path(), 64)] == ["lung"]


def test_noise_and_blocks_belong_to_seed_and_place():
    few, many, other = (
        {source.name: source.images for source in made_images(count, 64, seed)}
        for count, seed in ((2, 0), (4, 0), (2, 1))
    )
    assert torch.equal(few["uniform"], many["uniform"][:2])
    assert not torch.equal(few["uniform"], other["uniform"])
    blocks = few["blocks"][0, 0]
    assert len(blocks.unique()) == 256
    assert torch.equal(blocks[:4, :4], blocks[:1, :1].expand(4, 4))


def test_painting_out_continues_the_surroundings():
    y, x = np.indices((40, 50)).astype(float)
    plane = 0.3 * x - 0.1 * y
    mask = (x - 25) ** 2 + (y - 20) ** 2 < 64
    hole = np.where(mask, 99.0, plane)
    np.testing.assert_allclose(paint_out(hole, mask), plane, atol=1e-9)  # planes are harmonic
    corner = (x < 6) & (y < 6)
    filled = paint_out(np.where(corner, 99.0, plane), corner)
    assert plane.min() <= filled.min() <= filled.max() <= plane.max()


@pytest.mark.skipif(
    "LUMBAR_DATA" not in os.environ, reason="real images: set LUMBAR_DATA to the folder that holds ood/"
)
def test_the_real_images_are_read():
    sources = read_images(Path(os.environ["LUMBAR_DATA"]) / "ood", 64)
    assert {source.name: len(source.images) for source in sources} == {
        "brain_mr": 8,
        "lung_ct": 24,
        "natural": 13,
    }
    assert not any(source.skipped for source in sources)
