import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
import torch
from skimage.draw import polygon2mask
from skimage.transform import SimilarityTransform, warp
from typer.testing import CliRunner

from advreg import contour_dice
from lumbar_disk._core.files import sha256
from lumbar_disk.cli import app
from lumbar_disk.data import (
    LEVELS,
    Discs,
    Options,
    _prepare,
    build,
    counts,
    crop,
    cropped,
    crops,
    landmarks,
    prepare,
    read_spider,
    read_spider_slices,
    read_spider_volume,
)
from lumbar_disk.data import _spider as spider
from lumbar_disk.data._outlines import signed_area

# The phantom volume, in mm: an ellipse per disc, a canal behind; all of them on the middle slices alone.
SIZE_MM = np.array([12.0, 90.0, 180.0])  # left-right, front-back, up-down
CENTRES = {level: (35.0 + 2.0 * i, 150.0 - 28.0 * i) for i, level in enumerate(LEVELS)}  # y, z down
AXES = (16.0, 5.0)  # half axes of a disc


def volume(spacing, orientation="LPI", growth=0.0):
    """A synthetic image and mask of the given spacing (x, y, z), stored in the given orientation.

    Each disc is longer and thicker than the one below it by `growth`, the length more than the thickness.
    """
    x, y, z = (np.arange(round(mm / step)) * step for mm, step in zip(SIZE_MM, spacing, strict=True))
    zz, yy, xx = np.meshgrid(z, y, x, indexing="ij")
    labels = np.where((np.abs(yy - 68) < 6) & (np.abs(xx - 6) < 4), 100, 0)
    for i, (label, (cy, cz)) in enumerate(zip(spider.DISC_LABELS, CENTRES.values(), strict=True)):
        long, thick = AXES[0] * (1 + i * growth), AXES[1] * (1 + i * i * growth / 8)
        inside = ((yy - cy) / long) ** 2 + ((zz - cz) / thick) ** 2 < 1
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
    one = read_spider_volume(*stored(tmp_path, *volume((1.0, 0.5, 0.5))))
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
    expected = read_spider_volume(*stored(tmp_path, *volume((1.0, 0.5, 0.5))))
    one = read_spider_volume(*stored(tmp_path, *volume((1.0, 0.5, 0.5), orientation)))
    np.testing.assert_array_equal(one.image, expected.image)
    assert one.pixel_mm == pytest.approx(expected.pixel_mm)
    for level in LEVELS:
        np.testing.assert_allclose(one.outlines[level], expected.outlines[level])


@pytest.mark.parametrize("spacing", [(1.0, 0.5, 1.0), (1.0, 1.0, 0.5), (1.0, 0.45, 0.6)])
def test_oblong_pixels_become_squares(tmp_path, spacing):
    one = read_spider_volume(*stored(tmp_path, *volume(spacing, "PIR")))
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
        assert abs(signed_area(outline)) * fine**2 == pytest.approx(np.pi * AXES[0] * AXES[1], rel=0.05)
        middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
        np.testing.assert_allclose(middle * fine, CENTRES[level], atol=0.51)
    disc = crops([one], size=64)  # the outline lies on the bright disc, not beside it
    inside = disc.images[disc.masks > 0].mean()
    assert inside > 0.5 + disc.images[disc.masks == 0].mean() / 2


def changed(mask, change):
    """The mask with its labels changed in place, as an array (inferior, posterior, left)."""
    labels = sitk.GetArrayFromImage(mask)
    change(labels)
    made = sitk.GetImageFromArray(labels)
    made.CopyInformation(mask)
    return made


def without_l34(labels):
    labels[labels == 203] = 0


def with_a_sliver(labels):
    labels[labels == 205] = 0
    labels[4:8, 10:14] = 205


def cut_by_the_border(labels):
    labels[270:290, :30] = 201


def in_two_places(labels):
    labels[5:25, 10:20] = 204


