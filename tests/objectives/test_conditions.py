"""Conditions on metrics, and what they read."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advreg import dice, negate, on, point_error, weighted
from advreg.objectives import Within, heads_read

VALUES = torch.tensor([-math.inf, -1.0, 0.0, 0.5, 1.0, math.inf])


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_both_ends_belong_to_it(low, high):
    found = Within(lambda output, _: output, low=low, high=high)(VALUES.double(), None)
    assert found.dtype == torch.bool
    assert found.tolist() == [low <= value <= high for value in VALUES.double().tolist()]


def test_without_an_end_it_is_open_and_what_is_no_number_is_outside():
    values = torch.tensor([-9.0, 9.0, math.nan])
    assert Within(lambda output, _: output)(values, None).tolist() == [True, True, False]
    assert Within(lambda output, _: output, low=0.0)(values, None).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("functions", "heads"),
    [
        ([Within(on("mask", dice), low=0.5)], {"mask"}),
        ([Within(negate(on("mask", dice)))], {"mask"}),
        ([Within(weighted((1.0, on("a", dice)), (2.0, on(1, dice))))], {"a", 1}),
        ([on("a", dice), None, Within(on("b", point_error), high=1.0)], {"a", "b"}),
        ([on("a", dice), Within(point_error)], None),
        ([on("a", dice), lambda output, target: output], None),
        ([None], set()),
        ([], set()),
    ],
)
def test_what_is_read_is_seen_through_conditions(functions, heads):
    assert heads_read(*functions) == heads
