"""Freezing a model, and putting everything back."""

import pytest
import torch

from advreg.execution import frozen


def test_frozen_serves_any_callable_and_restores_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="size of tensor"), frozen(torch.sin):
        torch.rand(2) + torch.rand(3)
    assert torch.equal(state, torch.get_rng_state())
