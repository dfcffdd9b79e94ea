import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import EuclideanTransform

from lumbar_disk.outlines import landmarks, signed_area

BOX = np.array([[0.0, 0.0], [40.0, 0.0], [40.0, 10.0], [0.0, 10.0]])  # clockwise on the screen


def turned(points, degrees):
    turn = EuclideanTransform(rotation=np.radians(degrees), translation=(50.0, 30.0))
    return turn(points)


@given(
    degrees=st.floats(-55, 55),
    reverse=st.booleans(),
    first=st.integers(0, 3),
    closed=st.booleans(),
)
def test_a_turned_box_starts_at_its_superior_anterior_corner_and_runs_down_its_front(
    degrees, reverse, first, closed
):
    corners = turned(BOX, degrees)
    outline = np.roll(corners[::-1] if reverse else corners, first, axis=0)
    outline = np.vstack([outline, outline[:1]]) if closed else outline
    points = landmarks(outline, points=100)  # one per unit of length
    np.testing.assert_allclose(points[0], corners[0], atol=1e-9)
    np.testing.assert_allclose(points[10], corners[3], atol=1e-9)
    np.testing.assert_allclose(points[50], corners[2], atol=1e-9)
    np.testing.assert_allclose(points[60], corners[1], atol=1e-9)


@given(st.integers(0, 10_000), st.integers(3, 300))
def test_points_are_even_along_the_outline_and_lie_on_it(seed, count):
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 40))
    outline = np.stack([30 * np.cos(angle), 9 * np.sin(angle)], axis=1)
    points = landmarks(outline, points=count)
    assert points.shape == (count, 2)
    ends, steps = outline, np.roll(outline, -1, axis=0) - outline
    share = np.einsum("pkd,kd->pk", points[:, None] - ends, steps) / np.sum(steps**2, axis=1)
    nearest = ends + np.clip(share, 0, 1)[..., None] * steps
    assert np.linalg.norm(points[:, None] - nearest, axis=2).min(axis=1).max() < 1e-9
    length = np.linalg.norm(steps, axis=1).sum()
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() <= length / count + 1e-9


def test_area_is_positive_clockwise_on_the_screen():
    assert signed_area(BOX) == 400.0
    assert signed_area(BOX[::-1]) == -400.0


@pytest.mark.parametrize(
    "outline",
    [np.zeros((0, 2)), np.zeros((5, 2)), BOX[:2], np.array([[0, 0], [1, 1], [2, 2]]), np.zeros((4, 3))],
)
def test_what_is_no_outline_is_refused_with_the_remedy(outline):
    with pytest.raises(ValueError, match=r"at least 3 distinct points around some area.*mask empty"):
        landmarks(outline)
