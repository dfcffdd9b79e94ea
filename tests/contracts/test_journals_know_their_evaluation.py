"""A journal never returns the numbers of another evaluation, and knows its own in another process."""

import importlib
import logging
import os
import pathlib
import re
import subprocess
import sys
import textwrap
from functools import cached_property, partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

from advreg import Execution, J_IND_reg, Threat, evaluate, linf, pgd_attack, radius_curve
from advreg._core.fingerprint import describe, digest, facts, weights

X = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
Y = torch.rand(4, 2, generator=torch.Generator().manual_seed(1))

# A user's own modules, as they stand in a file: what is measured, and how.
HELPERS = """
OFFSET = 0.0
def scaled(value):
    return value + OFFSET
"""
MINE = """
from functools import partial
import torch
from torch import nn
import helpers
from helpers import scaled

SCALE = 1.0
NAMES = {"a", "b", "c"}
NET = nn.Linear(3, 2)
with torch.no_grad():
    NET.weight.fill_(0.5), NET.bias.fill_(0.25)

def error(o, t):
    return SCALE * scaled((o - t).abs().mean(1)) + ("a" not in NAMES)
def by_module(o, t):
    return (o - t).abs().mean(1) + helpers.OFFSET
def imported_late(o, t):
    from helpers import scaled as late
    return late((o - t).abs().mean(1))
def around(x):
    return NET(x)
def weighted(o, t, *, weight=1.0, power=1.0):
    return weight * (o - t).abs().pow(power).mean(1)
def made(factor):
    def inner(o, t):
        return factor * (o - t).abs().mean(1)
    return inner
quick = lambda o, t: 1.0 * (o - t).abs().mean(1)

class Metric:
    power = 1.0
    def __init__(self, weight): self.weight = weight
    def __repr__(self): return "Metric()"
    def __call__(self, o, t): return self.weight * (o - t).abs().pow(self.power).mean(1)
    def method(self, o, t): return self(o, t)
class Slotted:
    __slots__ = ("weight",)
    def __init__(self, weight): self.weight = weight
    def __call__(self, o, t): return self.weight * (o - t).abs().mean(1)

class Net(nn.Module):
    gain = 1.0
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)
        self.inner = nn.Sequential(nn.Identity(), nn.Dropout(0.0))
        self.temperature = 1.0
        self._hidden = {"shift": [0.0]}
        self.register_buffer("mean", torch.zeros(2), persistent=False)
        with torch.no_grad():
            self.line.weight.fill_(0.5), self.line.bias.fill_(0.25)
    def forward(self, x):
        y = self.inner(self.line(x)) - self.mean + self._hidden["shift"][0]
        return self.gain * y / self.temperature
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes the user's modules, or an edit of one, and imports them anew."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    texts = {"helpers": HELPERS, "mine": MINE}

    def write(*edit):
        for name, text in texts.items():
            texts[name] = text.replace(*edit) if edit else text
            (tmp_path / f"{name}.py").write_text(texts[name])
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("mine")

    yield write
    for name in texts:
        sys.modules.pop(name, None)


def curve(journal, metric, model=None):
    attack = partial(pgd_attack, objective=J_IND_reg, steps=2)
    model = nn.Linear(3, 2).requires_grad_() if model is None else model
    if isinstance(model, nn.Linear):
        with torch.no_grad():
            model.weight.fill_(0.5), model.bias.fill_(0.25)
    return radius_curve(model, [(X, Y)], {"": {"e": metric}}, {"a": attack}, [0.0, 0.1], journal=journal)


METRICS = {
    "a function": lambda m: m.error,
    "a partial": lambda m: partial(m.error),
    "a bound method": lambda m: m.Metric(1.0).method,
    "an object that is called": lambda m: m.Metric(1.0),
    "a lambda": lambda m: m.quick,
    "a closure": lambda m: m.made(1.0),
    "by its module": lambda m: m.by_module,
    "imported when it is called": lambda m: m.imported_late,
    "default arguments": lambda m: m.weighted,
}


@pytest.mark.parametrize(
    ("metric", "edit", "named"),
    [
        ("a function", ("return SCALE *", "return 100 * SCALE *"), "metric 'e' of head '': its code"),
        ("a partial", ("return SCALE *", "return 100 * SCALE *"), "metric 'e' of head '': its code"),
        (
            "a bound method",
            ("return self.weight * (o - t).abs().pow", "return 9 * self.weight * (o - t).abs().pow"),
            "metric 'e' of head '': Metric.__call__: its code",
        ),
        (
            "an object that is called",
            ("return self.weight * (o - t).abs().pow", "return 9 * self.weight * (o - t).abs().pow"),
            "metric 'e' of head '': Metric.__call__: its code",
        ),
        ("a lambda", ("lambda o, t: 1.0", "lambda o, t: 7.0"), "metric 'e' of head '': its code"),
        ("a closure", ("return factor *", "return 2 + factor *"), "metric 'e' of head '': its code"),
        (
            "a function",
            ("SCALE = 1.0", "SCALE = 2.0"),
            "metric 'e' of head '': its global 'SCALE' (1.0 there, 2.0 here)",
        ),
        (
            "a function",
            ("return value + OFFSET", "return value + OFFSET + 1"),
            "metric 'e' of head '': its global 'scaled': its code",
        ),
        (
            "a function",
            ("OFFSET = 0.0", "OFFSET = 5.0"),
            "its global 'scaled': its global 'OFFSET' (0.0 there, 5.0 here)",
        ),
        ("a function", ('{"a", "b", "c"}', '{"b", "c"}'), "metric 'e' of head '': its global 'NAMES'"),
        (
            "by its module",
            ("OFFSET = 0.0", "OFFSET = 5.0"),
            "its global 'helpers.OFFSET' (0.0 there, 5.0 here)",
        ),
        (
            "imported when it is called",
            ("OFFSET = 0.0", "OFFSET = 5.0"),
            "metric 'e' of head '': the module 'helpers' that it imports",
        ),
        (
            "default arguments",
            ("weight=1.0", "weight=3.0"),
            "metric 'e' of head '': its default 'weight' (1.0 there, 3.0 here)",
        ),
        (
            "an object that is called",
            ("power = 1.0\n", "power = 2.0\n"),
            "metric 'e' of head '': Metric.power (1.0 there, 2.0 here)",
        ),
    ],
)
def test_an_edit_of_the_users_files_is_seen_and_named(tmp_path, mine, metric, edit, named):
    journal = tmp_path / "journal"
    before = curve(journal, METRICS[metric](mine()))
    assert curve(journal, METRICS[metric](mine())) == before
    after = METRICS[metric](mine(*edit))
    assert curve(None, after) != before  # an edit that changes numbers, or the test says nothing
    with pytest.raises(ValueError, match=f"differs in: .*{re.escape(named)}(;|\\.| \\()"):
        curve(journal, after)
    # What differs is all that is named.
    with pytest.raises(ValueError, match=r"differs in: [^;]*\. Remove the folder"):
        curve(journal, after)


def metric_of(make):
    return lambda m: (make(m), None)


def net_of(change):
    def made(m):
        net = m.Net().eval()
        change(net)
        return J_IND_reg, net

    return made


def filled(net):
    with torch.no_grad():
        net.bias.add_(1)


def other_global(m):
    filled(m.NET)
    return J_IND_reg, m.around


def doubled(module, inputs, output):
    return 2 * output


LOOK_ALIKES = {
    "an argument of a partial": (
        metric_of(lambda m: partial(m.weighted, weight=1.0)),
        metric_of(lambda m: partial(m.weighted, weight=2.0)),
        "metric 'e' of head '': its argument 'weight' (1.0 there, 2.0 here)",
    ),
    "a variable of a closure": (
        metric_of(lambda m: m.made(1.0)),
        metric_of(lambda m: m.made(2.0)),
        "metric 'e' of head '': its variable 'factor' (1.0 there, 2.0 here)",
    ),
    "an attribute behind an own repr": (
        metric_of(lambda m: m.Metric(1.0)),
        metric_of(lambda m: m.Metric(2.0)),
        "metric 'e' of head '': its attribute 'weight' (1.0 there, 2.0 here)",
    ),
    "the object of a bound method": (
        metric_of(lambda m: m.Metric(1.0).method),
        metric_of(lambda m: m.Metric(2.0).method),
        "its attribute 'weight' (1.0 there, 2.0 here)",
    ),
    "slots": (
        metric_of(lambda m: m.Slotted(1.0)),
        metric_of(lambda m: m.Slotted(2.0)),
        "metric 'e' of head '': its attribute 'weight' (1.0 there, 2.0 here)",
    ),
    "a function over a global network": (
        lambda m: (J_IND_reg, m.around),
        other_global,
        "model: its global 'NET': its parameter 'bias'",
    ),
    "a plain attribute of the model": (
        net_of(lambda net: None),
        net_of(lambda net: setattr(net, "temperature", 9.0)),
        "model: its attribute 'temperature' (1.0 there, 9.0 here)",
    ),
    "what a private attribute holds": (
        net_of(lambda net: None),
        net_of(lambda net: net._hidden["shift"].__setitem__(0, 3.0)),
        "model: its attribute '_hidden': its entry 'shift': its entry 0 (0.0 there, 3.0 here)",
    ),
    "a buffer that is not saved": (
        net_of(lambda net: None),
        net_of(lambda net: net.mean.fill_(4.0)),
        "model: its buffer 'mean'",
    ),
    "train mode of a layer": (
        net_of(lambda net: None),
        net_of(lambda net: net.inner[1].train()),
        "model: layer 'inner.1': its options",
    ),
    "an option of a layer of torch": (
        net_of(lambda net: None),
        net_of(lambda net: setattr(net.inner[1], "p", 0.5)),
        "model: layer 'inner.1': its options",
    ),
    "a hook": (
        net_of(lambda net: None),
        net_of(lambda net: net.inner.register_forward_hook(doubled)),
        "model: layer 'inner': its hook 0",
    ),
    "an attribute of the class": (
        net_of(lambda net: None),
        net_of(lambda net: setattr(type(net), "gain", 2.0)),
        "model: Net.gain (1.0 there, 2.0 here)",
    ),
}


@pytest.mark.parametrize("which", LOOK_ALIKES)
def test_a_look_alike_is_refused_by_the_name_of_what_differs(tmp_path, mine, which):
    one, other, named = LOOK_ALIKES[which]
    journal = tmp_path / "journal"
    first = curve(journal, *one(mine()))
    assert curve(journal, *one(mine())) == first
    with pytest.raises(
        ValueError, match=rf"differs in: {re.escape(named) if named[0] == 'm' else ''}"
    ) as error:
        curve(journal, *other(mine()))
    assert named in str(error.value)


class Secret(nn.Module):
    """Reads a number that no fingerprint can see."""

    def forward(self, x):
        return x[:, :2] * float(os.environ["GAIN"])


@pytest.mark.parametrize(("gain", "seen"), [("1.01", True), ("-1", True), ("nan", True), ("1.00001", False)])
def test_outputs_of_the_first_batch_are_the_last_line_of_defence(tmp_path, monkeypatch, gain, seen):
    monkeypatch.setenv("GAIN", "1")
    first = evaluate(Secret(), [(X, Y)], {"": {"e": J_IND_reg}}, journal=tmp_path)
    monkeypatch.setenv("GAIN", gain)
    if seen:
        with pytest.raises(ValueError, match="differs in: the model's outputs on the first batch, by about"):
            evaluate(Secret(), [(X, Y)], {"": {"e": J_IND_reg}}, journal=tmp_path)
    else:  # rounding: as on another machine
        assert evaluate(Secret(), [(X, Y)], {"": {"e": J_IND_reg}}, journal=tmp_path) == first


def test_outputs_that_change_their_places_are_others(tmp_path, monkeypatch):
    class Turning(nn.Module):
        def forward(self, x):
            return x.roll(int(os.environ["WAY"]), 0)[:, :2]

    run = partial(evaluate, Turning(), [(X, Y)], {"": {"e": J_IND_reg}}, journal=tmp_path)
    monkeypatch.setenv("WAY", "0")
    run()
    monkeypatch.setenv("WAY", "1")
    with pytest.raises(ValueError, match="outputs on the first batch"):
        run()


class Lazy(nn.Module):
    """Keeps a grid of the size that came last, from its first call on, as networks with positions do."""

    grid = None

    def forward(self, x):
        if self.grid is None or len(self.grid) != len(x):
            self.grid = torch.linspace(0, 1, len(x))[:, None]
        return x[:, :2] + self.grid


def test_what_a_model_keeps_from_its_first_call_on_is_the_same_the_next_time(tmp_path):
    model, batches = Lazy(), [(X, Y), (X[:1], Y[:1])]
    run = partial(evaluate, metrics={"": {"e": J_IND_reg}}, journal=tmp_path)
    first = run(model, batches)
    assert run(model, batches) == run(Lazy(), batches) == first
    model.gain = 2.0
    with pytest.raises(ValueError, match=r"model: its attribute 'gain' \(none there, 2.0 here\)"):
        run(model, batches)


class Random(nn.Module):
    """A randomised defence: other outputs each time."""

    def forward(self, x):
        return x[:, :2] + torch.randn(len(x), 2)


@pytest.mark.filterwarnings("ignore:the model or the objective drew random numbers:UserWarning")
def test_a_randomised_defence_goes_on(tmp_path):
    run = partial(evaluate, Random(), [(X, Y)], {"": {"e": J_IND_reg}}, journal=tmp_path)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        first = run()
        torch.manual_seed(1)
        assert run() == first
        assert evaluate(Random(), [(X, Y)], {"": {"e": J_IND_reg}}) != first
        torch.set_rng_state(before)
        evaluate(nn.Identity(), [(Y, Y)], {"": {"e": J_IND_reg}}, journal=tmp_path / "other")
        assert torch.equal(torch.get_rng_state(), before)  # a journal draws nothing from the caller's


PROGRAM = """
import sys
{imports}
import hashlib, re, torch, mine
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from enum import Enum
from functools import partial, lru_cache
from pathlib import Path
import numpy as np
from advreg import J_IND_seg, Threat, auto_attack, linf, on, pgd_attack
from advreg.tasks import masks
from advreg._core.fingerprint import facts
{noise}
class Colour(Enum):
    RED = 1
