"""Examination of clean inputs: each function cut out of its batch, and an example alone, twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from advreg._core.checks import one_per_example
from advreg._core.modules import modules_of
from advreg._core.targets import Kind, Numbered, Structure, alternatives, cut, following, structure_of
from advreg._core.trees import children, map_tensors, rebuilt, tensors
from advreg._core.types import Input, Model, Output, Target
from advreg.execution._assumptions._agreement import alike, near, rounds, same, tolerance_of
from advreg.execution._assumptions._causes import (
    names_of,
    of_failure,
    of_interaction,
    of_noise,
    of_targets,
    shown,
)
from advreg.execution._batch import Batch
from advreg.execution._memory import Parts
from advreg.execution._pruning import differing, marks

Function = Callable[[Output, Target], Tensor]

MOST = 8
"""Examples, at most, whose outputs and targets are cut out of the batch and compared."""
TRIED = 24
"""Pairs of structures of output and target, at most, that are tried."""


class AssumptionError(ValueError):
    """Refusal of an attack on a model, objective or target that breaks what every attack assumes.

    Examples do not interact, and two passes on the same input agree; the message names the causes that fit
    what was seen, and the remedy of each.
    """


class Examined(NamedTuple):
    """What the clean inputs showed.

    Attributes:
        batch: The batch, with the structure of its target.
        values: Each function at the clean inputs, `(B, ...)`, by name.
    """

    batch: Batch
    values: dict[str, Tensor]


@torch.no_grad()
def examined(
    model: Model,
    exact: Model,
    batch: Batch,
    parts: Parts,
    functions: Mapping[str, Function],
    *,
    noisy: bool = False,
    resized: bool = True,
) -> Examined:
    """Test what an attack assumes and cannot see, on the clean input.

    Outputs and targets of some examples are cut out of the batch: each function must give what it gave for
    the whole. Where it does not, other structures of the target are tried, such as a spacing that is as long
    as the batch by chance; the first that fits is taken. Then the last example of the first part goes
    through the network alone, twice.

    Costs one pass of the batch, whose values the attack needs anyway, and two of one example.

    Args:
        model: The caller's model, whose attributes are watched.
        exact: The network as it is run.
        batch: The batch.
        parts: What runs it in parts.
        functions: By the name that messages call them: objective, judge, stop rule.
        noisy: Whether it is known that two passes differ.
        resized: Whether batches of another size will follow; if not, a network may serve one size alone.

    Raises:
        AssumptionError: An assumption does not hold; the message names the causes that fit what was seen.
        TypeError: A model that returns nothing; a function that does not return `(B,)`.
    """
    told, batch, count = batch.y, batch.settled(), len(batch.x)

    def outputs(of: Batch) -> Output:
        return _joined(list(parts.run(lambda part: (len(part.x), _kept(exact(part.inputs()))), of)))

    try:
        output = outputs(batch)
    except Exception as error:  # a model may raise anything
        if count <= parts.size or not _runs(exact, batch.inputs()):
            raise
        raise AssumptionError(of_failure(error, count, (), "a part of the batch")) from error
    if output is None:
        raise TypeError("the model returned None where outputs are expected: return them from its forward")
    values = _valued(functions, output, batch.y, count)
    fitting: tuple[Structure, Structure] | None = None
    failures: list[Exception] = []
    for pair in islice(_structures(output, told, batch), TRIED):
        if _fits(output, batch, *pair, functions, values, failures, resized=resized):
            fitting = pair
            break
    if fitting is None:
        again = _valued(functions, output, batch.y, count)
        if drawn := [name for name, value in values.items() if not near(again[name], value, value, 0.0)]:
            raise AssumptionError(
                f"{_the(drawn[0])} gives another value when it is asked again about the same output: it "
                "draws random numbers, or keeps a state; make it a function of output and target alone"
            )
        raise AssumptionError(of_targets(batch, functions, failures)) from next(iter(failures), None)
    batch = batch._replace(structure=fitting[1])
    place = -(-count // -(-count // parts.size)) - 1  # the last of the first part: it comes after others
    own = _kept(cut(output, fitting[0], slice(place, place + 1), count))
    copies = partial(_copies, outputs, batch, fitting[0], place)
    _alone(model, exact, batch, functions, values, place, own, copies, noisy=noisy, resized=resized)
    return Examined(batch, values)


def _valued(
    functions: Mapping[str, Function], output: Output, target: Target, count: int
) -> dict[str, Tensor]:
    """Each function at the clean inputs, `(B, ...)`, by name.

    Raises:
        AssumptionError: One writes into the target, or into an output that others read after it.
    """
    values = {}
    for name, function in functions.items():
        given = {"output": _kept(output), "target": _copied(target)}
        values[name] = _as_number(function(given["output"], given["target"]), count, name)
        written = [] if same(given["target"], target) else ["target"]
        if len(functions) > 1 and not same(given["output"], output):
            written = ["output"]
        if written:
            raise AssumptionError(
                f"{_the(name)} changes the {written[0]} that it is given, which others read after it: let it "
                f"work on a copy, {written[0]}.clone(), or without the underscore, clamp in place of clamp_"
            )
    return values


def _the(name: str) -> str:
    """A function's name with its article, where it does not bring one."""
    return name if name.startswith("the ") else f"the {name}"


