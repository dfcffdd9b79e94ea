"""Outputs of every form: mapped tensor by tensor, and walked in order."""

from collections import OrderedDict

import pytest
import torch
from networks import WRAPS, batch

from advreg._core.trees import map_tensors, tensors


@pytest.mark.parametrize("kind", WRAPS)
def test_every_form_keeps_its_form(kind):
    _, y = batch(kind=kind)
    halves = map_tensors(lambda tensor: tensor / 2, y)
    assert type(halves) is type(y)
    assert len(list(tensors(y))) == 2
    for half, whole in zip(tensors(halves), tensors(y), strict=True):
        assert torch.equal(2 * half, whole)


def test_nests_are_walked_and_other_leaves_left_alone():
    tree = OrderedDict(a=[torch.ones(1), {"b": (torch.ones(2), "name")}], c=None)
    mapped = map_tensors(torch.neg, tree)
    assert isinstance(mapped, OrderedDict)
    assert mapped["a"][1]["b"][1] == "name"
    assert mapped["c"] is None
    assert [tensor.tolist() for tensor in tensors(mapped)] == [[-1.0], [-1.0, -1.0]]
