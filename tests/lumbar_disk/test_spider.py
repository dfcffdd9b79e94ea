import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
from typer.testing import CliRunner

from lumbar_disk import spider
from lumbar_disk.cli import app
from lumbar_disk.discs import LEVELS, crops
from lumbar_disk.outlines import signed_area

# The phantom volume, in mm: an ellipse per disc, a canal behind; all of them on the middle slices alone.
SIZE_MM = np.array([12.0, 90.0, 180.0])  # left-right, front-back, up-down
CENTRES = {level: (35.0 + 2.0 * i, 150.0 - 28.0 * i) for i, level in enumerate(LEVELS)}  # y, z down
AXES = (16.0, 5.0)  # half axes of a disc


def volume(spacing, orientation="LPI"):
    """A synthetic image and mask of the given spacing (x, y, z), stored in the given orientation."""
    x, y, z = (np.arange(round(mm / step)) * step for mm, step in zip(SIZE_MM, spacing, strict=True))
    zz, yy, xx = np.meshgrid(z, y, x, indexing="ij")
    labels = np.where((np.abs(yy - 68) < 6) & (np.abs(xx - 6) < 4), 100, 0)
    for label, (cy, cz) in zip(spider.DISC_LABELS, CENTRES.values(), strict=True):
        inside = ((yy - cy) / AXES[0]) ** 2 + ((zz - cz) / AXES[1]) ** 2 < 1
        labels[inside & (np.abs(xx - 6) < 5)] = label
    image = 100 + 0.5 * yy + 0.2 * zz + xx + 40 * (labels > 200)
    made = []
    for array, kind in ((image, np.float32), (labels, np.uint8)):
        stored = sitk.GetImageFromArray(array.astype(kind))
        stored.SetSpacing([float(step) for step in spacing])
        stored.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))  # axes left, posterior, inferior
        stored.SetOrigin((-20.0, 30.0, 400.0))
        made.append(sitk.DICOMOrient(stored, orientation))
    return made


def stored(root, image, mask, patient="12", series="t2_SPACE"):
    paths = []
    for folder, item in (("images", image), ("masks", mask)):
        (root / folder).mkdir(exist_ok=True)
        paths.append(root / folder / f"{patient}_{series}.mha")
        sitk.WriteImage(item, str(paths[-1]))
    return paths


def test_the_middle_slice_and_its_outlines_are_those_of_the_known_geometry(tmp_path):
    one = spider.read_patient(*stored(tmp_path, *volume((1.0, 0.5, 0.5))))
    assert (one.patient, one.pixel_mm, one.image.shape) == ("12", 0.5, (360, 180))
    assert tuple(one.outlines) == LEVELS
    for level, outline in one.outlines.items():
        assert abs(signed_area(outline)) * 0.25 == pytest.approx(np.pi * AXES[0] * AXES[1], rel=0.02)
        middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
        np.testing.assert_allclose(middle * 0.5, CENTRES[level], atol=0.26)
    np.testing.assert_allclose(np.diff(one.image[0, :100]), 0.25, atol=1e-4)  # columns run to the back
    assert one.image[300, 0] > one.image[0, 0]  # rows run down


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "ASL", "SAR", "IRP", "RPI"])
def test_any_stored_orientation_gives_the_same_slice(tmp_path, orientation):
    expected = spider.read_patient(*stored(tmp_path, *volume((1.0, 0.5, 0.5))))
    one = spider.read_patient(*stored(tmp_path, *volume((1.0, 0.5, 0.5), orientation)))
    np.testing.assert_array_equal(one.image, expected.image)
    assert one.pixel_mm == pytest.approx(expected.pixel_mm)
    for level in LEVELS:
        np.testing.assert_allclose(one.outlines[level], expected.outlines[level])


@pytest.mark.parametrize("spacing", [(1.0, 0.5, 1.0), (1.0, 1.0, 0.5), (1.0, 0.45, 0.6)])
def test_oblong_pixels_become_squares(tmp_path, spacing):
    one = spider.read_patient(*stored(tmp_path, *volume(spacing, "PIR")))
    fine = min(spacing[1:])
    assert one.pixel_mm == pytest.approx(fine)
    rows, columns = (
        (round(mm / step) - 1) * step / fine + 1
        for mm, step in zip(SIZE_MM[:0:-1], spacing[:0:-1], strict=True)
    )
    assert one.image.shape == (pytest.approx(rows, abs=1), pytest.approx(columns, abs=1))
    np.testing.assert_allclose(np.diff(one.image[:20, 0]), 0.2 * fine, atol=1e-4)  # mm for mm, down
    np.testing.assert_allclose(np.diff(one.image[0, :20]), 0.5 * fine, atol=1e-4)  # and to the back
    for level, outline in one.outlines.items():
        assert abs(signed_area(outline)) * fine**2 == pytest.approx(np.pi * AXES[0] * AXES[1], rel=0.04)
        middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
        np.testing.assert_allclose(middle * fine, CENTRES[level], atol=0.51)
    disc = crops([one], size=64)  # the outline lies on the bright disc, not beside it
    inside = disc.images[disc.masks > 0].mean()
    assert inside > 0.5 + disc.images[disc.masks == 0].mean() / 2


