"""What every attack assumes is tested on the clean input, and a refusal names the right cause.

Each kind of cause is met through a module and through a function around it, at once and in parts.
"""

import random
from functools import partial
from itertools import count as counting

import numpy as np
import pytest
import torch
from networks import seeded, uniform
from torch import nn

from advreg import Execution, J_IND_reg, Steepest, Threat, auto_attack, evaluate, linf, ood_attack, pgd_attack
from advreg.attacks import random_noise, square_attack
from advreg.execution import AssumptionError, expectation
from advreg.objectives import Within, per_example
from advreg.tasks import Task

COUNT = 5
OPTIONS = {"threat": Threat(linf, 0.1), "steps": 3, "rule": Steepest(0.4)}
in_parts = pytest.mark.parametrize("parts", [None, 3], ids=["at once", "in parts"])


def attacked(model, x, y, objective=J_IND_reg, parts=None, **options):
    execution = Execution(micro_batch=parts)
    return pgd_attack(model, x, y, objective=objective, execution=execution, **OPTIONS | options)


def refused(*arguments, **options):
    """What the refusal says."""
    with pytest.raises(AssumptionError) as told:
        attacked(*arguments, **options)
    return str(told.value)


# Statistics of the batch


class Normalised(nn.Module):
    """With BatchNorm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))

    def forward(self, x, scale=1.0):
        return scale * self.layers(x)


class Inferer:
    """An object that runs a network."""

    def __init__(self, net):
        self.nets = {"first": [net]}

    def __call__(self, x):
        return self.nets["first"][0](x)


def closure(net):
    def run(x):
        def inner(x):
            return net(x)

        return inner(x)

    return run


def lazily(net):
    """A function with a module in a default argument."""

    def run(x, net=net):
        return net(x)

    return run


class Hidden(nn.Module):
    """Keeps a network out of its own weights, as teachers are kept."""

    def __init__(self, net):
        super().__init__()
        self.teacher = [net]

    def forward(self, x):
        return self.teacher[0](x)


NETWORK = None


def by_global(net):
    global NETWORK  # noqa: PLW0603 - a script's own network
    NETWORK = net
    return lambda x: 1 * NETWORK(x)


REACHED = {
    "module": lambda net: net,
    "lambda": lambda net: lambda x: 1 * net(x),
    "partial": lambda net: partial(net, scale=2.0),
    "partial of a lambda": lambda net: partial(lambda net, x: net(x), net),
    "bound method": lambda net: net.forward,
    "closure": closure,
    "default argument": lazily,
    "callable object": Inferer,
    "method of an object": lambda net: Inferer(net).__call__,
    "global": by_global,
    "expectation": lambda net: expectation(net, 2),
    "inside a module's list": Hidden,
}


@pytest.mark.parametrize("how", REACHED)
def test_train_mode_is_told_however_a_network_is_reached(how):
    net, x, y = seeded(Normalised).train(), uniform(COUNT, 4), uniform(COUNT, 2)
    mean = net.layers[1].running_mean.clone()
    with pytest.raises(ValueError, match=r"BatchNorm1d.*(statistics of the batch|in train mode).*\.eval\(\)"):
        attacked(REACHED[how](net), x, y)
    assert torch.equal(net.layers[1].running_mean, mean)
    assert net.layers[1].num_batches_tracked == 0
    result = attacked(REACHED[how](net.eval()), x, y)
    assert (result.gain > 0).all()
    assert torch.equal(net.layers[1].running_mean, mean)


def mean_over_the_batch(x, weight):
    return x @ weight - (x @ weight).mean(0)


def softmax_over_the_batch(x, weight):
    return (x @ weight).softmax(0)


def norm_of_the_batch(x, weight):
    return x @ weight / (x @ weight).norm()


def ranks_in_the_batch(x, weight):
    return x @ weight + (x @ weight).argsort(0)


def neighbours(x, weight):
    return (x + 0.1 * x.roll(1, 0)) @ weight


def attention_over_the_batch(x, weight):
    code = x @ weight
    return (code @ code.mT).softmax(1) @ code


INTERACTING = (
    mean_over_the_batch,
    softmax_over_the_batch,
    norm_of_the_batch,
    ranks_in_the_batch,
    neighbours,
    attention_over_the_batch,
)


@in_parts
@pytest.mark.parametrize("function", INTERACTING)
def test_examples_that_interact_by_a_function(function, parts):
    weight = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    told = refused(partial(function, weight=weight), uniform(COUNT, 4), uniform(COUNT, 2), parts=parts)
    assert "whose examples do not interact" in told
    assert "statistics over the batch" in told
    assert "of example" in told


# Time first


class Recurrent(nn.Module):
    """Torch's own default, (time, batch, features)."""

    def __init__(self):
        super().__init__()
        self.core, self.head = nn.LSTM(3, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.core(x)[0])


