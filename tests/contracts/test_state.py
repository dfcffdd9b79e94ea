"""After an attack the model's whole state and all generators are as they were."""

import random
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from networks import seeded, uniform
from torch import nn

from advreg import Execution, J_IND_reg, Steepest, Threat, linf, pgd_attack
from advreg.training import AdversarialLoss, Adversary

THREAT = Threat(linf, 0.1)
OPTIONS = {"objective": J_IND_reg, "threat": THREAT, "steps": 3, "rule": Steepest(0.4)}


def data():
    return uniform(4, 6), uniform(4, 3).flip(0)


# State of modules. Each kind writes something at every call, and `seen` says what is there.


class Plain(nn.Module):
    """A linear layer that notes its calls in some way that does not change its outputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.begin()

    def forward(self, x):
        self.note(x.detach())
        return self.layer(x)


def kind(begin, note, seen):
    """A class of networks: what it has, what a call does to it, and what can be seen of it."""
    return type("Noted", (Plain,), {"begin": begin, "note": note, "seen": seen})


class Observer:
    """Of a plain class."""

    def __init__(self):
        self.calls, self.seen, self.inner = 0, [], {"deep": [0]}

    def __call__(self, x):
        self.calls += 1
        self.seen.append(float(x.sum()))
        self.inner["deep"][0] += 1


@dataclass
class Statistics:
    """An observer as a dataclass."""

    count: int = 0
    mean: float = 0.0


def data_written(self, x):
    self.total.data += x.sum()


def put(self, name, value):
    setattr(self, name, value)


def observed(self):
    watched = self.observer
    return watched.calls, list(watched.seen), watched.inner["deep"][0]


KINDS = {
    "buffer in place": kind(
        lambda self: self.register_buffer("total", torch.zeros(3)),
        lambda self, x: self.total.add_(x.sum()),
        lambda self: (id(self.total), self.total.tolist()),
    ),
    "buffer by data": kind(
        lambda self: self.register_buffer("total", torch.zeros(3)),
        data_written,
        lambda self: (id(self.total), self.total.tolist()),
    ),
    "buffer replaced": kind(
        lambda self: self.register_buffer("total", torch.zeros(3)),
        lambda self, x: put(self, "total", x.sum(0)),
        lambda self: (id(self.total), self.total.tolist()),
    ),
    "buffer made": kind(
        lambda self: self.register_buffer("total", None),
        lambda self, x: put(self, "total", x.sum(0)),
        lambda self: self.total,
    ),
    "attribute": kind(
        lambda self: put(self, "calls", 0),
        lambda self, x: put(self, "calls", self.calls + 1),
        lambda self: self.calls,
    ),
    "attribute made": kind(
        lambda self: None,
        lambda self, x: put(self, "last", x),
        lambda self: hasattr(self, "last"),
    ),
    "attribute removed": kind(
        lambda self: put(self, "first", True),
        lambda self, x: vars(self).pop("first", None),
        lambda self: hasattr(self, "first"),
    ),
    "tensor in an attribute": kind(
        lambda self: put(self, "total", torch.zeros(3)),
        lambda self, x: self.total.add_(1),
        lambda self: self.total.tolist(),
    ),
    "list": kind(
        lambda self: put(self, "seen_so_far", [1]),
        lambda self, x: self.seen_so_far.append(2),
        lambda self: list(self.seen_so_far),
    ),
    "list in a tuple": kind(
        lambda self: put(self, "pair", ([], 3)),
        lambda self, x: self.pair[0].append(2),
        lambda self: list(self.pair[0]),
    ),
    "dict": kind(
        lambda self: put(self, "cache", {"b": 1, "a": 2}),
        lambda self, x: self.cache.update(a=x, c=x),
        lambda self: list(self.cache.items()),
    ),
    "ordered dict": kind(
        lambda self: put(self, "cache", OrderedDict(b=1, a=2)),
        lambda self, x: self.cache.move_to_end("b"),
        lambda self: list(self.cache),
    ),
    "default dict": kind(
        lambda self: put(self, "cache", defaultdict(list)),
        lambda self, x: self.cache["x"].append(1),
        lambda self: dict(self.cache),
    ),
    "counter": kind(
        lambda self: put(self, "cache", Counter(a=2)),
        lambda self, x: self.cache.update("ab"),
        lambda self: dict(self.cache),
    ),
    "set": kind(
        lambda self: put(self, "sizes", {1}),
        lambda self, x: self.sizes.add(len(x)),
        lambda self: set(self.sizes),
    ),
    "deque": kind(
        lambda self: put(self, "window", deque([1, 2], maxlen=2)),
        lambda self, x: self.window.append(3),
        lambda self: (list(self.window), self.window.maxlen),
    ),
    "nested containers": kind(
        lambda self: put(self, "nest", {"a": [{"b": deque([torch.zeros(2)])}]}),
        lambda self, x: self.nest["a"][0]["b"][0].add_(1),
        lambda self: self.nest["a"][0]["b"][0].tolist(),
    ),
    "observer": kind(
        lambda self: put(self, "observer", Observer()), lambda self, x: self.observer(x), observed
    ),
    "observer, a dataclass": kind(
        lambda self: put(self, "observer", Statistics()),
        lambda self, x: put(self.observer, "mean", float(x.mean())),
        lambda self: self.observer.mean,
    ),
    "array in an attribute": kind(
        lambda self: put(self, "total", np.zeros(3)),
        lambda self, x: np.add(self.total, 1, out=self.total),
        lambda self: self.total.tolist(),
    ),
    "mode": kind(
        lambda self: None,
        lambda self, x: put(self.layer, "training", not self.layer.training),
        lambda self: [module.training for module in self.modules()],
    ),
    "flags": kind(
        lambda self: None,
        lambda self, x: self.layer.bias.requires_grad_(False),
        lambda self: [parameter.requires_grad for parameter in self.parameters()],
    ),
    "gradients": kind(
        lambda self: None,
        lambda self, x: put(self.layer.bias, "grad", torch.ones(3)),
        lambda self: self.layer.bias.grad,
    ),
}


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_what_a_call_writes_is_put_back(name, prune):
    model, (x, y) = seeded(KINDS[name]).eval(), data()
    before = model.seen()
    pgd_attack(model, x, y, execution=Execution(micro_batch=3, prune=prune), **OPTIONS)
    assert model.seen() == before
    pgd_attack(lambda x: 1 * model(x), x, y, execution=Execution(prune=prune), **OPTIONS)
    assert model.seen() == before


def test_weights_that_a_call_writes_are_named():
    clamped = kind(
        lambda self: None,
        lambda self, x: self.layer.weight.data.clamp_(-0.05, 0.05),
        lambda self: self.layer.weight.tolist(),
    )
    model, (x, y) = seeded(clamped).eval(), data()
    with pytest.raises(ValueError, match=r"wrote into its own parameters.*Linear.weight.*run it once before"):
        pgd_attack(model, x, y, **OPTIONS)
    model(x)
    pgd_attack(model, x, y, **OPTIONS)


@pytest.mark.parametrize("name", KINDS)
def test_so_it_is_where_an_objective_raises(name):
    model, (x, y), calls = seeded(KINDS[name]).eval(), data(), []
    before = model.seen()

    def objective(output, target):
        calls.append(1)
        if len(calls) == 20:
            raise RuntimeError("half-way")
        return J_IND_reg(output, target)

    with pytest.raises(RuntimeError, match="half-way"):
        pgd_attack(model, x, y, **{**OPTIONS, "objective": objective, "steps": 30})
    assert model.seen() == before


class Teacher(nn.Module):
    """Keeps a network in a list, out of its own weights."""

    def __init__(self):
        super().__init__()
        self.inner = [seeded(KINDS["buffer in place"]).eval()]

    def forward(self, x):
        return self.inner[0](x)


def test_a_network_in_a_list_of_a_network_is_frozen_and_put_back():
    model, (x, y) = Teacher().eval(), data()
    inner, flags = model.inner[0], []
    before = inner.seen()

    def objective(output, target):
        flags.extend(parameter.requires_grad for parameter in inner.parameters())
        return J_IND_reg(output, target)

    pgd_attack(model, x, y, **{**OPTIONS, "objective": objective})
    assert inner.seen() == before
    assert not any(flags)
    assert all(parameter.requires_grad for parameter in inner.parameters())


# Generators


OWN = {
    "torch": (
        lambda: torch.Generator().manual_seed(3),
        lambda g, x: torch.randn(x.shape, generator=g),
        lambda g: g.get_state().tolist(),
    ),
    "numpy": (
        lambda: np.random.default_rng(3),
        lambda g, x: torch.from_numpy(g.normal(size=tuple(x.shape))).float(),
        lambda g: g.bit_generator.state,
    ),
    "python": (lambda: random.Random(3), lambda g, x: g.random(), lambda g: g.getstate()),
}


class Noisy(nn.Module):
    """Draws from a generator of its own."""

    def __init__(self, own, draw):
        super().__init__()
        self.layer, self.own, self.draw = nn.Linear(6, 3), own, draw

    def forward(self, x):
        return self.layer(x + 0.01 * self.draw(self.own, x))


@pytest.mark.parametrize("name", OWN)
def test_a_generator_of_the_networks_own_is_put_back(name):
    make, draw, state = OWN[name]
    model, (x, y) = Noisy(make(), draw).eval(), data()
    before = state(model.own)
    pgd_attack(model, x, y, execution=Execution(noisy=True), **OPTIONS)
    assert state(model.own) == before


def states():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002 - the global generator is what is tested


DRAWS = {
    "torch": torch.rand,
    "numpy": np.random.rand,
    "python": lambda n: [random.random() for _ in range(n)],
}


@pytest.mark.parametrize("where", ["model", "objective", "judge", "stop"])
@pytest.mark.parametrize("name", DRAWS)
def test_global_generators_are_put_back(name, where):
    (x, y), layer, before = data(), nn.Linear(6, 3), states()

    def drawing(function, at):
        def run(*arguments):
            if at == where:
                DRAWS[name](3)
            return function(*arguments)

        return run

    with pytest.warns(UserWarning, match="drew random numbers"):
        pgd_attack(
            drawing(layer, "model"),
            x,
            y,
            **{**OPTIONS, "objective": drawing(J_IND_reg, "objective")},
            judge=drawing(J_IND_reg, "judge"),
            stop=drawing(lambda output, _: output[:, 0] > 9, "stop"),
            execution=Execution(noisy=True),
        )
    assert states() == before


# Modes and caches


class Switched(nn.Module):
    """Does something of its own whenever its mode changes."""

    def __init__(self):
        super().__init__()
        self.weight, self.layer, self.history = nn.Parameter(torch.ones(3)), nn.Linear(6, 3), []

    def train(self, mode=True):
        super().train(mode)
        self.history = [*self.history, mode]
        return self

    def forward(self, x):
        return self.layer(x) * self.weight


def itself(net):
    return net


def a_function(net):
    return lambda x: 1 * net(x)


@pytest.mark.parametrize("wrap", [itself, a_function])
def test_modes_change_by_the_networks_own_methods(wrap):
    net, (x, y) = Switched(), data()
    net.history = []
    modes = []

    def objective(output, target):
        modes.append(net.training)
        return J_IND_reg(output, target)

    loss = AdversarialLoss(J_IND_reg, {"it": (0.5, Adversary(objective, THREAT, steps=2))})
    loss(wrap(net), x, y, seed=0)
    assert net.history == [False, True]
    assert not any(modes)
    assert net.training


class Caching(nn.Module):
    """Keeps what it makes of its weights in eval mode, as fast vision transformers do."""

    def __init__(self, clears):
        super().__init__()
        self.weight, self.clears = nn.Parameter(torch.zeros(6)), clears
        self.cache, self.kept = {}, None

    def train(self, mode=True):
        super().train(mode)
        if mode and self.clears:
            self.cache, self.kept = {}, None
        return self

    def forward(self, x):
        if self.training:
            return x + self.weight
        if "weight" not in self.cache:
            self.cache["weight"], self.kept = self.weight.clone(), self.weight.detach().clone()
        return x + (self.cache["weight"] + self.kept) / 2


@pytest.mark.parametrize("clears", [True, False], ids=["cleared by train", "never cleared"])
@pytest.mark.parametrize("execution", [None, Execution(micro_batch=2), Execution("bfloat16")], ids=str)
def test_no_cache_goes_stale_in_training(clears, execution):
    net, x, y = Caching(clears).train(), uniform(4, 6), uniform(4, 6) + 1
    descent = torch.optim.SGD(net.parameters(), 0.1)
    terms = {"it": (0.5, Adversary(J_IND_reg, Threat(linf, 0.02), steps=2, execution=execution))}
    loss = AdversarialLoss(J_IND_reg, terms)
    for step in range(4):
        descent.zero_grad()
        total, _ = loss(net, x, y, seed=step)
        total.backward()
        descent.step()
        assert net.cache == {}
        assert net.kept is None
    fresh = Caching(clears).eval()
    fresh.load_state_dict(net.state_dict())
    torch.testing.assert_close(net.eval()(x), fresh(x))
    assert net.weight.abs().min() > 0


def test_a_cache_that_was_filled_before_is_kept():
    net, x, y = Caching(clears=False).eval(), uniform(4, 6), uniform(4, 6)
    net(x)
    kept = net.cache["weight"], net.kept
    pgd_attack(net, x, y, **OPTIONS)
    assert (net.cache["weight"], net.kept) == kept or all(
        one is other for one, other in zip((net.cache["weight"], net.kept), kept, strict=True)
    )
