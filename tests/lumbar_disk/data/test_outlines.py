"""Outlines: areas, even points, and plausibility against exact rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbar_disk.data import _outlines, plausible
from lumbar_disk.data._outlines import evenly, signed_area

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


def meets(p, q, r, s):
    """Whether the segments pq and rs have a point in common, by solving for it in rational numbers."""
    p, q, r, s = ([Fraction(int(c)) for c in point] for point in (p, q, r, s))
    a, b, c = ([v[i] - u[i] for i in range(2)] for u, v in ((p, q), (r, s), (p, r)))
    turn = a[0] * b[1] - a[1] * b[0]
    if turn:
        along_a = (c[0] * b[1] - c[1] * b[0]) / turn
        along_b = (c[0] * a[1] - c[1] * a[0]) / turn
        return 0 <= along_a <= 1 and 0 <= along_b <= 1
    if a[0] * c[1] - a[1] * c[0] or b[0] * c[1] - b[1] * c[0]:
        return False  # parallel, on different lines
    return all(
        max(min(p[i], q[i]), min(r[i], s[i])) <= min(max(p[i], q[i]), max(r[i], s[i])) for i in range(2)
    )


def simple(points):
    """Whether a polygon neither crosses nor touches itself, edge by edge."""
    count = len(points)
    for i in range(count):
        p, q, n = points[i], points[(i + 1) % count], points[(i + 2) % count]
        turn = (q[0] - p[0]) * (n[1] - q[1]) - (q[1] - p[1]) * (n[0] - q[0])
        ahead = (q[0] - p[0]) * (n[0] - q[0]) + (q[1] - p[1]) * (n[1] - q[1])
        if turn == 0 and ahead <= 0:
            return False
        for j in range(i + 2, count):
            if (j + 1) % count != i and meets(p, q, points[j], points[(j + 1) % count]):
                return False
    return True


polygon = st.integers(3, 8).flatmap(
    lambda k: st.lists(
        st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=k, max_size=k),
        min_size=1,
        max_size=6,
    )
)


@given(polygon)
@settings(max_examples=300, deadline=None)
def test_self_crossing_agrees_with_rational_arithmetic(polygons):
    expected = [simple(points) for points in polygons]
    assert plausible(torch.tensor(polygons, dtype=torch.float32), (8, 8)).tolist() == expected


def rings(wild):
    """Rings around the middle of a crop of 128 pixels; where `wild` is large some cross themselves."""
    angle = torch.linspace(0, 2 * torch.pi, 177, dtype=torch.float64)[:-1]
    ring = 63.5 + torch.stack([40 * angle.cos(), 12 * angle.sin()], 1)
    waves = torch.stack([torch.cos(k * angle) for k in range(12)])
    heights = torch.randn(40, 2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ring + wild * ((heights / (1 + torch.arange(12))) @ waves).mT


def test_chunks_do_not_change_the_answer(monkeypatch):
    drawn = rings(wild=6)
    whole = plausible(drawn, (1000, 1000))
    assert 0 < whole.sum() < len(whole)
    monkeypatch.setattr(_outlines, "_CHUNK", 7 * 176**2)
    assert torch.equal(plausible(drawn, (1000, 1000)), whole)


def test_shapes_of_fewer_than_three_points_are_refused():
    with pytest.raises(ValueError, match="K of at least 3"):
        plausible(rings(wild=0)[:, :2], (128, 128))


def test_a_contour_must_lie_inside_the_crop():
    contours, size = rings(wild=1), (128, 100)
    inside = [contours[0], contours[0] - contours[0].amin(0)]
    outside = [contours[0] + torch.tensor([60.0, 0.0]), contours[0] - contours[0].amin(0) - 1e-3]
    assert plausible(torch.stack([inside[1], *outside, contours[0] * float("nan")]), size).tolist() == [
        True,
        False,
        False,
        False,
    ]
