"""Errors of depth and flow against numpy, in either layout, and what is refused."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from advreg.metrics import abs_rel, delta, end_point_error, rmse, sq_rel
from advreg.testing import check_objective


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


DEPTH = 3 + normal(4, 5, 6).abs()
GUESS = DEPTH * (0.3 * normal(4, 5, 6, seed=1)).exp()
GAPS = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(2)) > 0.3
GAPS[3] = False
BY_HAND = {
    abs_rel: lambda o, t: np.mean(np.abs(o - t) / t) if t.size else 0.0,
    sq_rel: lambda o, t: np.mean((o - t) ** 2 / t) if t.size else 0.0,
    delta: lambda o, t: np.mean(np.maximum(o / t, t / o) < 1.25) if t.size else 1.0,
    rmse: lambda o, t: np.sqrt(np.mean((o - t) ** 2)) if t.size else 0.0,
}
RATIOS = [abs_rel, sq_rel, delta]
ALL = [*BY_HAND, end_point_error]


def case(metric):
    return (normal(4, 2, 5, 6), normal(4, 2, 5, 6, seed=1)) if metric is end_point_error else (GUESS, DEPTH)


def by_hand(metric, output, target, valid):
    each = zip(output.numpy(), target.numpy(), valid.numpy(), strict=True)
    return torch.tensor([BY_HAND[metric](o[v], t[v]) for o, t, v in each], dtype=torch.float64)


@pytest.mark.parametrize("metric", BY_HAND)
def test_errors_of_depth_by_hand(metric):
    everything = torch.ones_like(GAPS)
    torch.testing.assert_close(metric(GUESS, DEPTH), by_hand(metric, GUESS, DEPTH, everything))
    expected = by_hand(metric, GUESS, DEPTH, GAPS)
    output, target = GUESS.where(GAPS, math.nan), DEPTH.where(GAPS, math.nan)
    torch.testing.assert_close(metric(output, target, valid=GAPS), expected)
    if metric is not rmse:
        torch.testing.assert_close(metric(output, DEPTH.where(GAPS, 0)), expected)
    check_objective(metric, GUESS, DEPTH)


def test_the_end_point_error_by_hand():
    output, target = case(end_point_error)
    apart = np.sqrt(((output - target).numpy() ** 2).sum(1))
    torch.testing.assert_close(end_point_error(output, target), torch.tensor(apart.mean((1, 2))))
    expected = [a[v].mean() if v.any() else 0.0 for a, v in zip(apart, GAPS.numpy(), strict=True)]
    spoilt = target.where(GAPS[:, None], math.nan)
    for valid in (GAPS, GAPS[:, None], GAPS[:, None].expand(4, 2, 5, 6)):
        found = end_point_error(output, spoilt, valid=valid)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    check_objective(end_point_error, output, target)
    space = normal(2, 3, 4, 5, 6)
    torch.testing.assert_close(end_point_error(space, 0 * space), space.norm(dim=1).mean((1, 2, 3)))


@pytest.mark.parametrize("metric", BY_HAND)
def test_layouts_with_and_without_the_channel_are_the_same_map(metric):
    expected = metric(GUESS, DEPTH, valid=GAPS)
    for output in (GUESS, GUESS[:, None]):
        for target in (DEPTH, DEPTH[:, None]):
            for valid in (GAPS, GAPS[:, None]):
                torch.testing.assert_close(metric(output, target, valid=valid), expected)


@pytest.mark.parametrize("metric", BY_HAND)
@pytest.mark.parametrize("shape", [(1, 5, 6), (4, 1, 6), (4, 6, 5), (4, 2, 5, 6), (4, 1, 1, 6), (4,)])
def test_other_shapes_are_never_broadcast(metric, shape):
    for output in (GUESS, GUESS[:, None]):
        with pytest.raises(ValueError, match="nothing is broadcast"):
            metric(output, torch.ones(shape, dtype=torch.float64))


def test_a_map_of_several_channels_has_one_mask_for_its_pixels():
    output, target = normal(4, 3, 5, 6), normal(4, 3, 5, 6, seed=1)
    d = ((output - target) ** 2).numpy().swapaxes(0, 1)
    expected = [np.sqrt(d[:, n][:, v].mean()) if v.any() else 0.0 for n, v in enumerate(GAPS.numpy())]
    for valid in (GAPS, GAPS[:, None]):
        found = rmse(output, target, valid=valid)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_the_threshold_and_outputs_that_are_no_depth():
    target, output = torch.ones(1, 1, 6), torch.tensor([[[-1.0, -0.9, 0.0, 0.81, 1.24, 1.26]]])
    assert delta(output, target).item() == pytest.approx(2 / 6)
    assert delta(output, target, threshold=1.25**2).item() == pytest.approx(3 / 6)
    assert delta(torch.full_like(target, math.inf), target).item() == 0
    for threshold in (1.0, 0.8, math.inf, math.nan):
        with pytest.raises(ValueError, match="threshold must be above 1"):
            delta(output, target, threshold=threshold)


@pytest.mark.parametrize("metric", ALL)
def test_nan_in_the_output_shows_and_in_the_target_is_refused(metric):
    output, target = (each.clone() for each in case(metric))
    output[2, ..., 0, 0] = math.nan
    assert metric(output, target).isnan().tolist() == [False, False, True, False]
    for gap in (math.nan, math.inf):
        target[1, ..., 2, 3] = gap
        with pytest.raises(ValueError, match=r"must be finite; got NaN or infinity for example 1: .*valid="):
            metric(output, target)


@pytest.mark.parametrize("metric", RATIOS)
def test_depth_is_positive(metric):
    with pytest.raises(ValueError, match=r"depth must be positive.*got -.* in example 2: undo a normal"):
        metric(GUESS, DEPTH.index_fill(0, torch.tensor(2), -1.0))
    gone = DEPTH.clone()
    gone[1, 0, 0] = 0
    assert metric(GUESS, gone).isfinite().all()
    with pytest.raises(ValueError, match=r"0 where it is missing; got 0 in example 1"):
        metric(GUESS, gone, valid=torch.ones_like(GAPS))
    with pytest.raises(TypeError, match="valid must be a bool tensor"):
        metric(GUESS, DEPTH, valid=DEPTH)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 8, 8, 2), r"output.movedim\(-1, 1\)"),
        ((2, 1, 8, 8), "use another metric"),
        ((2, 8, 8), "flow must be"),
    ],
)
def test_what_is_no_flow(shape, message):
    with pytest.raises(ValueError, match=message):
        end_point_error(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("metric", ALL)
def test_half_precision_is_summed_in_float32(metric):
    shape = (1, 2, 300, 300) if metric is end_point_error else (1, 300, 300)
    output, target = torch.full(shape, 30.0).half(), torch.full(shape, 10.0).half()
    found = metric(output, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), metric(output.double(), target.double()), rtol=1e-4, atol=0)


@pytest.mark.parametrize("metric", [abs_rel, sq_rel, rmse, end_point_error, partial(abs_rel, valid=GAPS)])
def test_gradients(metric):
    output, target = case(metric)
    assert torch.autograd.gradcheck(metric, [output.clone().requires_grad_(), target])
    same = target.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(metric(same, target).sum(), same)
    assert gradient.isfinite().all()


def test_depth_in_whole_millimetres():
    target = (1000 * DEPTH).int()
    torch.testing.assert_close(abs_rel(1000 * GUESS, target), abs_rel(1000 * GUESS, target.double()))
    torch.testing.assert_close(delta(1000 * GUESS, target), delta(1000 * GUESS, target.double()))
