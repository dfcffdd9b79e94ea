"""Where on its way a gradient dies."""

import pytest
import torch
from torch import nn

from advreg import J_IND_reg
from advreg.diagnosis import dead_end


def test_where_the_gradient_dies():
    x, y = torch.rand(4, 3), torch.zeros(4, 3)
    layers = [nn.Linear(3, 3), nn.Tanh(), nn.Threshold(9.0, 0.0), nn.Linear(3, 3)]
    model = nn.Sequential(*layers)
    assert dead_end(model, x, y, J_IND_reg) == "in 2 (Threshold)"
    assert dead_end(model.forward, x, y, J_IND_reg) == "in 2 (Threshold)"
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(RuntimeError):
        dead_end(model, x[:, :2], y, J_IND_reg)
    assert not any(m._forward_hooks for m in model.modules())
