"""Landmarks against closed forms, the mask they came from, and themselves after a turn."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import polygon2mask

from lumbar_disk.data import _landmarks as module
from lumbar_disk.data import landmarks, outline
from lumbar_disk.data._landmarks import ARCS, POINTS_PER_ARC

SIZE = 128
CENTRE = (SIZE - 1) / 2


def box(length=70.0, thickness=20.0, taper=0.0, bend=0.0):
    """The outline of a box about the origin, thinner by `taper` to the right and bent down at its ends."""
    x = np.linspace(-length / 2, length / 2, 200)
    half = thickness / 2 * (1 - taper * x / length)
    middle = bend * (2 * x / length) ** 2
    return np.concatenate([np.stack([x, middle - half], 1), np.stack([x, middle + half], 1)[::-1]])


def moved(points, degrees, scale=1.0, shift=(0.0, 0.0)):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + shift


def filled(points):
    return polygon2mask((SIZE, SIZE), points[:, ::-1])


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


shapes = st.builds(
    box,
    length=st.floats(50, 90),
    thickness=st.floats(8, 24),
    taper=st.floats(-0.9, 0.9),
    bend=st.floats(-6, 6),
)


def test_a_box_has_its_corners_in_order():
    points = landmarks(box(bend=0.0) + CENTRE)
    corners = points[::POINTS_PER_ARC] - CENTRE
    assert points.shape == (len(ARCS) * POINTS_PER_ARC, 2)
    assert np.array_equal(np.sign(corners), [[-1, -1], [-1, 1], [1, 1], [1, -1]])
    # The weight decays over 1 / 3 of the half-thickness on the short side and 1 / 5.25 of the half-length on
    # the long one, so the mean lies on the long side, the difference of the two from the corner.
    assert np.allclose(np.abs(corners), [35 - (35 / 5.25 - 10 / 3), 10], atol=0.35)


@settings(deadline=None)
@given(shapes, st.floats(-60, 60), st.floats(0.5, 2.0), st.floats(-50, 50), st.floats(-50, 50))
def test_landmarks_follow_a_turned_scaled_and_shifted_outline(points, degrees, scale, dx, dy):
    expected = moved(landmarks(points), degrees, scale, (dx, dy))
    assert np.allclose(landmarks(moved(points, degrees, scale, (dx, dy))), expected, atol=1e-5)


@settings(deadline=None)
@given(shapes, st.integers(0, 399), st.booleans(), st.booleans())
def test_start_direction_and_closing_of_the_outline_do_not_matter(points, start, reverse, close):
    other = np.roll(points, start, axis=0)
    other = other[::-1] if reverse else other
    other = np.vstack([other, other[:1]]) if close else other
    assert np.allclose(landmarks(other), landmarks(points), atol=0.15)  # half a sample


@settings(deadline=None)
@given(shapes)
def test_arcs_are_even_by_arc_length_and_counter_clockwise(points):
    placed = landmarks(points)
    steps = np.linalg.norm(np.roll(placed, -1, axis=0) - placed, axis=1).reshape(4, POINTS_PER_ARC)
    # Chords are a little shorter than arcs at the outline's four sharp corners only.
    assert np.all(np.median(steps, axis=1, keepdims=True) * 1.001 > steps)
    assert np.all(np.isclose(steps, np.median(steps, axis=1, keepdims=True), rtol=0.02).sum(axis=1) >= 40)
    x, y = placed.T
    assert np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) < 0


@given(st.lists(st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)), min_size=3, max_size=9), st.integers(0, 3))
def test_moments_are_the_integrals_over_the_inside(radii, i):
    j = 3 - i
    angles = -2 * np.pi * np.arange(len(radii)) / len(radii)  # counter-clockwise on the screen
    points = np.array([[r * np.cos(a), s * np.sin(a)] for (r, s), a in zip(radii, angles, strict=True)])
    x, y = points.T
    next_x, next_y = np.roll(points, -1, axis=0).T
    cross = x * next_y - next_x * y
    # The integral over the triangle (0, p, q) by the seven-point degree-5 rule.
    a, b = (6 - np.sqrt(15)) / 21, (6 + np.sqrt(15)) / 21
    nodes = [(1 / 3, 1 / 3, 9 / 40)]
    for c, w in ((a, (155 - np.sqrt(15)) / 1200), (b, (155 + np.sqrt(15)) / 1200)):
        nodes += [(c, c, w), (c, 1 - 2 * c, w), (1 - 2 * c, c, w)]
    expected = sum(
        w * cross / 2 * (s * x + t * next_x) ** i * (s * y + t * next_y) ** j for s, t, w in nodes
    ).sum()
    assert module._moment(points, i, j) == pytest.approx(-expected, abs=1e-9)


@pytest.mark.parametrize(
    "shape",
    [box(), box(taper=0.9), box(thickness=4.0), box(thickness=8.0, bend=8.0)],
    ids=["plain", "wedge", "collapsed", "bent"],
)
@pytest.mark.parametrize("degrees", [0, 45])
def test_the_contour_gives_back_the_mask(shape, degrees):
    mask = filled(moved(shape, degrees) + CENTRE)
    assert dice(filled(landmarks(outline(mask))), mask) > 0.95


def test_a_notch_does_not_move_the_corners():
    mask = filled(box() + CENTRE)
    notched = mask.copy()
    notched[:60, 58:70] = False  # an end plate pushed in
    corners, moved_corners = (landmarks(outline(m))[::POINTS_PER_ARC] for m in (mask, notched))
    assert dice(filled(landmarks(outline(notched))), notched) > 0.98
    assert np.abs(corners - moved_corners).max() < 3


def test_pieces_are_bridged_crumbs_left_out_and_holes_filled():
    mask = filled(box(thickness=8.0) + CENTRE)
    broken = mask.copy()
    broken[:, 80:86] = False
    broken[62:65, 50:53] = False
    broken[20, 20] = True
    restored = filled(landmarks(outline(broken)))
    assert restored[62:65, 50:53].all()
    assert not restored[20, 20]
    assert restored[:, 80:86].any(axis=0).all()
    corners, whole = (landmarks(outline(m))[::POINTS_PER_ARC] for m in (broken, mask))
    assert np.abs(corners - whole).max() < 1


def mask_of(*rectangles):
    mask = np.zeros((64, 64), bool)
    for top, bottom, left, right in rectangles:
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "error", "reason"),
    [
        (mask_of(), ValueError, "L4/L5: its mask has 0 pixels"),
        (mask_of((20, 25, 20, 25)), ValueError, "L4/L5: its mask has 25 pixels"),
        (mask_of((20, 30, 0, 40)), ValueError, "L4/L5: its mask touches the image's border"),
        (mask_of((4, 12, 4, 20), (50, 58, 40, 56)), ValueError, "2 separate components of"),
        (np.eye(64, dtype=bool) & mask_of((1, 62, 1, 62)), ValueError, "two pixels thick"),
        (mask_of((20, 30, 10, 40)).astype(float), TypeError, "L4/L5: a mask is a 2D array of bool"),
        (mask_of((20, 30, 10, 40))[None], TypeError, "L4/L5: a mask is a 2D array of bool"),
    ],
    ids=["empty", "small", "border", "components", "line", "float", "volume"],
)
def test_a_mask_it_cannot_serve_is_refused_by_name_and_reason(mask, error, reason):
    with pytest.raises(error, match=reason):
        outline(mask, "L4/L5")


TURN = np.linspace(0, 2 * np.pi, 200, endpoint=False)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (np.zeros((3, 2)), "at least 4 finite points"),
        (np.full((8, 2), np.nan), "at least 4 finite points"),
        (np.zeros((8, 3)), "at least 4 finite points"),
        (np.stack([np.arange(8.0), np.arange(8.0)], 1), "encloses no area"),
        (np.stack([30 * np.cos(TURN), 8 * np.sin(2 * TURN + 0.6) + 4 * np.sin(TURN)], 1), "crosses itself"),
    ],
)
def test_an_outline_it_cannot_serve_is_refused(points, reason):
    with pytest.raises(ValueError, match=f"L4/L5: .*{reason}"):
        landmarks(points, "L4/L5")


@pytest.fixture(scope="module")
def real_masks():
    """Masks of all real discs by name: a square of 1.5 times the longest extent, as 128 x 128 pixels."""
    folder = Path(os.environ.get("LUMBAR_DATA", "../shared/data")) / "spider" / "masks"
    files = sorted(folder.glob("*.mha"))
    if not files:
        pytest.skip(f"no SPIDER masks in {folder}: set LUMBAR_DATA to the folder that holds spider/")
    sitk = pytest.importorskip("SimpleITK", reason="an oracle")
    masks = {}
    for file in files:
        labels = sitk.GetArrayFromImage(sitk.ReadImage(file))[::-1]  # row 0 superior
        labels = labels[:, :, np.argmax(((labels > 200) | (labels == 100)).sum(axis=(0, 1)))]
        for label in range(201, 206):
            place = np.argwhere(labels == label)
            step = 1.5 * (np.ptp(place, axis=0).max() + 1) / SIZE
            corner = (place.min(axis=0) + place.max(axis=0)) / 2 - CENTRE * step
            soft = ndimage.affine_transform(
                (labels == label).astype(float), [step, step], corner, (SIZE, SIZE), order=1
            )
            masks[f"{file.stem} {label}"] = soft > 0.5
    return masks


@pytest.fixture(scope="module")
def real_landmarks(real_masks):
    """Their landmarks."""
    return {name: landmarks(outline(mask, name), name) for name, mask in real_masks.items()}


def test_real_discs_are_given_back_by_their_contours(real_masks, real_landmarks):
    values = [dice(filled(real_landmarks[name]), mask) for name, mask in real_masks.items()]
    assert np.median(values) >= 0.98
    assert min(values) >= 0.93


@pytest.mark.parametrize("seed", range(3))
def test_landmarks_of_real_discs_follow_a_turned_scaled_and_shifted_mask(real_masks, real_landmarks, seed):
    rng = np.random.default_rng(seed)
    errors = []
    for name, mask in real_masks.items():
        soft = ndimage.gaussian_filter(mask.astype(float), 0.7)
        change = rng.uniform(-20, 20), rng.uniform(0.8, 1.25), rng.uniform(-4, 4, 2)
        back = moved(np.eye(2), -change[0], 1 / change[1]).T[::-1, ::-1]  # rows and columns
        offset = CENTRE - back @ (CENTRE + change[2][::-1])
        turned = ndimage.affine_transform(soft, back, offset, order=1) > 0.5
        expected = moved(real_landmarks[name] - CENTRE, *change) + CENTRE
        errors.append(np.linalg.norm(landmarks(outline(turned, name), name) - expected, axis=1))
    assert np.percentile(errors, 95) < 0.6
    assert np.max(np.array(errors)[:, ::POINTS_PER_ARC]) < 1.5  # the corners
    assert np.mean(np.max(errors, axis=1) < 1.5) > 0.99  # the tips of a few thin discs vanish when shrunk
