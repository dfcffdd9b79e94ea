"""The task of numbers: against a known optimum, with gaps, and what is refused."""

import pytest
import torch
from networks import uniform
from torch import nn

from advreg import Threat, auto_attack, linf
from advreg.tasks import values

X = 0.3 + 0.4 * uniform(5, 6)


def linear(outputs):
    model = nn.Linear(6, outputs)
    nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(4))
    return model.eval()


@pytest.mark.parametrize("flat", [True, False])
def test_one_number_moves_by_the_weights_in_either_layout(flat):
    model = linear(1)
    forward = (lambda x: model(x)[:, 0]) if flat else model
    y = forward(X).detach()
    found = auto_attack(forward, X, y, heads={"": values()}, threat=Threat(linf, 0.1), budget=20)[""]
    torch.testing.assert_close(found.value, 0.1 * model.weight.detach().abs().sum().expand(5))


def test_numbers_that_are_missing_count_for_nothing():
    model = linear(4)
    y = model(X).detach() + 0.5
    y[0, 1:], y[3, 2] = torch.nan, torch.nan
    there = y.isfinite()
    task, other = values(valid=torch.isfinite), {"target": y, "valid": there}
    found = auto_attack(model, X, y, heads={"": task}, threat=Threat(linf, 0.1), budget=60)[""]
    again = auto_attack(model, X, other, heads={"": values()}, threat=Threat(linf, 0.1), budget=60)[""]
    assert torch.equal(found.x, again.x)
    d = (model(found.x) - y).abs().detach()
    expected = [float(row[valid].mean()) for row, valid in zip(d, there, strict=True)]
    torch.testing.assert_close(found.value, torch.tensor(expected))
    assert (found.value > found.clean).all()
    assert task.metric(y[3:], torch.full((2, 4), torch.nan)).tolist() == [0, 0]
    most = 0.5 + 0.1 * model.weight.detach()[0].abs().sum()
    torch.testing.assert_close(found.value[0], most)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 5), (5, 4), (4, 5)])
def test_shapes_that_differ_are_never_broadcast(shape):
    output = torch.zeros(5, 1) if shape != (5, 1) else torch.zeros(5)
    for function in (values().metric, *(member.objective for member in values().members)):
        with pytest.raises(ValueError, match="same shape, nothing is broadcast"):
            function(output, torch.zeros(shape))


def test_a_gap_that_is_not_told_is_refused():
    with pytest.raises(
        ValueError, match=r"target must be finite; got NaN or infinity for example 1: .*valid="
    ):
        values().metric(torch.zeros(3), torch.tensor([0.0, torch.nan, 1.0]))