@pytest.mark.parametrize(
    ("change", "level", "reason"),
    [
        (without_l34, "L3/L4", r"patient 12, L3/L4: its label covers 0 mm² \(0 pixels\)"),
        (with_a_sliver, "L1/L2", r"patient 12, L1/L2: its label covers 4 mm² \(16 pixels\).*at least 30 mm²"),
        (cut_by_the_border, "L5/S1", "patient 12, L5/S1: its mask touches the image's border"),
        (in_two_places, "L2/L3", "patient 12, L2/L3: its mask has 2 separate components"),
    ],
)
def test_a_disc_that_cannot_be_served_is_refused_by_name_and_the_others_are_kept(
    tmp_path, change, level, reason
):
    image, mask = volume((1.0, 0.5, 0.5))
    one = read_spider_volume(*stored(tmp_path, image, changed(mask, change)))
    assert set(one.outlines) == set(LEVELS) - {level}
    assert set(one.refused) == {level}
    assert re.search(reason, one.refused[level])
    discs, refused = cropped(one, size=64)
    assert len(discs) == 4
    assert refused == one.refused


def test_a_crumb_far_away_changes_nothing(tmp_path):
    image, mask = volume((1.0, 0.5, 0.5))
    clean = read_spider_volume(*stored(tmp_path, image, mask))

    def crumb(labels):
        labels[5:9, 10:14] = 201

    one = read_spider_volume(*stored(tmp_path, image, changed(mask, crumb)))
    np.testing.assert_allclose(one.outlines["L5/S1"], clean.outlines["L5/S1"])


def test_partly_visible_vertebrae_other_discs_and_16_bits_change_nothing(tmp_path):
    image, mask = volume((1.0, 0.5, 0.5))
    expected = read_spider_volume(*stored(tmp_path, image, mask))

    def more(labels):
        labels[:20, 5:60][labels[:20, 5:60] == 0] = 207
        labels[340:, 5:60, 0] = 109  # a lot of it on one lateral slice alone
        labels[:, 150:, 1] = 125

    wide = sitk.Cast(sitk.Round(image * 100), sitk.sitkInt16)
    one = read_spider_volume(*stored(tmp_path, wide, changed(sitk.Cast(mask, sitk.sitkUInt16), more)))
    np.testing.assert_allclose(one.image, 100 * expected.image, atol=0.51)
    for level in LEVELS:
        np.testing.assert_array_equal(one.outlines[level], expected.outlines[level])


def test_the_slice_is_chosen_by_canal_and_discs_and_not_by_its_number(tmp_path):
    image, mask = volume((1.0, 0.5, 0.5))

    def lateral(labels):  # discs remain on slices 8 to 10, the canal on 8 and 9
        labels[:, :, :8] = 0
        labels[:, 60:65, 8] = 0

    ramp = sitk.GetArrayFromImage(image)[0, 0]  # grows by 1 per slice
    one = read_spider_volume(*stored(tmp_path, image, changed(mask, lateral)))
    assert one.image[0, 0] == ramp[9]
    assert len(one.outlines) == 5


def discs_of(root, spacing):
    one = read_spider_volume(*stored(root, *volume(spacing)))
    return [crop(one, level) for level in LEVELS]


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    return discs_of(tmp_path_factory.mktemp("fine"), (1.0, 0.25, 0.25))


@pytest.mark.parametrize("spacing", [(1.0, 0.3, 1.2), (1.0, 1.2, 0.3), (4.0, 1.2, 1.2), (4.0, 0.9, 0.9)])
def test_outlines_depend_little_on_the_shape_of_pixels(tmp_path, fine, spacing):
    coarse = discs_of(tmp_path, spacing)
    for one, other in zip(fine, coarse, strict=True):
        apart = (one.contour - 63.5) * one.pixel_mm - (other.contour - 63.5) * other.pixel_mm
        # Crops are centred on their discs, so the landmarks are compared in mm from the disc's middle.
        assert np.linalg.norm(apart, axis=1).mean() < np.sqrt(0.5) * max(
            spacing[1:]
        )  # half a pixel, diagonally
    assert contour_dice(Discs.of(fine).contours, Discs.of(coarse).contours, size=(128, 128)).min() > 0.93