@dataclass
class Record:
    names: frozenset
    rate: float = 0.5
    def rated(self, o, t): return self.rate * (o - t).abs().mean(1)
@lru_cache
def cached(x): return x in ("a", "b") or x in {{"c", "d", "e", "f"}}
def recursive(n): return 0 if n == 0 else other(n - 1)
def other(n): return recursive(n)
@torch.no_grad()
def decorated(o, t): return mine.error(o, t)
net = mine.Net()
net.register_forward_hook(lambda *a: None)
net.handle = net.line.register_forward_pre_hook(lambda *a: None)
net.back = [net]
things = [
    mine.error, mine.by_module, mine.imported_late, mine.around, mine.made(2.0), mine.quick, mine.Metric(1.0),
    mine.Slotted(2.0), net, torch.nn.LSTM(2, 3), Colour.RED, Record(frozenset({{"x", "y", "z", "w"}})).rated,
    cached, recursive, decorated, {{"a", "b", "c"}}, np.random.default_rng(3), re.compile("a+"), Path("/x"),
    object(), deque([1, 2]), Counter("aab"), OrderedDict(a=1), np.float32(0.5), torch.float16, range(3),
    partial(pgd_attack, objective=on("mask", J_IND_seg)), partial(auto_attack, heads={{"mask": masks()}}),
    Threat(linf, 0.1), torch.jit.script(torch.nn.Linear(2, 2)), torch.nn.functional.relu, len, "a".join,
    torch.Generator().manual_seed(3), torch.device("cpu"), np.sin, mine, torch.nn.Parameter(torch.ones(3)),
]
for at, thing in enumerate(things):
    for layer in thing.modules() if isinstance(thing, torch.nn.Module) else ():
        for p in layer.parameters(): torch.nn.init.constant_(p, 0.5)
    for name, text in facts(thing).items():
        print(at, name, text)
