"""Surrogates of point heads by hand."""

from functools import partial

import pytest
import torch

from advreg import J_IND_reg, point_error
from advreg.objectives import (
    absolute_error,
    contour_overlap,
    huber,
    worst_point,
)
from advreg.testing import check_objective


def logits(*shape, seed=0, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


CONTOURS = [torch.tensor([[[2.2, 2.3], [9.4, 3.1], [8.7, 9.6], [3.3, 8.2]]]).double() + d for d in (0, 0.7)]


REGRESSION = {
    "absolute_error": absolute_error,
    "huber": partial(huber, delta=0.5),
    "worst_point": worst_point,
    "contour_overlap": partial(contour_overlap, size=(12, 13)),
}


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_surrogates_keep_the_contract(name):
    batch = [torch.cat([c, c + 1, 0.5 * c]) + logits(3, 4, 2, seed=seed) for seed, c in enumerate(CONTOURS)]
    check_objective(REGRESSION[name], *batch)
    if name != "contour_overlap":  # its gradient leaves the second half out
        assert torch.autograd.gradcheck(REGRESSION[name], [batch[0].clone().requires_grad_(), batch[1]])


def test_regression_surrogates_by_hand():
    output, target = logits(3, 6, 2), logits(3, 6, 2, seed=1)
    d = output - target
    torch.testing.assert_close(absolute_error(output, target), d.abs().mean((1, 2)))
    torch.testing.assert_close(worst_point(output, target), d.square().sum(2).sqrt().amax(1))
    pieces = torch.where(d.abs() <= 0.7, d**2 / 2, 0.7 * (d.abs() - 0.35))
    torch.testing.assert_close(huber(output, target, delta=0.7), pieces.mean((1, 2)))
    torch.testing.assert_close(huber(output, target, delta=1e3), J_IND_reg(output, target) / 24)
    assert (worst_point(output, target) >= point_error(output, target)).all()


@pytest.mark.parametrize("name", REGRESSION)
def test_no_nan_where_output_and_target_agree(name):
    output = CONTOURS[0].clone().requires_grad_()
    value = REGRESSION[name](output, CONTOURS[0])
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert gradient.isfinite().all()
    assert value.item() == 0 or name == "contour_overlap"
