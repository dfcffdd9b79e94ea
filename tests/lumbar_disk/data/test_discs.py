import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from skimage.draw import polygon2mask

from lumbar_disk.data import LEVELS, Disc, Discs, Slice, crop, cropped, crops, hold_out, landmarks

ANGLE = np.arange(720) * (np.pi / 360)


def ellipse(x, y, a, b, tilt):
    """The outline of a tilted ellipse, and its picture (inside 1, edge blended over a pixel)."""
    cos, sin = np.cos(tilt), np.sin(tilt)
    u, v = a * np.cos(ANGLE), b * np.sin(ANGLE)
    outline = np.stack([x + u * cos - v * sin, y + u * sin + v * cos], axis=1)
    row, column = np.indices((220, 200))
    across, down = (column - x) * cos + (row - y) * sin, -(column - x) * sin + (row - y) * cos
    level = np.hypot(across / a, down / b)
    slope = np.hypot(*np.gradient(level))
    return outline, np.clip(0.5 - (level - 1) / np.maximum(slope, 1e-6), 0, 1)


def the_slice(outline, image, patient="p"):
    return Slice(patient, (image * 900 + 50).astype(np.float32), 0.5, {"L4/L5": outline})


@settings(max_examples=30, deadline=None)
@given(
    x=st.floats(60, 140),
    y=st.floats(70, 150),
    a=st.floats(18, 50),
    ratio=st.floats(0.25, 0.5),
    tilt=st.floats(-0.9, 0.9),
    size=st.sampled_from([64, 128, 192]),
)
def test_the_contour_lies_where_the_picture_has_its_edge(x, y, a, ratio, tilt, size):
    outline, image = ellipse(x, y, a, ratio * a, tilt)
    disc = crop(the_slice(outline, image), "L4/L5", size=size)
    inside = polygon2mask((size, size), disc.contour[:, ::-1])
    shown = disc.image > 0.5
    assert 2 * (inside & shown).sum() / (inside.sum() + shown.sum()) > 0.97
    centre = [np.average(grid, weights=disc.image) for grid in np.indices((size, size))]
    coarse = size / (3 * a)  # crop pixels per pixel of the slice, whose picture is good to a twentieth
    error = np.argwhere(inside).mean(axis=0) - centre
    assert np.abs(error).max() < 0.05 + 0.05 * coarse  # half a crop pixel would show
    assert disc.pixel_mm == pytest.approx(0.5 * 1.5 * 2 * a / size, rel=2e-3)


def test_a_crop_of_the_images_own_scale_is_a_cut():
    image = np.random.default_rng(0).uniform(size=(200, 200)).astype(np.float32)
    outline = np.array([[60.5, 70.5], [100.5, 70.5], [100.5, 86.5], [60.5, 86.5]])  # centre 80.5, 78.5
    placed = landmarks(outline)
    square = 64 / pdist(placed).max()  # so that the crop has 64 pixels of the slice
    disc = crop(Slice("p", image, 0.5, {"L1/L2": outline}), "L1/L2", size=64, context=square, upright=False)
    cut = image[47:111, 49:113]
    np.testing.assert_allclose(disc.image, (cut - cut.min()) / (cut.max() - cut.min()), atol=2e-3)
    np.testing.assert_allclose(disc.contour, placed - [49, 47], atol=2e-3)


def test_pixels_beyond_the_slice_repeat_its_edge():
    image = np.tile(np.arange(60, dtype=np.float32)[:, None], (1, 60))
    outline = np.array([[1.0, 20.0], [41.0, 20.0], [41.0, 30.0], [1.0, 30.0]])
    disc = crop(Slice("p", image, 1.0, {"L1/L2": outline}), "L1/L2", size=64, context=2.0, upright=False)
    np.testing.assert_allclose(disc.image[:, 0], disc.image[:, 40], atol=1e-6)


@pytest.mark.parametrize("upright", [True, False])
def test_an_upright_crop_turns_with_its_disc(upright):
    alike = [crop(the_slice(*ellipse(100, 110, 40, 14, tilt)), "L4/L5", upright=upright) for tilt in (0, 0.6)]
    left, _, right, _ = alike[1].contour.reshape(4, 44, 2).mean(axis=1)
    tilt = np.arctan2(*(right - left)[::-1])
    assert tilt == pytest.approx(0 if upright else 0.6, abs=0.01)
    away = np.linalg.norm(alike[0].contour - alike[1].contour, axis=1).max()
    assert (away < 0.3) == upright
    assert (np.abs(alike[0].image - alike[1].image).mean() < 0.005) == upright
    assert alike[0].pixel_mm == pytest.approx(alike[1].pixel_mm, rel=1e-3)