class Attending(nn.Module):
    """As torch's own attention is by default."""

    def __init__(self):
        super().__init__()
        self.core, self.head = nn.MultiheadAttention(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.core(x, x, x, need_weights=False)[0])


@in_parts
@pytest.mark.parametrize(("kind", "shape"), [(Recurrent, (7, 4, 3)), (Attending, (7, 3, 4))])
def test_time_before_the_batch(kind, shape, parts):
    net, x = seeded(kind).eval(), uniform(*shape)
    told = refused(net, x, uniform(*shape[:2], 2), parts=parts)
    assert "time before the batch (batch_first=True" in told

    def turned(x):
        return net(x.transpose(0, 1)).transpose(0, 1)

    assert (attacked(turned, x, uniform(*shape[:2], 2), parts=parts).gain >= 0).all()


# State between calls


class Stateful(nn.Module):
    """A linear layer, and something that goes on from call to call."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.kept = None
        self.begin()

    def begin(self):
        pass


class Membrane(Stateful):
    def forward(self, x):
        now = self.layer(x)
        self.kept = now if self.kept is None else 0.8 * self.kept.detach().mean(0) + now
        return self.kept


class Momentum(Stateful):
    def begin(self):
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        now = self.layer(x)
        self.mean = 0.9 * self.mean + 0.1 * now.detach().mean(0)
        return now - self.mean


class Cache(Stateful):
    """Remembers the first input that it sees."""

    def begin(self):
        self.cache = {}

    def forward(self, x):
        first = self.cache.setdefault("first", x.detach().mean())
        self.cache["last"] = x.detach().mean()
        return self.layer(x) * (first + self.cache["last"] * len(self.cache))


class Counter:
    """An observer of a plain class."""

    def __init__(self):
        self.calls = 0


class Observed(Stateful):
    def begin(self):
        self.observer = Counter()

    def forward(self, x):
        self.observer.calls += 1
        return self.layer(x) * (1 + 0.1 * self.observer.calls)


class Written(Stateful):
    """Writes a buffer in place."""

    def begin(self):
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * (1 + 0.1 * self.calls)


class Queue(Stateful):
    def begin(self):
        self.history = []

    def forward(self, x):
        self.history.append(float(x.detach().sum()))
        return self.layer(x) + sum(self.history)


STATEFUL = {
    Membrane: "Membrane.kept",
    Momentum: "Momentum",
    Cache: "Cache.cache",
    Observed: "reset it in the forward",  # an object in it, or a tensor: written in place, not named
    Written: "reset it in the forward",
    Queue: "Queue.history",
}


@in_parts
@pytest.mark.parametrize("kind", STATEFUL)
def test_state_between_calls(kind, parts):
    net, x = seeded(kind).eval(), uniform(COUNT, 4)
    told = refused(net, x, uniform(COUNT, 2), parts=parts)
    assert "state kept between calls" in told
    assert STATEFUL[kind] in told
    assert "reset it in the forward" in told


def test_state_of_a_function():
    calls = counting(1)

    def drifting(x):
        return x * (1 + 0.1 * next(calls))

    assert "state kept between calls" in refused(drifting, uniform(COUNT, 4), uniform(COUNT, 4))


def test_a_state_that_is_reset_is_no_state():
    net, x, y = seeded(Membrane).eval(), uniform(COUNT, 4), uniform(COUNT, 2)

    def fresh(x):
        net.kept = None
        return net(x)

    result = attacked(fresh, x, y)
    torch.testing.assert_close(result.value, J_IND_reg(net.layer(result.x), y).detach())


# Noise


def own_generator():
    g = torch.Generator().manual_seed(0)
    return lambda x: torch.randn(x.shape, generator=g)


def own_numpy_generator():
    g = np.random.default_rng(0)
    return lambda x: torch.from_numpy(g.normal(size=tuple(x.shape))).float()


NOISES = {
    "torch": lambda: torch.randn_like,
    "numpy": lambda: lambda x: torch.from_numpy(np.random.randn(*x.shape)).float(),  # noqa: NPY002 - the global generator is what is tested
    "python": lambda: lambda x: torch.tensor([[random.gauss(0, 1)] for _ in x]),
    "a generator of its own": own_generator,
    "numpy's, of its own": own_numpy_generator,
    "one number": lambda: lambda x: random.random(),
}


@in_parts
@pytest.mark.parametrize("noise", NOISES)
def test_noise(noise, parts):
    draw = NOISES[noise]()
    told = refused(lambda x: x + 0.1 * draw(x), uniform(COUNT, 4), uniform(COUNT, 4), parts=parts)
    assert "two passes on the same input differ" in told
    assert "noise drawn in the forward" in told
    assert "expectation(model, draws=20)" in told
    assert "Execution(noisy=True)" in told


@pytest.mark.parametrize("noise", ["torch", "numpy", "python"])
def test_known_noise_is_attacked_and_told(noise):
    draw = NOISES[noise]()
    options = {"objective": J_IND_reg, **OPTIONS}
    with pytest.warns(UserWarning, match="drew random numbers"):
        found = pgd_attack(
            lambda x: x + 0.1 * draw(x),
            uniform(COUNT, 4),
            uniform(COUNT, 4),
            execution=Execution(noisy=True),
            **options,
        )
    assert found.value.isfinite().all()


def test_dropout_in_train_mode():
    net = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))).train()
    assert "dropout in train mode" in refused(net, uniform(COUNT, 4), uniform(COUNT, 2))


def test_an_objective_that_draws():
    def objective(output, target):
        return (output + torch.randn_like(output) - target).square().sum(1)

    told = refused(lambda x: x, uniform(COUNT, 4), uniform(COUNT, 4), objective=objective)
    assert "objective" in told
    assert "random" in told or "draw" in told


# Targets and objectives


def two_by_chance():
    """Two vectors that are as long as the batch by chance: one of them could be told, not both."""
    y = {"points": uniform(COUNT, COUNT), "low": torch.arange(5.0), "high": torch.arange(5.0) ** 2}

    def objective(output, target):
        both = target["low"].sum() + target["high"].sum()
        return (output - target["points"]).square().sum(1) * both

    return y, objective


def outside_the_target():
    held = uniform(COUNT, COUNT)
    return None, lambda output, _: (output - held).square().sum(1)


def averaged():
    return uniform(COUNT, COUNT), lambda o, t: (o - t).square().mean().expand(len(o))


def scaled_by_the_batch():
    return uniform(COUNT, COUNT), lambda o, t: (o - t).square().sum(1) / len(o)


def unmarked_rows():
    """Rows whose numbers stand in the second column."""
    y = torch.tensor([[5.0, 1], [3, 0], [2, 2], [1, 4], [2, 3]])

    def objective(output, target):
        found = torch.zeros(len(output)).index_add(0, target[:, 1].long(), target[:, 0])
        return output.sum(1) * found

    return y, objective


TARGETS = {
    "two vectors as long as the batch": (two_by_chance, "low"),
    "a tensor outside the target": (outside_the_target, "holds tensors of the whole batch"),
    "an average over the batch": (averaged, "reduction='none'"),
    "a share of the batch": (scaled_by_the_batch, "averages over the batch"),
    "rows with numbers where nobody looks": (unmarked_rows, "per_example(rows, number=0)"),
}


@in_parts
@pytest.mark.parametrize("name", TARGETS)
def test_targets_that_cannot_be_told(name, parts):
    make, word = TARGETS[name]
    y, objective = make()
    told = refused(lambda x: 2 * x, uniform(COUNT, COUNT), y, objective=objective, parts=parts)
    assert "must not depend on the rest of its batch" in told
    assert "advreg.objectives.shared(value)" in told
    assert word in told


def test_a_mark_that_is_wrong():
    with pytest.raises(ValueError, match=r"per_example\(...\) must hold one entry for each of 5.*got 3"):
        attacked(lambda x: x, uniform(COUNT, 4), per_example([1, 2, 3]))


def test_a_judge_and_a_stop_rule_are_examined_too():
    x, y = uniform(COUNT, 4), uniform(COUNT, 4).flip(0)
    told = refused(lambda x: x, x, y, judge=lambda o, t: (o - t).square().mean().expand(len(o)))
    assert "judge" in told
    told = refused(lambda x: x, x, y, stop=lambda o, t: o.sum(1) > o.sum(1).mean())
    assert "stop rule" in told


# Shapes


def test_an_objective_that_squeezes_the_batch_away():
    def objective(output, target):
        return (output.squeeze() - target.squeeze()).square().sum(1)

    x, y = uniform(COUNT, 4), uniform(COUNT, 1, 4)
    told = refused(lambda x: x[:, None], x, y, objective=objective, restarts=2)
    assert "squeezes the batch away" in told
    found = attacked(lambda x: x[:, None], x, y, objective=objective)  # where nothing is cut it is right
    torch.testing.assert_close(found.value, (found.x - y[:, 0]).square().sum(1))


class Static(nn.Module):
    """Serves five examples, as an exported network does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x.reshape(5, 4))


