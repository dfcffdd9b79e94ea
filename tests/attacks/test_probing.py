"""Probing without gradients: estimated slopes, windows, stripes."""

import torch

from advreg import (
    Keys,
    Threat,
    linf,
)
from advreg.attacks import square_attack
from advreg.attacks._probing import Probe, window
from advreg.execution import Batch


def test_the_estimate_of_a_linear_models_gradient_is_its_weight():
    weight, x = torch.tensor([1.0, -2.0, 3.0]), torch.full((2, 3), 0.5)
    batch = Batch(x, None, Threat(linf, 0.1))
    probe = Probe(lambda x: x @ weight, batch, lambda output, _: output, None, keys())
    for kind in ("rademacher", "normal"):
        slope = probe.slope(x, 1000, 0.3, kind, 1000, keys())
        torch.testing.assert_close(slope, weight.expand(2, 3), atol=0.4, rtol=0)
    one, many = (probe.slope(x, 10, 0.3, "normal", size, keys()) for size in (1, 100))
    torch.testing.assert_close(one, many)


def keys(count=2):
    return Keys(0, torch.arange(count))


def test_windows_cover_the_share_asked_for_and_stripes_come_first():
    inside, signs, _ = window(torch.zeros(50, 3, 16, 16), 0.25, keys(50))
    assert (inside.flatten(1).sum(1) == 3 * 64).all()
    assert inside.any(0)[:, 1:-1, 1:-1].all()
    assert (signs.abs() == 1).all()
    assert (signs == signs[:, :, :1, :1]).all()
    vector, _, _ = window(torch.zeros(50, 20), 0.25, keys(50))
    assert (vector.sum(1) == 5).all()
    met = []

    def model(x):
        met.append(x)
        return x.flatten(1).sum(1)

    x = torch.full((2, 1, 4, 4), 0.5)
    square_attack(model, x, None, objective=lambda o, _: o, threat=Threat(linf, 0.1), queries=5)
    *_, stripes, first = met[: 3 + 2]  # the check of the clean inputs, two queries
    assert ((stripes - x).abs() - 0.1).abs().max() < 1e-6
    assert (stripes == stripes[:, :, :1]).all()
    assert (first != stripes).flatten(1).any(1).all()
