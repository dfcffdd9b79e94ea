"""Distances of points."""

import pytest
import torch

from advreg import point_error


def test_point_error_is_the_mean_distance():
    output = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    assert point_error(output, torch.zeros(1, 2, 2)).item() == 2.5


def test_weights_by_hand():
    output, target = torch.rand(3, 4, 2, dtype=torch.float64), torch.rand(3, 4, 2, dtype=torch.float64)
    apart, valid = (output - target).norm(dim=2), torch.tensor([[True, True, False, True]] * 3)
    each = torch.tensor([1.0, 3.0, 9.0, 0.0], dtype=torch.float64)
    for weights in (each, each.expand(3, 4)):
        found = point_error(output, target, weights=weights)
        torch.testing.assert_close(found, (apart * each).sum(1) / 13)
        spoilt = target.masked_fill(~valid[..., None], torch.nan)
        found = point_error(output, spoilt, valid=valid, weights=weights)
        torch.testing.assert_close(found, (apart[:, :2] * each[:2]).sum(1) / 4)
    assert point_error(output, target, weights=0 * each).tolist() == [0, 0, 0]
    torch.testing.assert_close(
        point_error(output, target, weights=5 * torch.ones(4)), point_error(output, target)
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            torch.ones(3),
            r"weights must be a tensor of one number for each point, \(3, 4\), or \(4,\).*got \(3,\)",
        ),
        (torch.ones(3, 4, 2), r"got \(3, 4, 2\)"),
        ([1.0] * 4, "got list"),
        (-torch.ones(4), "weights must be finite and zero or more"),
        (torch.full((3, 4), torch.nan), "finite and zero or more; got others for examples 0, 1, 2"),
    ],
)
def test_weights_that_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        point_error(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), weights=weights)