def test_a_patient_with_several_series_is_one_patient(tmp_path):
    pair = volume((4.0, 1.5, 1.5))
    for patient in ("9", "10"):
        for series in ("t1", "t2", "t2_SPACE"):
            stored(tmp_path, *pair, patient=patient, series=series)
    names = [image.name for image, _ in spider.files(tmp_path, "t2", "t1")]
    assert names == ["9_t2.mha", "9_t1.mha", "10_t2.mha", "10_t1.mha"]
    data = build(Options("spider", tmp_path, series=("t1", "t2"), size=32, test_patients=1))
    assert len(data.train) == len(data.test) == 10
    assert set(data.train.patients) | set(data.test.patients) == {"9", "10"}
    assert not set(data.train.patients) & set(data.test.patients)


OVERVIEW = (
    "sex,Subset,new_file_name\nF,training,1_t2.mha\nF,training,1_t1\nM,Validation,2_t2\nM,training,3_t2\n"
)


def test_the_overview_decides_the_split_and_rows_without_files_are_named(tmp_path, caplog):
    for patient in "12":
        stored(tmp_path, *volume((4.0, 1.5, 1.5)), patient=patient, series="t2")
    (tmp_path / "overview.csv").write_text(OVERVIEW)
    data = build(Options("spider", tmp_path, series=("t2",), size=32, test_patients=1))
    assert set(data.train.patients) == {"1"}
    assert set(data.test.patients) == {"2"}
    assert data.manifest["split"] == "by overview.csv"
    assert "overview.csv" in data.manifest["sources"]
    assert "1 rows have no file under images: 3_t2" in caplog.text


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("new_file_name,subset\n1_t2,training\n", "no row for 1 of 2 images: 2_t2.mha.*Add rows"),
        ("name,subset\n1_t2,training\n", "expected columns new_file_name, subset"),
        (
            "new_file_name,subset\n1_t2,training\n2_t2,hidden\n",
            "subset of 2_t2 is 'hidden'; expected one of .'training', 'validation'.",
        ),
        (
            "new_file_name,subset\n1_t2,training\n2_t2,training\n",
            "puts all 2 patients that have discs on one side, train",
        ),
    ],
)
def test_an_overview_that_decides_nothing_is_refused(tmp_path, table, message):
    for patient in "12":
        stored(tmp_path, *volume((4.0, 1.5, 1.5)), patient=patient, series="t2")
    (tmp_path / "overview.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        build(Options("spider", tmp_path, series=("t2",), size=32))


def test_a_patient_on_both_sides_is_refused(tmp_path):
    images = [tmp_path / "1_t1.mha", tmp_path / "1_t2.mha"]
    (tmp_path / "overview.csv").write_text("new_file_name,subset\n1_t1,training\n1_t2,validation\n")
    with pytest.raises(ValueError, match="series of patient 1 on both sides"):
        spider.overview(tmp_path / "overview.csv", images)


def test_a_table_that_lies_elsewhere_decides_in_place_of_the_roots(tmp_path):
    root, table = tmp_path / "data", tmp_path / "far" / "split.csv"
    root.mkdir()
    for patient in "12":
        stored(root, *volume((4.0, 1.5, 1.5)), patient=patient)
    (root / "overview.csv").write_text("new_file_name,subset\n1_t2_SPACE,training\n2_t2_SPACE,validation\n")
    options = Options("spider", root, size=32, overview=table)
    with pytest.raises(
        FileNotFoundError, match=r"split.csv is no file. Expected SPIDER's overview.csv.*Download"
    ):
        build(options)
    table.parent.mkdir()
    table.write_text("new_file_name,subset\n1_t2_SPACE,validation\n2_t2_SPACE,training\n")
    manifest, _ = prepare(options, tmp_path / "d.npz")
    assert (manifest["train_patients"], manifest["test_patients"]) == (["2"], ["1"])
    assert manifest["split"] == "by split.csv"
    assert manifest["options"]["overview"] == "split.csv"
    assert manifest["options"]["test_patients"] is None  # none were drawn
    assert "overview.csv" not in manifest["sources"]
    assert manifest["sources"]["split.csv"]["sha256"] == sha256(table)
    assert prepare(options, tmp_path / "d.npz")[1] == []
    table.write_text("new_file_name,subset\n1_t2_SPACE,training\n2_t2_SPACE,validation\n")
    assert prepare(options, tmp_path / "d.npz")[1] == ["split.csv has changed"]
    table.write_text("name,side\n")
    with pytest.raises(ValueError, match=r"split.csv: expected columns new_file_name, subset"):
        build(options)


def with_slice_4_the_best(labels):
    """Slices 3 to 9 are alike but for this: the third has no canal, and those from the fifth on no L4/L5."""
    labels[:, :, 3][labels[:, :, 3] == 100] = 0
    labels[:, :, 5:][labels[:, :, 5:] == 202] = 0


def test_slices_beside_the_middle_have_their_own_images_and_outlines(tmp_path):
    image, mask = volume((1.0, 0.5, 0.5))
    pair = stored(tmp_path, image, changed(mask, with_slice_4_the_best))
    slices = read_spider_slices(*pair, 3)
    assert [one.offset for one in slices] == [0, -1, 1]
    best = read_spider_volume(*pair)
    np.testing.assert_array_equal(slices[0].image, best.image)
    ramp = sitk.GetArrayFromImage(image)[0, 0]  # grows by 1 per slice
    assert [one.image[0, 0] for one in slices] == [ramp[4], ramp[3], ramp[5]]
    assert [len(one.outlines) for one in slices] == [5, 5, 4]
    assert set(slices[2].refused) == {"L4/L5"}
    assert "patient 12, L4/L5, slice +1: its label covers 0 mm²" in slices[2].refused["L4/L5"]
    discs, refused = cropped(slices[1], size=32)
    assert {disc.offset for disc in discs} == {-1}
    assert not refused
    assert [one.offset for one in read_spider_slices(*pair, 25)][:3] == [0, -1, 1]
    assert len(read_spider_slices(*pair, 25)) == 12  # all that there are


def test_more_slices_give_more_training_discs_and_the_same_test_set(tmp_path, caplog):
    for patient in "123":
        image, mask = volume((1.0, 1.5, 1.5))
        stored(tmp_path, image, changed(mask, with_slice_4_the_best), patient=patient)
    options = Options("spider", tmp_path, size=32, test_patients=1)
    one, three = build(options), build(replace(options, slices=3))
    assert three.manifest["test_patients"] == one.manifest["test_patients"]
    assert torch.equal(three.test.images, one.test.images)
    assert torch.equal(three.test.contours, one.test.contours)
    assert (len(one.train), len(three.train)) == (10, 28)
    assert not set(three.train.patients) & set(three.test.patients)
    listed = three.manifest["discs"]
    assert {disc["slice"] for disc in listed if disc["split"] == "test"} == {0}
    assert sum(disc["slice"] == 1 for disc in listed) == 8
    assert sum(disc["slice"] == -1 for disc in listed) == 10
    assert {one["level"] for one in three.manifest["refused"]} == {"L4/L5, slice +1"}
    assert (
        "images/1_t2_SPACE.mha, L4/L5, slice +1 refused: patient 1, L4/L5, slice +1: its label" in caplog.text
    )
    assert {disc["slice"] for disc in one.manifest["discs"]} == {0}


@pytest.mark.parametrize("slices", [0, 2, -1])
def test_an_even_number_of_slices_is_refused(tmp_path, slices):
    with pytest.raises(ValueError, match=f"slices must be odd: 1 for .* got {slices}"):
        build(Options("spider", tmp_path, slices=slices))
    with pytest.raises(ValueError, match="slices must be odd"):
        read_spider_slices(tmp_path / "image.mha", tmp_path / "mask.mha", slices)


def test_hidden_files_are_skipped(tmp_path):
    for patient in "12":
        for path in stored(tmp_path, *volume((4.0, 1.5, 1.5)), patient=patient):
            path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    assert [one.patient for one in read_spider(tmp_path)] == ["1", "2"]
    data = build(Options("spider", tmp_path, size=32, test_patients=1))
    assert len(data.manifest["sources"]) == 4
    assert not data.manifest["refused"]


def of_another_size_too(root):
    image, mask = volume((4.0, 1.5, 1.5))
    return stored(root, image, mask[:, :-3, :], patient="3")


def spoilt(root):
    """Seven patients: the first and the last can be read, and what is between is bad in five ways."""
    pair = volume((4.0, 1.5, 1.5))
    paths = {patient: stored(root, *pair, patient=patient) for patient in "1234567"}
    paths["2"][0].write_text("no image")
    of_another_size_too(root)
    paths["4"][1].write_bytes(paths["4"][1].read_bytes()[:-200])
    paths["5"][1].unlink()
    stored(root, pair[0], pair[1] * (pair[1] < 200), patient="6")


BAD = {
    "2": "images/2_t2_SPACE.mha: cannot be read as an image; download it again",
    "3": "masks/3_t2_SPACE.mha is not on the grid of",
    "4": "masks/4_t2_SPACE.mha: cannot be read as an image",
    "5": "masks/5_t2_SPACE.mha is missing; each image needs the mask",
    "6": "masks/6_t2_SPACE.mha: no lumbar disc",
}


def test_volumes_that_cannot_be_read_are_all_refused_by_name_and_the_others_are_kept(tmp_path, caplog):
    root, path = tmp_path / "data", tmp_path / "d.npz"
    root.mkdir()
    spoilt(root)
    manifest, _ = prepare(Options("spider", root, size=32, test_patients=1), path)
    assert {*manifest["train_patients"], *manifest["test_patients"]} == {"1", "7"}
    assert [one["source"] for one in manifest["refused"]] == [f"images/{n}_t2_SPACE.mha" for n in BAD]
    for one, reason in zip(manifest["refused"], BAD.values(), strict=True):
        assert one["level"] is None
        assert reason in one["reason"]
        assert f"{one['source']} refused: {one['reason']}" in caplog.text
    assert counts(manifest).endswith("refused 0 discs and 5 images whole")
    assert "masks/5_t2_SPACE.mha" not in manifest["sources"]
    options = Options("spider", root, size=32, test_patients=1)
    assert prepare(options, path)[1] == []
    stored(root, *volume((4.0, 1.5, 1.5)), patient="5")  # the mask has come
    again, reasons = prepare(options, path)
    assert "masks/5_t2_SPACE.mha is new" in reasons
    assert len(again["refused"]) == 4


def test_what_reads_a_folder_names_each_bad_volume_and_raises_only_if_none_is_left(tmp_path, caplog):
    spoilt(tmp_path)
    assert [one.patient for one in read_spider(tmp_path)] == ["1", "7"]
    assert all(f"refused: {tmp_path}/{reason}" in caplog.text for reason in BAD.values())
    for patient in "17":
        for folder in ("images", "masks"):
            (tmp_path / folder / f"{patient}_t2_SPACE.mha").unlink()
    for read in (read_spider, lambda root: build(Options("spider", root))):
        with pytest.raises(ValueError, match=r"no volume can be read|every disc was refused") as error:
            read(tmp_path)
        assert all(reason in str(error.value) for reason in BAD.values())


def test_a_file_that_may_not_be_read_is_refused_and_looked_at_again(tmp_path, monkeypatch):
    root, path = tmp_path / "data", tmp_path / "d.npz"
    root.mkdir()
    for patient in "123":
        stored(root, *volume((4.0, 1.5, 1.5)), patient=patient)
    options = Options("spider", root, size=32, test_patients=1)

    def denied(file):
        if file.name.startswith("2"):
            raise PermissionError(13, "Permission denied", str(file))
        return sha256(file)

    read = spider.read_spider_slices

    def refusing(image, *more):
        return read(image, *more) if denied(image) else None

    with monkeypatch.context() as patched:
        patched.setattr(_prepare, "sha256", denied)
        patched.setattr(spider, "read_spider_slices", refusing)
        manifest, _ = prepare(options, path)
        assert [one["source"] for one in manifest["refused"]] == ["images/2_t2_SPACE.mha"]
        assert prepare(options, path)[1] == []
    manifest, reasons = prepare(options, path)
    assert reasons == ["images/2_t2_SPACE.mha has changed", "masks/2_t2_SPACE.mha has changed"]
    assert not manifest["refused"]


def test_patients_come_in_natural_order_and_one_series_alone(tmp_path):
    pair = volume((4.0, 1.5, 1.5))
    for patient, series in (("100", "t2_SPACE"), ("9", "t2_SPACE"), ("21", "t2_SPACE"), ("9", "t2")):
        stored(tmp_path, *pair, patient=patient, series=series)
    assert [one.patient for one in read_spider(tmp_path)] == ["9", "21", "100"]
    assert [one.patient for one in read_spider(tmp_path, "t2")] == ["9"]


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
        (without_mask, ValueError, r"masks/12_t2_SPACE.mha is missing; each image.*Download the masks"),
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
        read_spider(tmp_path)


def test_the_demo_reads_the_layout_and_fingerprints_its_files(tmp_path):
    for patient in ("1", "2"):
        stored(tmp_path, *volume((4.0, 1.0, 1.0), growth=0.05), patient=patient)
    small = ["--test-patients=1", "--size=64", "--width=2", "--steps=1", "--attack-steps=1"]
    words = ["demo", "--data=spider", f"--root={tmp_path}", f"--out={tmp_path / 'out'}", *small]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    sources = json.loads((tmp_path / "out" / "summary.json").read_text())["data"]["sources"]
    assert set(sources) == {f"{folder}/{n}_t2_SPACE.mha" for folder in ("images", "masks") for n in "12"}
    assert all(len(one["sha256"]) == 64 for one in sources.values())


@pytest.fixture(scope="module")
def real():
    """The slice of each real patient, and its labels as another reader finds them."""
    folder = os.environ.get("LUMBAR_DATA")
    if not folder:
        pytest.skip("real images: set LUMBAR_DATA to the folder that holds spider/")
    pairs = spider.files(Path(folder) / "spider")
    return [(read_spider_volume(*pair), labels_of(pair[1])) for pair in pairs]


def labels_of(mask):
    labels = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(mask), spider.ORIENTATION))
    return labels[:, :, np.isin(labels, [100, *spider.DISC_LABELS]).sum(axis=(0, 1)).argmax()]


