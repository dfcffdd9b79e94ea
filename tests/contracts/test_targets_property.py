"""Targets of any nesting, any attack: the value of each example is that of its input and its target alone.

A target is drawn as a tree of leaves, each of which knows its value for the batch, its value for one example
alone, and what an objective reads of it. `ADVREG_TARGETS=2000` runs more cases.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from advreg import Execution, Steepest, Threat, auto_attack, linf, pgd_attack
from advreg.attacks import square_attack
from advreg.execution import AssumptionError
from advreg.objectives import per_example, shared
from advreg.rules import Shrinking
from advreg.tasks import Member, Task

COUNT = int(os.environ.get("ADVREG_TARGETS", "60"))
SAME = "ADVREG_TARGETS" not in os.environ  # the same cases every time, unless more are asked for
THREAT = Threat(linf, 0.1)


@dataclass
class Record:
    """A node."""

    first: Any
    second: Any


@dataclass(frozen=True)
class Frozen:
    """A node that refuses to be written."""

    first: Any
    second: Any


class Pair(NamedTuple):
    """A node."""

    first: Any
    second: Any


class Drawn(NamedTuple):
    """A target, or a part of one, for a batch.

    Attributes:
        whole: As the caller gives it.
        alone: For each example, made apart from it.
        read: What an objective reads, `(part of a target, count) -> (count,)`.
        vague: How many of its parts could be taken for something else, so that a refusal is right too.
    """

    whole: Any
    alone: list[Any]
    read: Callable[[Any, int], torch.Tensor]
    vague: int = 0


# Leaves: functions of the size of the batch and a generator of numbers


def uniform(g, *shape):
    return 0.5 + torch.rand(shape, generator=g, dtype=torch.float64)


def summed(value, count):
    return torch.as_tensor(value, dtype=torch.float64).reshape(count, -1).sum(1)


def same(value, count):
    return torch.as_tensor(value, dtype=torch.float64).square().sum().expand(count)


def rows(count, g, form=lambda value: value):
    value = uniform(g, count, *((), (2,), (2, 3))[pick(g, 3)])
    return Drawn(form(value), [form(value[at : at + 1]) for at in range(count)], summed)


def ragged(count, g, mark=lambda value: value):
    # never as many entries as there are examples, as heads have, but where that is marked
    sizes = [pick(g, 3) for _ in range(count)]
    if mark is not per_example:
        sizes[0] = 0 if count > 1 else 2
    entries = [uniform(g, size, 2) for size in sizes]

    def read(value, _):
        return torch.stack([entry.sum() for entry in value])

    return Drawn(mark(entries), [[entry] for entry in entries], read)


def dicts(count, g):
    found = ragged(count, g)
    return Drawn(
        [{"boxes": one, "id": at} for at, one in enumerate(found.whole)],
        [[{"boxes": one[0], "id": at}] for at, one in enumerate(found.alone)],
        lambda value, count: found.read([one["boxes"] for one in value], count),
    )


def words(count, g):
    entries = ["x" * (1 + pick(g, 9)) for _ in range(count)]

    def read(value, _):
        return torch.tensor([float(len(word)) for word in value], dtype=torch.float64)

    return Drawn(entries, [[word] for word in entries], read)


def told_apart(count, g):
    """A length that is not that of the batch, nor of a part of it."""
    return count + 1 + pick(g, 3)


def together(count, g, mark=lambda value: value, form=lambda value: value):
    length = count if mark is shared else told_apart(count, g)
    value = form(uniform(g, length))
    return Drawn(mark(value), [value] * count, same)


def names(count, g):
    value = ["y"] * (count if (marked := pick(g, 2)) else told_apart(count, g))

    def read(value, count):
        return torch.tensor(float(len(value)), dtype=torch.float64).expand(count)

    return Drawn(shared(value) if marked else value, [value] * count, read)


def constants(count, g):
    value = (3.0, None, "text", SimpleNamespace(a=1))[pick(g, 4)]
    return Drawn(value, [value] * count, lambda *_: torch.zeros(()))


def boxes(count, g):
    sizes = [pick(g, 4) for _ in range(count)]
    sizes[pick(g, count)] += 1
    own = [uniform(g, size, 2) for size in sizes]
    whose = torch.arange(count, dtype=torch.float64).repeat_interleave(torch.tensor(sizes))
    return whose, own


def gathered(numbers, values, count):
    at = torch.as_tensor(numbers).reshape(-1).long()
    return torch.zeros(count, dtype=torch.float64).index_add(0, at, torch.as_tensor(values).flatten(1).sum(1))


def table(count, g, mark=lambda value: value, form=lambda value: value, order=None):
    whose, own = boxes(count, g)
    whole = torch.cat([whose[:, None], torch.cat(own)], 1)
    if order is not None:
        whole = whole[torch.randperm(len(whole), generator=g)]
    alone = [form(torch.cat([torch.zeros(len(one), 1), one], 1)) for one in own]
    vague = mark is not numbered
    return Drawn(mark(form(whole)), alone, lambda t, count: gathered(t[:, 0], t[:, 1:], count), vague)


def numbered(value):
    return per_example(value, number=0)


def flat(count, g):
    """A mapping of flat rows, and what else data sets put into it."""
    whose, own = boxes(count, g)
    column = bool(pick(g, 2))
    extra = told_apart(max(count, len(whose)), g)
    beside = {
        "names": words(count, g),
        "images": Drawn(
            images := uniform(g, count, 2, 2), [images[at : at + 1] for at in range(count)], summed
        ),
        "weights": Drawn(weights := uniform(g, extra), [weights] * count, same),
    }
    some = [key for key in beside if pick(g, 2)]
    whole = {"batch_idx": whose[:, None] if column else whose, "bboxes": torch.cat(own)}
    alone = [{"batch_idx": torch.zeros((len(one), 1) if column else len(one)), "bboxes": one} for one in own]

    def read(value, count):
        found = gathered(value["batch_idx"], value["bboxes"], count)
        return sum((beside[key].read(value[key], count) for key in some), found)

    return Drawn(
        whole | {key: beside[key].whole for key in some},
        [one | {key: beside[key].alone[at] for key in some} for at, one in enumerate(alone)],
        read,
        len(whose) == count and "images" in some,  # as many rows as images
    )


def numpy(value):
    return value.numpy()


LEAVES = {
    "rows": rows,
    "array": lambda count, g: rows(count, g, numpy),
    "ragged list": ragged,
    "ragged list, marked": lambda count, g: ragged(count, g, per_example),
    "ragged tuple": lambda count, g: ragged(count, g, tuple),
    "list of dicts": dicts,
    "words": words,
    "shared": together,
    "shared array": lambda count, g: together(count, g, form=numpy),
    "shared, marked": lambda count, g: together(count, g, shared),
    "names": names,
    "constant": constants,
    "table": table,
    "table, an array": lambda count, g: table(count, g, form=numpy),
    "table, marked": lambda count, g: table(count, g, numbered, order="random"),
    "flat rows": flat,
}


def pick(g, count):
    return int(torch.randint(count, (), generator=g))


# Trees


NODES = {
    "dict": (lambda one, two: {"first": one, "second": two}, lambda node, key: node[key]),
    "record": (Record, getattr),
    "frozen": (Frozen, getattr),
    "named tuple": (Pair, getattr),
    "list": (lambda one, two: [one, two, "end"], lambda node, key: node[key == "second"]),
    "tuple": (lambda one, two: (one, two, None), lambda node, key: node[key == "second"]),
}


def joined(kind, one, two, count):
    """A node above two parts."""
    make, get = NODES[kind]
    return Drawn(
        make(one.whole, two.whole),
        [make(*both) for both in zip(one.alone, two.alone, strict=True)],
        lambda node, count: one.read(get(node, "first"), count) + 1.7 * two.read(get(node, "second"), count),
        one.vague + two.vague + (kind in ("list", "tuple") and count == 3),
    )


shapes = st.recursive(
    st.sampled_from(sorted(LEAVES)),
    lambda inner: st.tuples(st.sampled_from(sorted(NODES)), inner, inner),
    max_leaves=4,
)


def built(shape, count, g):
    if isinstance(shape, str):
        return LEAVES[shape](count, g)
    kind, one, two = shape
    return joined(kind, built(one, count, g), built(two, count, g), count)


# Attacks


class Run(NamedTuple):
    """How the attack is run."""

    attack: str
    parts: int | None
    restarts: int
    stops: bool
    shrinks: bool


runs = st.builds(
    Run,
    st.sampled_from(["pgd", "auto", "square"]),
    st.sampled_from([None, 1, 2, 3]),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)


def attacked(run, model, x, y, error, limit):
    """Inputs, values and clean values."""
    execution = Execution(micro_batch=run.parts)
    schedule = Shrinking() if run.shrinks else None
    if run.attack == "square":
        found = square_attack(model, x, y, objective=error, threat=THREAT, queries=4, execution=execution)
    elif run.attack == "auto":
        task = Task(
            error,
            "higher",
            (Member("it", error, Steepest(0.4), schedule),),
            worst=limit if run.stops else float("inf"),
        )
        found = auto_attack(model, x, y, heads={"": task}, threat=THREAT, budget=3, execution=execution)[""]
        return found.x, found.value, found.clean
    else:
        found = pgd_attack(
            model,
            x,
            y,
            objective=error,
            threat=THREAT,
            rule=Steepest(0.4),
            steps=3,
            restarts=run.restarts,
            stop=(lambda output, target: error(output, target) >= limit) if run.stops else None,
            schedule=schedule,
            execution=execution,
        )
    return found.x, found.value, found.value - found.gain


@settings(
    max_examples=COUNT,
    derandomize=SAME,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(shape=shapes, count=st.integers(1, 5), width=st.integers(3, 5), run=runs, seed=st.integers(0, 2**20))
def test_the_value_of_each_example_is_its_own(shape, count, width, run, seed):
    g = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * torch.rand(count, width, generator=g, dtype=torch.float64)
    core = uniform(g, count, 2)
    weight = torch.randn(width, 2, generator=g, dtype=torch.float64)
    rest = built(shape, count, g)
    note(f"target {rest.whole!r}")

    def model(x):
        return x @ weight

    def error(output, target):
        more = rest.read(target["rest"], len(output))
        return (output - target["core"]).square().sum(1) + more * (1 + output[:, 0].square())

    def by_hand(x):
        each = ({"core": core[at : at + 1], "rest": one} for at, one in enumerate(rest.alone))
        return torch.cat([error(model(x[at : at + 1]), one) for at, one in enumerate(each)])

    clean = by_hand(x)
    limit = float(clean.max() * 1.02)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found, value, before = attacked(run, model, x, {"core": core, "rest": rest.whole}, error, limit)
    except AssumptionError:
        assert rest.vague > 1  # more than one part cannot be told
        return
    torch.testing.assert_close(value, by_hand(found), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(before, clean, rtol=1e-9, atol=1e-12)
    assert THREAT.contains(found, x).all()
    assert (value >= clean).all()


def test_what_is_drawn_alone_is_what_is_read_of_the_whole():
    """The drawn targets themselves, without the library."""
    for name, leaf in LEAVES.items():
        for count in (1, 2, 5):
            found = leaf(count, torch.Generator().manual_seed(count))
            whole = getattr(found.whole, "value", found.whole) if "constant" not in name else found.whole
            alone = torch.stack([found.read(one, 1).reshape(()) for one in found.alone])
            torch.testing.assert_close(found.read(whole, count).expand(count), alone)


def test_arrays_are_read_as_tensors_are():
    assert torch.equal(summed(np.ones((2, 3)), 2), torch.tensor([3.0, 3.0], dtype=torch.float64))
