import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
    with pytest.raises(ValueError, match=r"none that can be read: broken\.png"):
        read_images(tmp_path, 64)


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