def test_real_patients(real):
    slices = [one for one, _ in real]
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


@pytest.mark.parametrize("upright", [True, False])
def test_contours_of_real_crops_give_back_the_mask(real, upright):
    values = []
    for one, labels in real:
        for label, level in spider.DISC_LABELS.items():
            disc = crop(one, level, upright=upright)
            to_slice = SimilarityTransform.from_estimate(disc.contour, landmarks(one.outlines[level]))
            assert (abs(to_slice.rotation) < 1e-4) != upright
            assert to_slice.scale * one.pixel_mm == pytest.approx(disc.pixel_mm, rel=1e-4)
            shown = warp((labels == label).astype(float), to_slice, output_shape=(128, 128), order=1)
            inside = polygon2mask((128, 128), disc.contour[:, ::-1])
            values.append(2 * (inside & (shown > 0.5)).sum() / (inside.sum() + (shown > 0.5).sum()))
    assert len(values) == 150
    assert np.median(values) >= 0.98
    assert min(values) >= 0.93


def test_spiders_own_table_and_more_slices_of_real_patients(tmp_path):
    folder = os.environ.get("LUMBAR_DATA")
    if not folder:
        pytest.skip("real images: set LUMBAR_DATA to the folder that holds spider/")
    table = Path(folder) / "spider_overview.csv"
    sides = {"train": ["7", "18", "22", "41"], "test": ["11", "35"]}
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in (f"{patient}_t2_SPACE.mha" for patients in sides.values() for patient in patients):
            (tmp_path / kind / name).symlink_to(Path(folder).resolve() / "spider" / kind / name)
    one, three = (build(Options("spider", tmp_path, size=64, overview=table, slices=n)) for n in (1, 3))
    assert {side: one.manifest[f"{side}_patients"] for side in sides} == sides
    assert torch.equal(one.test.images, three.test.images)
    assert (len(one.train), len(three.train)) == (20, 45)
    (refused,) = three.manifest["refused"]
    assert refused["level"] == "L5/S1, slice +1"
