"""The caller's inputs, targets and weights stay as they are, whatever a network or objective writes into."""

from functools import partial

import pytest
import torch
from networks import seeded
from networks.entrances import ENTRANCES, EXECUTIONS
from torch import nn

from advreg import Execution, J_IND_reg, Steepest, Threat, linf, on, pgd_attack
from advreg.execution import AssumptionError
from advreg.training import AdversarialLoss, Adversary

THREAT = Threat(linf, 0.1)
OPTIONS = {"objective": J_IND_reg, "threat": THREAT, "steps": 3, "rule": Steepest(0.4)}


def data():
    g = torch.Generator().manual_seed(1)
    return torch.rand(4, 6, generator=g), torch.rand(4, 3, generator=g)


def shifted(x):
    return x.sub_(0.5).div_(0.25)


def overwritten(x):
    x[:] = 0.8 * x
    return x


def through_a_view(x):
    x.view(-1)[::2] *= 0.5
    return x


def unseen(x):
    """Unseen by autograd, as numpy's writing is."""
    x.detach().numpy()[:] += 0.1
    return x


IN_PLACE = {
    "sub_ and div_": shifted,
    "assignment": overwritten,
    "a view": through_a_view,
    "ReLU": lambda x: torch.relu_(x.sub_(0.4)),
    "numpy": unseen,
}


class InPlace(nn.Module):
    """Two heads behind something that writes into the input."""

    def __init__(self, name, *, copies):
        super().__init__()
        self.name, self.copies = name, copies
        self.inner = nn.ModuleDict(
            {"norm": nn.BatchNorm1d(6), "noise": nn.Dropout(0.1), "head": nn.Linear(6, 6)}
        )

    def forward(self, x):
        own = IN_PLACE[self.name](x.clone() if self.copies else x)
        code = self.inner["head"](self.inner["noise"](self.inner["norm"](own).relu_()))
        return {"a": code[:, :3], "b": code[:, 3:].sigmoid()}


def in_place(name, *, copies=False):
    return seeded(partial(InPlace, name, copies=copies)).eval()


@pytest.mark.filterwarnings("ignore:only .* will be read")
@pytest.mark.parametrize(
    ("name", "where", "execution"),
    [("sub_ and div_", where, "as it is") for where in ENTRANCES]
    + [("sub_ and div_", "pgd_attack", execution) for execution in EXECUTIONS]
    + [(name, where, "as it is") for name in IN_PLACE for where in ("pgd_attack", "evaluate")],
)
def test_a_network_that_writes_into_its_input(name, where, execution):
    (x, y), results = data(), []
    y = {"a": y, "b": y.flip(1)}
    for copies in (True, False):
        model, given = in_place(name, copies=copies), x.clone()
        target = {key: value.clone() for key, value in y.items()}
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        found = ENTRANCES[where](model, given, target, J_IND_reg, EXECUTIONS[execution], THREAT)
        results.append(getattr(found, "value", None))
        assert torch.equal(given, x)
        assert all(torch.equal(target[key], y[key]) for key in y)
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    if isinstance(results[0], torch.Tensor):
        assert torch.equal(*results)


def test_a_network_that_writes_into_its_input_is_cut_to_a_head_without_a_warning():
    x, y = data()
    for copies in (True, False):
        model = in_place("sub_ and div_", copies=copies)
        pgd_attack(model, x, {"a": y}, **{**OPTIONS, "objective": on("a", J_IND_reg)})


@pytest.mark.filterwarnings("ignore:only .* will be read")
@pytest.mark.parametrize("together", [True, False])
def test_training_a_network_that_writes_into_its_input(together):
    (x, y), parts = data(), []
    y = {"a": y, "b": y.flip(1)}
    attack = Adversary(on("a", J_IND_reg), THREAT, steps=2)
    loss = AdversarialLoss(on("a", J_IND_reg), {"it": (0.5, attack)}, together=together)
    for copies in (True, False):
        given = x.clone()
        parts.append(loss(in_place("sub_ and div_", copies=copies), given, y, seed=0)[1])
        assert torch.equal(given, x)
    assert parts[0] == parts[1]


# Objectives that write into what they get


@pytest.mark.parametrize("execution", [None, Execution(micro_batch=3)], ids=str)
def test_an_objective_that_writes_into_its_target(execution):
    x, y = data()

    def objective(output, target):
        return (output - target.mul_(2).clamp_(0.2, 0.8)).square().sum(1)

    def careful(output, target):
        return objective(output, target.clone())

    layer, before = seeded(lambda: nn.Linear(6, 3)), y.clone()
    expected = pgd_attack(layer, x, y, execution=execution, **{**OPTIONS, "objective": careful})
    assert expected.gain.mean() > 0
    with pytest.raises(AssumptionError, match=r"changes the target.*target.clone\(\)"):
        pgd_attack(layer, x, y, execution=execution, **{**OPTIONS, "objective": objective})
    assert torch.equal(y, before)


@pytest.mark.parametrize("judges", ["judge", "stop"])
def test_an_objective_that_writes_into_the_output(judges):
    """What it writes is not what a judge or a stop rule sees."""
    (x, y), layer = data(), seeded(lambda: nn.Linear(6, 3))

    def objective(output, target):
        return (output.clamp_(-0.1, 0.4) - target).square().sum(1)

    def careful(output, target):
        return objective(output.clone(), target)

    def error(output, target):
        return (output - target).square().sum(1)

    limit = float(error(layer(x), y).detach().median())
    told = {"judge": error} if judges == "judge" else {"stop": lambda o, t: error(o, t) > limit}
    with pytest.raises(AssumptionError, match=r"changes the output.*output.clone\(\)"):
        pgd_attack(layer, x, y, **{**OPTIONS, "objective": objective}, **told)
    assert pgd_attack(layer, x, y, **{**OPTIONS, "objective": careful}, **told).value.isfinite().all()
    found, expected = (  # where nobody reads it afterwards, it may
        pgd_attack(layer, x, y, **{**OPTIONS, "objective": function}) for function in (objective, careful)
    )
    torch.testing.assert_close(found.value, expected.value)
