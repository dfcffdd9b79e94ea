"""The overlap of contours tends to their Dice, and its ascent lowers it."""

import numpy as np
import torch

from advreg import contour_dice
from advreg.objectives import (
    contour_overlap,
)


def test_contour_overlap_tends_to_contour_dice():
    rng = np.random.default_rng(0)
    a, b = (torch.tensor(rng.uniform(-3, 30, (10, 7, 2))) for _ in range(2))
    hard = 1 - contour_dice(a, b, size=(28, 25)).double()
    errors = [(contour_overlap(a, b, size=(28, 25), softness=s) - hard).abs().max() for s in (1, 0.1, 1e-6)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_ascending_contour_overlap_lowers_contour_dice():
    angle = torch.linspace(0, 2 * torch.pi, 41)[:-1].double()
    target = 16 + torch.stack([9 * angle.cos(), 6 * angle.sin()], 1)[None]
    output, size = target + torch.tensor([0.5, 0.3]), (32, 32)
    before = contour_dice(output, target, size=size)
    for _ in range(10):
        output.requires_grad_()
        (gradient,) = torch.autograd.grad(contour_overlap(output, target, size=size).sum(), output)
        output = (output + 2 * gradient / gradient.norm()).detach()
    assert contour_dice(output, target, size=size).item() < before.item() - 0.15