def _copied(target: Any) -> Any:
    """A target whose tensors and arrays are in memory of their own."""
    if isinstance(target, (Tensor, np.ndarray)):
        return target.clone() if isinstance(target, Tensor) else target.copy()
    held = children(target)
    return target if held is None else rebuilt(target, {key: _copied(value) for key, value in held.items()})


def _as_number(value: Any, count: int, name: str) -> Tensor:
    """One number for each example, also of what says yes or no."""
    article = "" if name.startswith("the ") else "an " if name[0] in "aeiou" else "a "
    value = one_per_example(value, count, f"{article}{name}")
    number: Tensor = value.float() if value.dtype == torch.bool else value
    return number


def _joined(outputs: Sequence[tuple[int, Output]]) -> Output:
    """The outputs of parts, with the number of examples of each, as that of the whole."""
    if len(outputs) == 1:
        return outputs[0][1]
    sizes, parts = zip(*outputs, strict=True)
    first = parts[0]
    structures = [structure_of(part, size) for size, part in outputs]
    if isinstance(first, Tensor):
        return torch.cat(parts) if all(one is Kind.ROWS for one in structures) else first
    held = children(first)
    if held is None:
        return first
    if all(one is Kind.ROWS for one in structures):
        return type(first)(chain(*parts))
    if isinstance(structures[0], Numbered):
        return following(parts, sizes, structures[0])
    below = [children(part) or {} for part in parts]
    return rebuilt(
        first,
        {key: _joined(list(zip(sizes, (each[key] for each in below), strict=True))) for key in held},
    )


def _structures(output: Output, told: Target, batch: Batch) -> Iterator[tuple[Structure, Structure]]:
    """Structures of output and target, as it was told with its marks, the likelier first."""
    count = len(batch.x)
    theirs, own = structure_of(output, count), batch.structure
    assert own is not None
    yield theirs, own
    for other in alternatives(told, own, count):
        yield theirs, other
    for another in alternatives(output, theirs, count):
        yield another, own
        for other in alternatives(told, own, count):
            yield another, other


