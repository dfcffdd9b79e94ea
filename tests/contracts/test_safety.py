"""After an attack, also one that raised, everything is bit for bit what it was."""

import pytest
import torch
from networks import batch, notes, two_heads
from networks.entrances import ENTRANCES, EXECUTIONS
from torch import nn

from advreg import (
    Execution,
    J_IND_reg,
    Threat,
    linf,
    ood_attack,
    pgd_attack,
)
from advreg.execution import AssumptionError, frozen


class Awkward(nn.Module):
    """BatchNorm, dropout, a shared submodule, a hook, a counting buffer, and a half-frozen state."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.again = self.shared
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(6), persistent=False)
        self.shared.register_forward_hook(self.count)

    def count(self, *_):
        notes(self).append(1)

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean(0)  # a buffer replaced, not only written
        x = self.again(self.norm(self.shared(x)).relu())
        return self.head(self.dropout(x))


def awkward(kind=Awkward):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind()
    model.eval()
    part = getattr(model, "inner", model)
    part.head.train()  # a mixed state, which model.train() would lose
    part.shared.bias.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    part.norm.weight.grad = None
    return model


def snapshot(model, *tensors):
    return {
        "parameters": [(id(p), p.detach().clone(), p.requires_grad, p._version) for p in model.parameters()],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "buffers": [(name, id(b), b.clone()) for name, b in model.named_buffers()],
        "modes": [m.training for m in model.modules()],
        "random": torch.get_rng_state(),
        "tensors": [(id(t), t.clone(), t.requires_grad, t._version) for t in tensors],
        "grad enabled": torch.is_grad_enabled(),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_untouched(before, after):
    for what in before:
        assert same(before[what], after[what]), f"{what} changed"


OPTIONS = {"objective": J_IND_reg, "threat": Threat(linf, 0.1), "steps": 4}


def raise_at(call):
    calls = []

    def objective(output, target):
        calls.append(1)
        if len(calls) >= call:  # a check may try again
            raise RuntimeError("half-way")
        return J_IND_reg(output, target)

    return objective


def test_an_attack_leaves_no_trace():
    model, x, y = awkward(), torch.rand(4, 6), torch.randn(4, 3)
    before = snapshot(model, x, y)
    pgd_attack(model, x, y, restarts=2, **OPTIONS)
    ood_attack(model, x, x.flip(0), **OPTIONS)
    assert_untouched(before, snapshot(model, x, y))
    assert notes(model)  # the user's hooks did run


@pytest.mark.parametrize("call", [1, 2, 4])
def test_an_attack_that_raises_leaves_no_trace(call):
    model, x, y = awkward(), torch.rand(4, 6), torch.randn(4, 3)
    before = snapshot(model, x, y)
    with pytest.raises((RuntimeError, ValueError), match="half-way"):  # the second where it is checked
        pgd_attack(model, x, y, **{**OPTIONS, "objective": raise_at(call)})
    assert_untouched(before, snapshot(model, x, y))


def test_dropout_in_train_mode_warns_and_leaves_no_trace():
    model, x, y = awkward(), torch.rand(4, 6), torch.randn(4, 3)
    model.dropout.train()
    before = snapshot(model, x, y)
    with pytest.raises(ValueError, match=r"two passes.*differ.*dropout in train mode"):
        pgd_attack(model, x, y, **OPTIONS)
    assert_untouched(before, snapshot(model, x, y))
    with pytest.warns(UserWarning, match=r"drew random numbers.*model.eval\(\)"):
        pgd_attack(model, x, y, execution=Execution(noisy=True), **OPTIONS)
    assert_untouched(before, snapshot(model, x, y))


@pytest.mark.parametrize("tracked", [True, False])
def test_batch_statistics_are_refused(tracked):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=tracked))
    model.train(tracked)
    with pytest.raises(ValueError, match=r"BatchNorm1d '1'.*statistics of the batch.*(model.eval|GroupNorm)"):
        pgd_attack(model, torch.rand(3, 2), torch.zeros(3, 2), **OPTIONS)
    assert model.training is tracked


def test_the_callers_input_may_require_a_gradient_and_keeps_it():
    model, (x, y) = two_heads("dict"), batch(2)
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    result = pgd_attack(lambda x: model(x)["contour"], x, y["contour"], **OPTIONS)
    assert x.requires_grad
    assert torch.equal(x.grad, torch.ones_like(x))
    assert not result.x.requires_grad
    assert result.x.data_ptr() != x.data_ptr()


def test_an_attack_inside_a_training_step_does_not_disturb_its_graph():
    model, (x, y) = two_heads(), batch(3)
    loss = model(x)["contour"].square().mean()
    expected = torch.autograd.grad(loss, list(model.encoder.parameters()), retain_graph=True)
    pgd_attack(lambda x: model(x)["contour"], x, y["contour"], **OPTIONS)
    with frozen(model):
        pass
    loss.backward()
    for parameter, gradient in zip(model.encoder.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_parametrised_weights_survive():
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)).eval()
    x, y = torch.rand(2, 3), torch.zeros(2, 3)
    before = snapshot(model, x, y)
    pgd_attack(model, x, y, **OPTIONS)
    assert_untouched(before, snapshot(model, x, y))


# Every way into the library


class Heads(nn.Module):
    """An awkward network as one head, and another head that an attack need not run."""

    def __init__(self):
        super().__init__()
        self.inner, self.other = Awkward(), nn.Linear(6, 3)

    def forward(self, x):
        return {"a": self.inner(x), "b": self.other(x)}


def entered(name, execution, f=J_IND_reg, prepare=lambda model: None):
    """Go in, and compare what is there before and after; the error that came out, if any."""
    model = awkward(Heads)
    prepare(model)
    x, y = torch.rand(4, 6), {"a": torch.randn(4, 3), "b": torch.randn(4, 3)}
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    before, error = snapshot(model, x, x.grad, *y.values()), None
    try:
        ENTRANCES[name](model, x, y, f, EXECUTIONS[execution], Threat(linf, 0.1))
    except (RuntimeError, AssumptionError) as raised:  # the second where assumptions are tested
        error = str(raised)
    assert_untouched(before, snapshot(model, x, x.grad, *y.values()))
    return error


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", ENTRANCES)
def test_every_entrance_leaves_everything_as_it_was(name, execution):
    assert entered(name, execution) is None


CALLS = {"power_start": 0, "detectors": 1, "running": 2}  # of the objective, at most


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(
    ("name", "call"), [(name, call) for name in ENTRANCES for call in (1, 2, 4) if call <= CALLS.get(name, 4)]
)
def test_so_does_one_whose_objective_raises(name, execution, call):
    assert "half-way" in entered(name, execution, raise_at(call))


@pytest.mark.filterwarnings("ignore:only .* will be read")  # the raising hook is met while the model is cut
@pytest.mark.parametrize("name", ENTRANCES)
def test_so_does_one_whose_model_raises(name):
    errors = []
    for call in (1, 3, 6, 10):
        runs = []

        def spoil(*_, call=call, runs=runs):
            runs.append(1)
            if len(runs) >= call:
                raise RuntimeError("half-way")

        errors.append(
            entered(
                name,
                "as it is",
                prepare=lambda model, spoil=spoil: model.inner.norm.register_forward_hook(spoil),
            )
        )
    assert errors[0] is not None
    assert "half-way" in errors[0]