@pytest.mark.parametrize("options", [{"restarts": 2}, {"stop": lambda o, _: o[:, 0] > 9}, {"parts": 2}])
def test_a_network_that_serves_batches_of_one_size(options):
    net, x, y = seeded(Static).eval(), uniform(COUNT, 4), uniform(COUNT, 2)
    assert "batches of one size" in refused(net, x, y, **options)
    found = attacked(net, x, y)  # where the batch is never cut, there is nothing to refuse
    torch.testing.assert_close(found.value, J_IND_reg(net(found.x), y).detach())


def test_a_second_input_that_stays_whole():
    beside = uniform(COUNT, 4)
    told = refused(lambda x: x + beside, uniform(COUNT, 4), uniform(COUNT, 4))
    assert "second input" in told


def test_a_second_input_that_is_broadcast_over_one():
    """Of one example alone the sum has five rows."""
    beside = uniform(COUNT, 4)
    told = refused(lambda x: (x + beside)[: len(x)], uniform(COUNT, 4), uniform(COUNT, 4))
    assert "interact" in told


# Whatever enters


ENTRANCES = {
    "auto_attack": lambda m, x, y: auto_attack(
        m, x, y, heads={"": Task(J_IND_reg, "higher")}, threat=OPTIONS["threat"], budget=5
    ),
    "square_attack": lambda m, x, y: square_attack(
        m, x, y, objective=J_IND_reg, threat=OPTIONS["threat"], queries=3
    ),
    "random_noise": lambda m, x, y: random_noise(m, x, y, objective=J_IND_reg, threat=OPTIONS["threat"]),
    "ood_attack": lambda m, x, y: ood_attack(
        m, x, x.flip(0), objective=J_IND_reg, match={"it": Within(J_IND_reg, high=1.0)}, **OPTIONS
    ),
    "evaluate": lambda m, x, y: evaluate(
        m, [(x, y)], {"": {"e": J_IND_reg}}, partial(pgd_attack, objective=J_IND_reg, **OPTIONS)
    ),
}
BROKEN = {
    "interacting": lambda: lambda x: x - x.mean(0),
    "noisy": lambda: lambda x: x + torch.rand_like(x),
    "stateful": lambda: nn.Sequential(seeded(Membrane), nn.Linear(2, 4)).eval(),
}


@pytest.mark.filterwarnings("ignore:the model or the objective drew")
@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("name", ENTRANCES)
def test_every_entrance_refuses(name, broken):
    model = BROKEN[broken]()
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002 - the global generator is what is tested
    with pytest.raises(AssumptionError):
        ENTRANCES[name](model, uniform(COUNT, 4), uniform(COUNT, 4))
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002 - the global generator is what is tested
