"""Descriptions tell values apart, and no addresses."""

from functools import partial

import numpy as np
import torch
from networks import two_heads

from advreg import (
    J_IND_seg,
    Threat,
    linf,
    on,
    pgd_attack,
)
from advreg._core.fingerprint import describe


def other_weights():
    model = two_heads()
    with torch.no_grad():
        model.mask.bias += 1e-6
    return model


def test_descriptions_tell_values_apart_and_not_addresses():
    def inner(steps):
        return lambda x: x * steps

    class Plain:
        def __init__(self, value):
            self.value = value

    same = [
        lambda: inner(3),
        lambda: Plain(torch.ones(2)),
        lambda: partial(Plain(1).__eq__, 2) and partial(pgd_attack, objective=on("mask", J_IND_seg)),
        lambda: {"a": np.arange(3), "b": [None, two_heads()]},
    ]
    for make in same:
        assert describe(make()) == describe(make())
        assert " at 0x" not in describe(make())
    different = [
        (inner(3), inner(4)),
        (lambda x: x + 1, lambda x: x + 2),
        (Plain(torch.ones(2)), Plain(torch.zeros(2))),
        (Threat(linf, 0.1, mask=torch.ones(2000).bool()), Threat(linf, 0.1, mask=torch.arange(2000) != 1000)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.ones(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)),
        (np.zeros(3), np.ones(3)),
        (two_heads(), other_weights()),
        (torch.nn.ReLU(), torch.nn.LeakyReLU()),
    ]
    for one, other in different:
        assert describe(one) != describe(other)
    loop = Plain(1)
    loop.value = loop
    assert describe(loop).endswith("Plain(value=...)")