"""

# What moves addresses, and the numbers that torch counts up.
NOISE = """
heap = [object() for _ in range(100000)]
torch.jit.script(torch.nn.Linear(2, 2))
torch.nn.Linear(1, 1).register_forward_hook(print)
"""


def test_the_same_things_have_the_same_facts_in_another_process(tmp_path, mine):
    mine()
    told = []
    for seed, imports, noise in (("1", "", ""), ("77", "import helpers, scipy.stats, torch.fx", NOISE)):
        program = PROGRAM.format(imports=imports, noise=noise)
        path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        ran = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        told.append(ran.stdout.splitlines())
    assert len(told[0]) > 100
    assert " at 0x" not in "".join(told[0])
    assert told[0] == told[1]


def test_a_journal_goes_on_in_another_process(tmp_path, mine):
    mine()
    program = """
        import sys, torch, mine
        from functools import partial
        from advreg import J_IND_reg, pgd_attack, radius_curve
        def own(o, t): return mine.error(o, t) * FACTOR
        FACTOR, folder = 2.0, sys.argv[1]
        batches = [(torch.full((2, 3), 0.1 * i), torch.zeros(2, 2)) for i in range(3)]
        attacks = {"a": partial(pgd_attack, objective=J_IND_reg, steps=2)}
        t = radius_curve(mine.Net().eval(), batches, {"": {"own": own}}, attacks, [0, 0.1], journal=folder)
        print(t.values().tolist())
    """
    path = os.pathsep.join([str(tmp_path), *(entry for entry in sys.path if entry)])
    folder = tmp_path / "journal"
    said = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", textwrap.dedent(program), str(folder)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        said.append(ran.stdout)
        written = (folder / "journal-0.jsonl").read_bytes()
        said.append(len(written.splitlines()))
    assert said[:2] == said[2:]
    assert said[1] == 1 + 3 * 2


def test_versions_of_packages_count(monkeypatch, tmp_path, mine):
    scipy = pytest.importorskip("scipy.special", reason="a function of another library")

    def error(output, target):
        return torch.as_tensor(scipy.expit((output - target).mean(1).numpy()))

    curve(tmp_path, error)
    monkeypatch.setattr("advreg._core.fingerprint._walk.package_version", lambda name: f"9.9 of {name}")
    with pytest.raises(ValueError, match=r"differs in: .*package scipy \(.* there, 9.9 of scipy here\)"):
        curve(tmp_path, error)


def test_what_is_cached_or_only_for_people_does_not_count():
    class Box:
        def __init__(self):
            self.side, self.log = 2.0, logging.getLogger("box")

        @cached_property
        def area(self):
            return self.side**2

    box = Box()
    before = describe(box)
    assert box.area == 4.0
    box.log.warning  # noqa: B018 - a logger caches its levels
    box.log.isEnabledFor(logging.INFO)
    assert describe(box) == before
    box.side = 3.0
    assert describe(box) != before


def test_a_deep_or_circular_structure_has_an_end():
    chain = None
    for _ in range(5000):
        chain = [chain]
    assert describe(chain)
    ring = {"it": nn.Linear(1, 1)}
    ring["self"] = ring["it"].owner = ring
    assert describe(ring) == describe(ring)


@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning")
def test_weights_of_any_layout_are_told_by_value():
    whole = torch.arange(12.0).reshape(3, 4)
    assert describe(whole) == describe(whole.t().contiguous().t()) == describe(whole[:].clone())
    for make in (
        lambda t: t.to_sparse(),
        lambda t: torch.complex(t, -t).conj(),
        lambda t: t.bfloat16(),
        lambda t: t[:0],
        lambda t: t[0, 0],
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    ):
        assert describe(make(whole)) == describe(make(whole.clone()))
    assert describe(whole.to_sparse()) != describe((whole + 1).to_sparse())
    assert describe(torch.complex(whole, whole).conj()) != describe(torch.complex(whole, whole))
    assert describe(nn.LazyLinear(2)) == describe(nn.LazyLinear(2))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripted_networks_are_told_by_their_graph_and_what_it_reads():
    class Scaled(nn.Module):
        scale: float

        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x):
            return x * self.scale

    class Shifted(Scaled):
        def forward(self, x):
            return x * self.scale + 1

    one, two = torch.jit.script(Scaled(1.0).eval()), torch.jit.script(Scaled(2.0).eval())
    assert describe(one) == describe(torch.jit.script(Scaled(1.0).eval()))
    assert describe(one) != describe(two)
    assert describe(one) != describe(torch.jit.script(Shifted(1.0).eval()))
    assert describe(torch.jit.freeze(one)) != describe(torch.jit.freeze(two))


def test_weights_and_data_made_under_inference_mode(tmp_path):
    class Net(nn.Linear):
        pass

    plain = Net(3, 2).requires_grad_(requires_grad=False)
    with torch.inference_mode():
        net = Net(3, 2).requires_grad_(requires_grad=False)
        net.load_state_dict(plain.state_dict())
        x, y = X.clone(), Y.clone()
    assert net.weight.is_inference()
    assert x.is_inference()
    assert digest(net) == digest(plain)
    assert digest((x, y)) == digest((X, Y))
    attacks, metrics = {"a": partial(pgd_attack, objective=J_IND_reg, steps=2)}, {"": {"e": J_IND_reg}}
    whole = radius_curve(plain, [(X, Y)], metrics, attacks, [0, 0.1])
    assert radius_curve(plain, [(x, y)], metrics, attacks, [0, 0.1], journal=tmp_path) == whole
    with torch.inference_mode():  # as Lightning runs its test loops
        assert radius_curve(plain, [(x, y)], metrics, attacks, [0, 0.1], journal=tmp_path) == whole
    assert evaluate(net, [(x, y)], metrics, journal=tmp_path / "clean") == evaluate(plain, [(X, Y)], metrics)


WITH_GLOO = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="no gloo")


def sharded(net):
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - not in every build of torch

    return fully_shard(net)


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)).eval()


def spread(store, folder):
    dist.init_process_group("gloo", f"file://{store}", rank=0, world_size=1)
    plain, net = made(), sharded(made())
    x, y = torch.rand(8, 6), torch.rand(8, 2)
    assert weights(facts(net)) == weights(facts(plain))

    def curve(net, journal=None):
        attacks = {"a": partial(pgd_attack, objective=J_IND_reg, steps=3)}
        return radius_curve(net, [(x, y)], {"": {"e": J_IND_reg}}, attacks, [0, 0.1], journal=journal)

    whole = curve(net, folder)
    assert abs(whole.values() - curve(plain).values()).max() < 1e-6
    assert curve(net, folder) == whole
    assert curve(sharded(made()), folder) == whole
    other = made()
    with torch.no_grad():
        other[0].bias[0] += 1e-6
    with pytest.raises(ValueError, match=r"model: its parameter '0\.bias'\."):
        curve(sharded(other), folder)
    with pytest.raises(ValueError, match=re.escape("MixedPrecisionPolicy(param_dtype=torch.bfloat16)")):
        pgd_attack(net, x, y, objective=J_IND_reg, threat=Threat(linf, 0.1), execution=Execution("bfloat16"))
    dist.destroy_process_group()


@WITH_GLOO
def test_a_network_that_fully_shard_spreads_has_a_journal(tmp_path, processes):
    processes(["spread", str(tmp_path / "store"), str(tmp_path / "journal")])


WHERE = "device"


def error(output, target):
    return J_IND_reg(output, target) + 0 * len(WHERE)


def in_step(rank, store, folder):
    global WHERE  # noqa: PLW0603 - what each process calls its own
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    WHERE = f"device {rank}"
    torch.manual_seed(0)
    net, batches = nn.Linear(6, 2).eval(), [(torch.rand(4, 6), torch.rand(4, 2)) for _ in range(3)]

    def curve(net):
        attacks = {"a": partial(pgd_attack, objective=J_IND_reg, steps=2)}
        return radius_curve(net, batches, {"": {"e": error}}, attacks, [0, 0.1], journal=folder)

    whole = curve(net)
    assert curve(net) == whole
    with pytest.raises(ValueError, match="fully_shard spreads this network over the processes"):
        curve(sharded(net))
    dist.destroy_process_group()


@WITH_GLOO
def test_several_processes_may_differ_in_what_they_call_their_device_but_not_run_in_step(tmp_path, processes):
    store, folder = str(tmp_path / "store"), str(tmp_path / "journal")
    processes(*(["in_step", rank, store, folder] for rank in range(2)))


def test_a_large_network_has_a_fact_for_each_parameter():
    found = facts(nn.Sequential(*(nn.Linear(200, 200) for _ in range(10))))
    assert sum("its parameter" in name for name in found) == 20


def test_the_threat_of_an_attack_counts(tmp_path):
    def run(size):
        attack = partial(pgd_attack, objective=J_IND_reg, steps=2, threat=Threat(linf, size))
        return evaluate(nn.Identity(), [(Y, Y)], {"": {"e": J_IND_reg}}, attack, journal=tmp_path)

    run(0.1)
    with pytest.raises(
        ValueError, match=r"its argument 'threat': its attribute 'radius' \(0.1 there, 0.2 here"
    ):
        run(0.2)
    assert pathlib.Path(tmp_path / "journal-0.jsonl").exists()