def the_discs(patients):
    outline, image = ellipse(100, 110, 40, 12, 0.2)
    return crops([the_slice(outline, image, patient) for patient in patients], size=64)


def test_masks_are_the_contours_rasterised():
    discs = the_discs(["a", "b"])
    assert discs.images.shape == discs.masks.shape == (2, 1, 64, 64)
    assert discs.contours.shape == (2, 176, 2)
    assert discs.images.dtype == discs.masks.dtype == discs.contours.dtype == torch.float32
    for contour, mask in zip(discs.contours.double().numpy(), discs.masks, strict=True):
        np.testing.assert_array_equal(mask[0].numpy(), polygon2mask((64, 64), contour[:, ::-1]))


def test_a_split_keeps_each_patient_on_one_side():
    discs = the_discs(["a", "b", "a", "c"])
    train, test = discs.split(["a"])
    assert (train.patients, test.patients) == (("b", "c"), ("a", "a"))
    assert len(train) + len(test) == len(discs)


@pytest.mark.parametrize("names", [[], ["a", "b"], ["a", "z"]])
def test_a_split_without_two_sides_or_with_strangers_is_refused(names):
    with pytest.raises(ValueError, match=r"known patients on both sides.*Choose some, not all"):
        the_discs(["a", "b"]).split(names)


def test_hold_out_depends_on_names_and_seed_alone():
    names = [str(i) for i in range(30)]
    chosen = hold_out(names, 6, seed=0)
    assert len(set(chosen)) == 6
    assert chosen == hold_out(names[::-1] + names, 6, seed=0)
    assert chosen != hold_out(names, 6, seed=1)
    with pytest.raises(ValueError, match="expected a number from 1 to 29"):
        hold_out(names, 30, seed=0)
    with pytest.raises(
        ValueError, match=r"cannot hold out 6 of 1 patients; a split needs at least 2\. Add patients"
    ):
        hold_out(["p1"], 6, seed=0)


def test_errors_name_patient_and_level():
    outline, image = ellipse(100, 110, 40, 12, 0.2)
    with pytest.raises(ValueError, match=r"patient p has no outline for 'L1/L2'.*L4/L5"):
        crop(the_slice(outline, image), "L1/L2")
    with pytest.raises(ValueError, match=r"patient p, L4/L5: every pixel.*expected an image with contrast"):
        crop(the_slice(outline, 0 * image), "L4/L5")


BOW = np.array([[60.0, 60.0], [100.0, 80.0], [100.0, 60.0], [60.0, 84.0], [50.0, 70.0]])  # crosses itself


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda outline: outline[:, ::-1] + [0, 100],
            r"patient p, L4/L5: its outline reaches.*two exchanged",
        ),
        (lambda outline: outline - [80, 0], r"patient p, L4/L5: its outline reaches from x -1"),
        (lambda outline: outline * np.nan, r"patient p, L4/L5: an outline is an .* finite points"),
        (lambda outline: BOW, r"patient p, L4/L5: its (outline crosses|four corners)"),
    ],
    ids=["exchanged", "outside", "nan", "crossed"],
)
def test_an_outline_that_is_none_of_the_image_is_refused(change, message):
    outline, image = ellipse(100, 110, 40, 12, 0.2)
    with pytest.raises(ValueError, match=message):
        crop(the_slice(change(outline), image), "L4/L5")


def test_refused_discs_are_named_and_the_others_kept_in_the_order_of_levels(caplog):
    outline, image = ellipse(100, 110, 40, 12, 0.2)
    outlines = {"own": outline, "L1/L2": outline, "L3/L4": BOW, "L5/S1": outline}
    one = Slice("p", image.astype(np.float32), 0.5, outlines, refused={"L4/L5": "it is absent"})
    discs, refused = cropped(one, size=64)
    assert [disc.level for disc in discs] == [LEVELS[0], LEVELS[4], "own"]
    assert set(refused) == {"L4/L5", "L3/L4"}
    assert refused["L4/L5"] == "it is absent"
    assert crops([one], size=64).levels == ("L5/S1", "L1/L2", "own")
    assert "refused: it is absent" in caplog.text
    assert "refused: patient p, L3/L4: its " in caplog.text


def test_discs_of_one_size_are_needed():
    small = Disc("a", "L1/L2", np.zeros((8, 8), np.float32), np.zeros((176, 2), np.float32), 1.0)
    large = Disc("b", "L1/L2", np.zeros((9, 9), np.float32), np.zeros((176, 2), np.float32), 1.0)
    for wrong in ([], [small, large]):
        with pytest.raises(ValueError, match="one crop size for all"):
            Discs.of(wrong)
