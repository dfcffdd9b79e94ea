"""Surrogates made for distance against scipy's distance maps; their gradients."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from advreg.objectives import boundary, distance_cross_entropy, far_false_positives, masked_cross_entropy
from advreg.testing import check_objective


def normal(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SPACING = (0.6, 1.5)
OUTPUT, MASK = normal(3, 2, 6, 8), torch.zeros(3, 2, 6, 8)
MASK[:, :, 1:4, 2:5], MASK[1, 1], MASK[2, 0] = 1, 0, 1  # one is empty, one is full
FUNCTIONS = [boundary, distance_cross_entropy, far_false_positives]


def signed(mask, spacing):
    """In diagonals, negative inside."""
    diagonal = np.linalg.norm([s * (n - 1) for s, n in zip(spacing, mask.shape, strict=True)])
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing) if mask.any() else diagonal
    inside = ndimage.distance_transform_edt(mask, sampling=spacing) if not mask.all() else diagonal
    return np.where(mask, -inside, outside) / diagonal * np.ones(mask.shape)


def by_hand(function, output, mask, spacing):
    values = []
    for o, m in zip(output.numpy(), mask.numpy() > 0.5, strict=True):
        phi, p = np.stack([signed(one, spacing) for one in m]), 1 / (1 + np.exp(-o))
        true = np.where(m, p, 1 - p)
        if function is boundary:
            values.append((phi * p).mean())
        elif function is distance_cross_entropy:
            values.append((phi**2 * -np.log(true) * (true > 0.5)).mean())
        else:
            shares = [
                np.log((f**2 * q)[~one].mean()) if not one.all() else 0.0
                for f, q, one in zip(phi, p, m, strict=True)
            ]
            values.append(np.mean(shares))
    return values


@pytest.mark.parametrize("function", FUNCTIONS)
def test_by_hand(function):
    expected = by_hand(function, OUTPUT, MASK, SPACING)
    np.testing.assert_allclose(function(OUTPUT, MASK, spacing=SPACING), expected, rtol=1e-6)
    own = {"mask": MASK, "spacing": torch.tensor([[0.6, 1.5]] * 3)}
    np.testing.assert_allclose(function(OUTPUT, own), expected, rtol=1e-6)
    check_objective(function, OUTPUT, own)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_are_right_and_finite(function, activation):
    target = MASK if activation == "sigmoid" else MASK[:, 0].long()
    objective = partial(function, activation=activation)
    point = OUTPUT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: objective(o, target), point)
    sure = (1e3 * OUTPUT).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(sure, target).sum(), sure)
    assert gradient.isfinite().all()


def test_without_a_power_it_is_masked_cross_entropy():
    for activation, target in (("sigmoid", MASK), ("softmax", MASK[:, 0].long())):
        found = distance_cross_entropy(OUTPUT, target, activation=activation, power=0)
        torch.testing.assert_close(found, masked_cross_entropy(OUTPUT, target, activation=activation))


def test_with_exclusive_classes_the_true_class_has_the_distance():
    numbers = torch.zeros(1, 5, 6, dtype=torch.long)
    numbers[0, 1:3, 1:4] = 1
    output = normal(1, 2, 5, 6, seed=4)
    phi = np.abs(signed(numbers[0].numpy() == 1, (1.0, 1.0)))  # of two classes, alike
    p = output.softmax(1).gather(1, numbers[:, None])[0, 0].numpy()
    expected = (phi**2 * -np.log(p) * (p > 0.5)).mean()
    found = distance_cross_entropy(output, numbers, activation="softmax")
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_stays_nan_half_is_single_and_words_are_checked(function):
    expected = function(OUTPUT, MASK)
    output = OUTPUT.clone()
    output[1, 0, 5, 7] = torch.nan
    found = function(output, MASK)
    assert found.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found[::2], expected[::2])
    assert torch.equal(function(OUTPUT.half(), MASK), function(OUTPUT.half().float(), MASK))
    with pytest.raises(ValueError, match="logits"):
        function(OUTPUT, MASK, activation="none")
    if function is not boundary:
        with pytest.raises(ValueError, match="power"):
            function(OUTPUT, MASK, power=-1.0)
