import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lumbar_disk.outlines import evenly, signed_area

BOX = np.array([[0.0, 0.0], [40.0, 0.0], [40.0, 10.0], [0.0, 10.0]])  # clockwise on the screen


def test_area_is_positive_clockwise_on_the_screen():
    assert signed_area(BOX) == 400.0
    assert signed_area(BOX[::-1]) == -400.0


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_points_are_even_along_the_curve_and_stop_short_of_its_end(seed, count):
    curve = np.cumsum(np.random.default_rng(seed).uniform(0.0, 2.0, (12, 2)), axis=0)
    points = evenly(curve, count)
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    np.testing.assert_array_equal(points[0], curve[0])
    # x grows along this curve, so a point's x tells how far along it lies, and the curve's y there.
    np.testing.assert_allclose(
        np.interp(points[:, 0], curve[:, 0], lengths), np.arange(count) * lengths[-1] / count, atol=1e-9
    )
    np.testing.assert_allclose(np.interp(points[:, 0], curve[:, 0], curve[:, 1]), points[:, 1], atol=1e-9)