def test_a_missing_disc_is_left_out_with_a_reason_and_a_sliver_too(tmp_path, caplog):
    image, mask = volume((1.0, 0.5, 0.5))
    labels = sitk.GetArrayFromImage(mask)
    labels[labels == 203] = 0
    labels[labels == 205] = 0
    labels[4:8, 10:14] = 205
    changed = sitk.GetImageFromArray(labels)
    changed.CopyInformation(mask)
    one = spider.read_patient(*stored(tmp_path, image, changed))
    assert set(one.outlines) == set(LEVELS) - {"L3/L4", "L1/L2"}
    assert "L3/L4 left out: label 203 covers 0 mm²" in caplog.text
    assert "L1/L2 left out: label 205 covers 4 mm²" in caplog.text


def test_of_two_components_the_larger_one_is_the_disc(tmp_path):
    image, mask = volume((1.0, 0.5, 0.5))
    labels = sitk.GetArrayFromImage(mask)
    labels[5:15, 10:20] = 201
    changed = sitk.GetImageFromArray(labels)
    changed.CopyInformation(mask)
    one = spider.read_patient(*stored(tmp_path, image, changed))
    assert one.outlines["L5/S1"][:, 1].min() > 200


def test_patients_come_in_natural_order_and_one_series_alone(tmp_path):
    pair = volume((4.0, 1.5, 1.5))
    for patient, series in (("100", "t2_SPACE"), ("9", "t2_SPACE"), ("21", "t2_SPACE"), ("9", "t2")):
        stored(tmp_path, *pair, patient=patient, series=series)
    assert [one.patient for one in spider.read(tmp_path)] == ["9", "21", "100"]
    assert [one.patient for one in spider.read(tmp_path, "t2")] == ["9"]


def without_mask(root):
    _, mask = stored(root, *volume((4.0, 1.5, 1.5)))
    mask.unlink()


def of_another_size(root):
    image, mask = volume((4.0, 1.5, 1.5))
    stored(root, image, mask[:, :-3, :])


def shifted(root):
    image, mask = volume((4.0, 1.5, 1.5))
    mask.SetOrigin((0.0, 0.0, 0.0))
    stored(root, image, mask)


def without_discs(root):
    image, mask = volume((4.0, 1.5, 1.5))
    stored(root, image, mask * (mask < 200))


def with_fractions(root):
    image, mask = volume((4.0, 1.5, 1.5))
    stored(root, image, sitk.Cast(mask, sitk.sitkFloat32) * 0.7)


def with_colours(root):
    image, mask = volume((4.0, 1.5, 1.5))
    stored(root, sitk.Compose(image, image), mask)


def broken(root):
    image, _ = stored(root, *volume((4.0, 1.5, 1.5)))
    image.write_text("not an image")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda root: None, FileNotFoundError, r"no images/\*_t2_SPACE.mha under .*Expected SPIDER's layout"),
        (without_mask, FileNotFoundError, r"missing file is .*masks/12_t2_SPACE.mha.*Download the masks"),
        (
            of_another_size,
            ValueError,
            r"masks/12_t2_SPACE.mha is not on the grid of .*size.*Resample the mask",
        ),
        (shifted, ValueError, r"masks/12_t2_SPACE.mha is not on the grid of .*origin.*Resample the mask"),
        (
            without_discs,
            ValueError,
            r"masks/12_t2_SPACE.mha: no lumbar disc.*expected labels 201.*found \[0, 100\]",
        ),
        (with_fractions, ValueError, r"masks/12_t2_SPACE.mha: a mask holds whole numbers.*original file"),
        (with_colours, ValueError, r"images/12_t2_SPACE.mha: expected a volume of 3 dimensions.*2 values"),
        (broken, ValueError, r"images/12_t2_SPACE.mha: cannot be read as an image; download it again"),
    ],
)
def test_errors_name_the_file_and_say_what_to_do(tmp_path, make, error, message):
    make(tmp_path)
    with pytest.raises(error, match=message):
        spider.read(tmp_path)


def test_the_demo_reads_the_layout_and_fingerprints_its_files(tmp_path):
    for patient in ("1", "2"):
        stored(tmp_path, *volume((4.0, 1.0, 1.0)), patient=patient)
    small = ["--test-patients=1", "--size=64", "--width=2", "--steps=1", "--attack-steps=1"]
    words = ["demo", "--data=spider", f"--root={tmp_path}", f"--out={tmp_path / 'out'}", *small]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    sources = json.loads((tmp_path / "out" / "summary.json").read_text())["data"]["sources"]
    assert set(sources["2"]) == {"images/2_t2_SPACE.mha", "masks/2_t2_SPACE.mha"}
    assert all(len(digest) == 64 for digest in sources["2"].values())


def test_real_patients():
    folder = os.environ.get("LUMBAR_DATA")
    if not folder:
        pytest.skip("real images: set LUMBAR_DATA to the folder that holds spider/")
    slices = spider.read(Path(folder) / "spider")
    assert len(slices) == 30
    for one in slices:
        assert tuple(one.outlines) == LEVELS
        heights = [outline[:, 1].mean() for outline in one.outlines.values()]
        assert heights == sorted(heights, reverse=True)  # L5/S1 lowest
        lengths = [
            np.linalg.norm(np.ptp(outline, axis=0)) * one.pixel_mm for outline in one.outlines.values()
        ]
        assert 18 < min(lengths) < max(lengths) < 65  # mm
        middles = np.array([outline.mean(axis=0) for outline in one.outlines.values()])
        canal = [one.image[int(y), int(x) : int(x + 45 / one.pixel_mm)].max() for x, y in middles[1:]]
        assert min(canal) > np.median(one.image)  # cerebrospinal fluid is bright behind the discs
    discs = crops(slices)
    assert len(discs) == 150
    assert discs.masks.mean(dim=(1, 2, 3)).min() > 0.015
