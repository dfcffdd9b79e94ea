"""The sharpened share of pixels beyond a ratio: by hand, its limit, its gaps."""

import math

import numpy as np
import pytest
import torch

from advreg.metrics import delta
from advreg.objectives import SharpenedDelta
from advreg.testing import check_objective


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


DEPTH = 3 + normal(4, 5, 6).abs()
GUESS = DEPTH * (0.3 * normal(4, 5, 6, seed=1)).exp()


def test_by_hand():
    ratio = np.abs(np.log((GUESS / DEPTH).numpy())) / math.log(1.5)
    for share, factor in ((0.0, 0.5), (0.3, math.sqrt(2.0)), (0.6, 4.0), (1.0, 4.0)):
        expected = (1 / (1 + np.exp(-factor * (ratio - 1)))).mean((1, 2))
        found = SharpenedDelta(1.5, 0.5, 4.0).at(share)(GUESS, DEPTH)
        torch.testing.assert_close(found, torch.tensor(expected))


def test_it_tends_to_the_metric_and_keeps_the_contract():
    torch.testing.assert_close(SharpenedDelta(1.25, 1.0, 1e6)(GUESS, DEPTH), 1 - delta(GUESS, DEPTH))
    check_objective(SharpenedDelta(), GUESS, DEPTH)
    assert torch.autograd.gradcheck(SharpenedDelta(), [GUESS.clone().requires_grad_(), DEPTH])
    assert SharpenedDelta()(GUESS.half(), DEPTH.half()).dtype == torch.float32


def test_layouts_gaps_and_outputs_that_are_no_depth():
    gone = DEPTH.clone()
    gone[:, 0], gone[2] = 0, 0
    output = GUESS.masked_fill(gone == 0, torch.nan)
    output[0, 1, 1] = -1.0
    output.requires_grad_()
    value = SharpenedDelta()(output, gone[:, None])
    torch.testing.assert_close(value[3], SharpenedDelta()(GUESS[3:, 1:], DEPTH[3:, 1:])[0])
    assert value[2] == 0
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert gradient.isfinite().all()
    assert gradient[0, 1, 1] == 0
    assert (gradient[gone == 0] == 0).all()
    wrong = (1 - delta(output.detach(), gone))[0]
    torch.testing.assert_close(SharpenedDelta(1.25, 1.0, 1e6)(output, gone)[0].detach(), wrong)


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"threshold": math.inf}, {"last": -1.0}])
def test_options_that_are_refused(options):
    with pytest.raises(ValueError, match="must be above"):
        SharpenedDelta(**options)