def _fits(
    output: Output,
    batch: Batch,
    theirs: Structure,
    own: Structure,
    functions: Mapping[str, Function],
    values: Mapping[str, Tensor],
    failures: list[Exception],
    *,
    resized: bool,
) -> bool:
    """Whether each function gives for examples that are cut out what it gave for the whole.

    What it raised instead is added to `failures`.
    """
    count = len(batch.x)
    some = (
        range(count)
        if count <= MOST
        else sorted({place * (count - 1) // (MOST - 1) for place in range(MOST)})
    )
    halves = (t.dtype for t in (*tensors(output), *values.values()) if t.is_floating_point())
    share = max(1e-4, *(4 * torch.finfo(dtype).eps for dtype in halves))
    for number, place in enumerate(some):
        numbers = (2, 1, 3) if resized else (2,)  # as restarts, parts and those who are left come
        for times in numbers if number == 0 else numbers[number % len(numbers) :][:1]:
            places = torch.tensor([place] * times)
            for name, function in functions.items():
                try:
                    value = function(cut(output, theirs, places, count), cut(batch.y, own, places, count))
                except Exception as error:  # noqa: BLE001 - a wrong cut may raise anything
                    failures.append(error)
                    return False
                if not near(value, values[name][[place] * times], values[name], share):
                    return False
    return True


def _alone(
    model: Model,
    exact: Model,
    batch: Batch,
    functions: Mapping[str, Function],
    values: Mapping[str, Tensor],
    place: int,
    own: Output,
    copies: Callable[[], tuple[Output, Output]],
    *,
    noisy: bool,
    resized: bool,
) -> None:
    """Compare an example, alone and once more alone, with itself in its batch."""
    count, modules = len(batch.x), modules_of(model)
    before = marks(modules)
    one = batch.take(slice(place, place + 1))
    try:
        outputs = [_kept(exact(one.inputs())) for _ in range(1 if noisy else 2)]
        found = [
            {name: function(output, one.y) for name, function in functions.items()} for output in outputs
        ]
    except Exception as error:  # a model may raise anything
        if not resized and _serves_its_size(exact, batch, functions, values, place):
            return
        written = names_of(modules, differing(before, marks(modules)))
        raise AssumptionError(of_failure(error, count, written)) from error
    wanted = {name: value[place : place + 1] for name, value in values.items()}
    written = names_of(modules, differing(before, marks(modules)))
    tolerance = tolerance_of(own)
    repeats = all(
        near(each[name], found[0][name], values[name], tolerance) for each in found for name in wanted
    )
    if not repeats and not alike(outputs[0], outputs[1], tolerance):
        raise AssumptionError(of_noise(modules, written))
    agrees = all(near(found[0][name], wanted[name], values[name], tolerance) for name in wanted)
    if noisy or agrees or alike(outputs[0], own, tolerance):
        return
    if not rounds(outputs[0], own, copies, tolerance):
        name = next(
            name for name in wanted if not near(found[0][name], wanted[name], values[name], tolerance)
        )
        seen = (
            f"{_the(name)} of example {place} is {shown(found[0][name])} alone and {shown(wanted[name])} in "
            f"its batch of {count}"
        )
        raise AssumptionError(of_interaction(seen, modules, written))


def _serves_its_size(
    exact: Model,
    batch: Batch,
    functions: Mapping[str, Function],
    values: Mapping[str, Tensor],
    place: int,
) -> bool:
    """Whether a network that serves batches of one size gives an example, repeated, its value."""
    count = len(batch.x)
    whole = batch.take(torch.full((count,), place))
    try:
        output = exact(whole.inputs())
        return all(
            near(function(output, whole.y), values[name][[place] * count], values[name], 1e-3)
            for name, function in functions.items()
        )
    except Exception:  # noqa: BLE001 - the caller says how it failed on one example
        return False


def _copies(
    outputs: Callable[[Batch], Output], batch: Batch, structure: Structure, place: int
) -> tuple[Output, Output]:
    """An example's output in a batch of copies of it, as large as its own: the first and the last."""
    count = len(batch.x)
    output = outputs(batch.take(torch.full((count,), place)))
    first, own = (cut(output, structure, slice(at, at + 1), count) for at in (0, place))
    return first, own


def _runs(exact: Model, x: Input) -> bool:
    """Whether a network runs a batch as a whole."""
    try:
        exact(x)
    except Exception:  # noqa: BLE001 - it is only asked whether
        return False
    return True


def _kept(output: Output) -> Output:
    """An output in memory of its own: a replayed graph writes the next one over it."""
    return map_tensors(Tensor.clone, output)
