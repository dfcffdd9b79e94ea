"""Assumptions of every attack, tested on clean inputs: examples do not interact, a pass repeats itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from advreg._core.checks import one_per_example
from advreg._core.modules import BATCH_NORMS, modules_of
from advreg._core.targets import Kind, Nest, Numbered, Structure, alternatives, cut, following, structure_of
from advreg._core.trees import children, map_tensors, rebuilt, tensors
from advreg._core.types import Model, Output, Target
from advreg.execution._memory import Batch, Parts
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
        return _joined(list(parts.run(lambda part: (len(part.x), _kept(exact(part.x))), of)))

    try:
        output = outputs(batch)
    except Exception as error:
        if len(batch.x) <= parts.size or not _runs(exact, batch.x):
            raise
        raise AssumptionError(_of_failure(error, count, (), "a part of the batch")) from error
    if output is None:
        raise TypeError("the model returned None where outputs are expected: return them from its forward")
    several = len(functions) > 1
    values = {
        name: _first(function, output, batch.y, count, name, several=several)
        for name, function in functions.items()
    }
    fitting: tuple[Structure, Structure] | None = None
    failures: list[Exception] = []
    for pair in islice(_structures(output, told, batch), TRIED):
        if _fits(output, batch, *pair, functions, values, failures, resized=resized):
            fitting = pair
            break
    if fitting is None:
        for name, function in functions.items():
            if not _near(
                _first(function, output, batch.y, count, name, several=several),
                values[name],
                values[name],
                0.0,
            ):
                raise AssumptionError(
                    f"the {name} gives another value when it is asked again about the same output: it draws "
                    "random numbers, or keeps a state; make it a function of output and target alone"
                )
        raise AssumptionError(_of_targets(batch, functions, failures)) from next(iter(failures), None)
    batch = batch._replace(structure=fitting[1])
    place = -(-count // -(-count // parts.size)) - 1  # the last of the first part: it comes after others
    own = _kept(cut(output, fitting[0], slice(place, place + 1), count))
    copies = partial(_copies, outputs, batch, fitting[0], place)
    _alone(model, exact, batch, functions, values, place, own, copies, noisy=noisy, resized=resized)
    return Examined(batch, values)


def _first(
    function: Function, output: Output, target: Target, count: int, name: str, *, several: bool
) -> Tensor:
    """A function of the clean inputs; that it writes into its target, or an output of several, is seen."""
    given = _kept(output), _copied(target)
    value = as_number(function(*given), count, name)
    others = [("output", given[0], output)] if several else []
    for what, tree, own in [*others, ("target", given[1], target)]:
        pairs = zip(_numbers(tree), _numbers(own), strict=True)
        if any(a.shape != b.shape or not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs):
            raise AssumptionError(
                f"the {name} changes the {what} that it is given, which others read after it: let it work on "
                f"a copy, {what}.clone(), or without the underscore, clamp in place of clamp_"
            )
    return value


def _copied(target: Any) -> Any:
    """A target whose tensors and arrays are in memory of their own."""
    if isinstance(target, (Tensor, np.ndarray)):
        return target.clone() if isinstance(target, Tensor) else target.copy()
    held = children(target)
    return target if held is None else rebuilt(target, {key: _copied(value) for key, value in held.items()})


def as_number(value: Any, count: int, name: str) -> Tensor:
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
                if not _near(value, values[name][[place] * times], values[name], share):
                    return False
    return True


def _near(one: Any, other: Tensor, scale: Tensor, share: float) -> bool:
    """Whether values agree up to rounding, relative to themselves and, less, to the largest of the batch."""
    if not isinstance(one, Tensor) or one.shape != other.shape:
        return False
    a, b, whole = one.double(), other.double(), scale.double()
    finite = whole[whole.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return bool(torch.isclose(a, b, rtol=share, atol=0.01 * share * largest, equal_nan=True).all())


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
        outputs = [_kept(exact(one.x)) for _ in range(1 if noisy else 2)]
        found = [
            {name: function(output, one.y) for name, function in functions.items()} for output in outputs
        ]
    except Exception as error:
        if not resized and _serves_its_size(exact, batch, functions, values, place):
            return
        written = _names(modules, differing(before, marks(modules)))
        raise AssumptionError(_of_failure(error, count, written)) from error
    wanted = {name: value[place : place + 1] for name, value in values.items()}
    written = _names(modules, differing(before, marks(modules)))
    tolerance = _tolerance(own)
    repeats = all(
        _near(each[name], found[0][name], values[name], tolerance) for each in found for name in wanted
    )
    if not repeats and not _alike(outputs[0], outputs[1], tolerance):
        raise AssumptionError(_of_noise(modules, written))
    agrees = all(_near(found[0][name], wanted[name], values[name], tolerance) for name in wanted)
    if noisy or agrees or _alike(outputs[0], own, tolerance):
        return
    if not _rounds(outputs[0], own, copies, tolerance):
        name = next(
            name for name in wanted if not _near(found[0][name], wanted[name], values[name], tolerance)
        )
        shown = f"the {name} of example {place} is {_shown(found[0][name])} alone and {_shown(wanted[name])} "
        raise AssumptionError(_of_interaction(shown + f"in its batch of {count}", modules, written))


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
        output = exact(whole.x)
        return all(
            _near(function(output, whole.y), values[name][[place] * count], values[name], 1e-3)
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


def _rounds(
    alone: Output, last: Output, copies: Callable[[], tuple[Output, Output]], tolerance: float
) -> bool:
    """Whether an output that differs alone and in its batch does so by the rounding of another batch size.

    Then it is the same among copies of its example, in their batch of the same size, whatever place it takes;
    and alone it differs by little on average. A network may compute in less precision than it shows, and
    rounding may turn single decisions over.
    """
    try:
        first, own = copies()
    except Exception:  # noqa: BLE001 - the interaction is told in any case
        return False
    return _alike(own, last, tolerance) and _alike(first, last, tolerance) and _close(alone, last)


def _tolerance(output: Output) -> float:
    """What rounding may show of an output, relative to its largest entries: three root epsilons."""
    floating = [tensor.dtype for tensor in tensors(output) if tensor.is_floating_point()]
    # a network that returns float64 may compute in float32
    return 3 * math.sqrt(max(torch.finfo(dtype).eps for dtype in [torch.float32, *floating]))


def _alike(one: Output, other: Output, share: float) -> bool:
    """Whether two outputs agree up to rounding, relative to their largest entries."""
    pairs = _compared(one, other)
    return pairs is not None and all(float((a - b).abs().max()) <= share * scale for a, b, scale in pairs)


def _close(one: Output, other: Output) -> bool:
    """Whether two outputs agree on average, to a twentieth of their size."""
    pairs = _compared(one, other)
    return pairs is not None and all(
        float((a - b).abs().mean()) <= 0.05 * float(b.abs().mean()) for a, b, _ in pairs
    )


def _compared(one: Output, other: Output) -> list[tuple[Tensor, Tensor, float]] | None:
    """The numbers of two outputs in pairs, and the largest of the second; None if they cannot be compared.

    Where both are infinite or NaN alike, they count as zero.
    """
    mine, theirs = _numbers(one), _numbers(other)
    if not mine or [tensor.shape for tensor in mine] != [tensor.shape for tensor in theirs]:
        return None
    pairs = []
    for a, b in zip(mine, theirs, strict=True):
        same = (a == b) | (a.isnan() & b.isnan())
        if not bool((same | (a.isfinite() & b.isfinite())).all()):
            return None
        if a.numel():
            left, right = (torch.where(b.isfinite(), each, 0.0) for each in (a, b))
            pairs.append((left, right, float(right.abs().max())))
    return pairs


def _numbers(tree: Any) -> list[Tensor]:
    """All that an output holds of numbers, tensors, arrays and plain ones, in float64."""
    if isinstance(tree, Tensor):
        return [(torch.view_as_real(tree.resolve_conj()) if tree.is_complex() else tree).detach().double()]
    if isinstance(tree, (np.ndarray, float, int)):
        kind = getattr(tree, "dtype", np.dtype(float)).kind
        return [torch.as_tensor(np.asarray(tree)).double()] if kind in "biuf" else []
    return [number for value in (children(tree) or {}).values() for number in _numbers(value)]


def _kept(output: Output) -> Output:
    """An output in memory of its own: a replayed graph writes the next one over it."""
    return map_tensors(Tensor.clone, output)


def _names(modules: Sequence[nn.Module], places: set[tuple[nn.Module, str]]) -> list[str]:
    """The attributes that were written, as messages name them."""
    known = [module for module in modules if any(module is place for place, _ in places)]
    return sorted(
        {f"{type(module).__name__}.{name}" for place, name in places for module in known if module is place}
    )


def _shown(value: Tensor) -> str:
    return ", ".join(f"{number:.4g}" for number in value.flatten()[:4].tolist())


def _moody(modules: Sequence[nn.Module]) -> list[str]:
    return sorted(
        {type(module).__name__ for module in modules if module.training and isinstance(module, BATCH_NORMS)}
    )


def _of_interaction(shown: str, modules: Sequence[nn.Module], written: Sequence[str]) -> str:
    causes = []
    if found := _moody(modules):
        causes.append(
            f"statistics of the batch ({', '.join(found)} in train mode: call .eval() on the network first)"
        )
    if written:
        causes.append(f"state kept between calls ({', '.join(written[:3])}: reset it in the forward)")
    if not causes:
        causes = [
            "statistics over the batch (a mean over dimension 0, or normalisation in train mode: .eval())",
            "time before the batch (batch_first=True, or a model that takes x.transpose(0, 1) back)",
            "state kept between calls (reset it in the forward)",
        ]
    return f"expected a model whose examples do not interact; {shown}. It can be: {'; '.join(causes)}"


def _of_noise(modules: Sequence[nn.Module], written: Sequence[str]) -> str:
    named = f"{', '.join(written[:3])}: " if written else ""
    causes = [f"state kept between calls ({named}reset it in the forward)"]
    train = any(module.training for module in modules)
    causes.append(
        "dropout in train mode (call .eval() on the network first)" if train else "noise drawn in the forward"
    )
    return (
        "expected a model whose outputs are a function of its inputs; two passes on the same input differ. "
        f"It can be: {'; '.join(causes)}. Of a network that is random by design attack the expectation, "
        "advreg.execution.expectation(model, draws=20), or say that this is known: Execution(noisy=True)"
    )


def _runs(exact: Model, x: Tensor) -> bool:
    """Whether a network runs a batch as a whole."""
    try:
        exact(x)
    except Exception:  # noqa: BLE001 - it is only asked whether
        return False
    return True


def _of_failure(error: Exception, count: int, written: Sequence[str], what: str = "one example alone") -> str:
    state = f"state kept between calls ({', '.join(written[:3])}: reset it in the forward)"
    causes = [state] if written else []
    causes += [
        "a network that serves batches of one size (export it with a dynamic batch)",
        "a second input that does not travel with its example",
        "an objective that squeezes the batch away",
    ]
    told = str(error).strip().partition("\n")[0]
    return (
        f"{what} fails, though a batch of {count} does not: {type(error).__name__}: {told}. It "
        f"can be: {'; '.join(causes)}"
    )


def _of_targets(batch: Batch, functions: Mapping[str, Function], failures: Sequence[Exception]) -> str:
    described = _described(batch.y, batch.structure)
    gives = f"gives another value than in its batch of {len(batch.x)}"
    if failures:
        told = str(failures[0]).strip().partition("\n")[0]
        gives = f"fails, though its batch of {len(batch.x)} does not: {type(failures[0]).__name__}: {told}"
    return (
        f"the {' and '.join(functions)} of an example must not depend on the rest of its batch, but an "
        f"example that is cut out, output and target, {gives}. It can be a part of the target that belongs "
        f"to the examples otherwise than it looks ({described}): mark what is the same for all, "
        "advreg.objectives.shared(value), or what belongs to each, per_example(value), or flat rows with an "
        "image number, per_example(rows, number=0). Or a function that holds tensors of the whole batch (put "
        "them into the target, which is cut), averages over the batch, or squeezes the batch away (return "
        "one value for each example, "
        "reduction='none')"
    )


def _described(target: Target, structure: Structure | None) -> str:
    """The leaves of a target, each with what it was taken for."""

    def leaves(tree: Any, kind: Structure | None, path: str) -> Iterator[str]:
        if isinstance(kind, Nest):
            for key, value in (children(tree) or {}).items():
                yield from leaves(value, kind.entries[key], f"{path}[{key!r}]")
            return
        told = kind.value if isinstance(kind, Kind) else "flat rows with an image number"
        shape = f" {tuple(tree.shape)}" if hasattr(tree, "shape") else ""
        yield f"{path or 'the target'}, {type(tree).__name__}{shape}: {told}"

    return "; ".join(islice(leaves(target, structure, ""), 6))
