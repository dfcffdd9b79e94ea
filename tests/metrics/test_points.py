"""Distances of points."""

import torch

from advreg import point_error


def test_point_error_is_the_mean_distance():
    output = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    assert point_error(output, torch.zeros(1, 2, 2)).item() == 2.5
