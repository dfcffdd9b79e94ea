"""Causes of what an examination saw, as its messages name them, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from torch import Tensor, nn

from advreg._core.modules import BATCH_NORMS
from advreg._core.targets import Kind, Nest, Structure
from advreg._core.trees import children
from advreg._core.types import Target
from advreg.execution._batch import Batch


def of_interaction(seen: str, modules: Sequence[nn.Module], written: Sequence[str]) -> str:
    """An example differs alone and in its batch; `seen` says how, `written` names attributes that changed."""
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
    return f"expected a model whose examples do not interact; {seen}. It can be: {'; '.join(causes)}"


def of_noise(modules: Sequence[nn.Module], written: Sequence[str]) -> str:
    """Two passes on the same input differ."""
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


def of_failure(error: Exception, count: int, written: Sequence[str], what: str = "one example alone") -> str:
    """A part of the batch, `what`, raised `error` where the whole of `count` examples did not."""
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


def of_targets(batch: Batch, functions: Iterable[str], failures: Sequence[Exception]) -> str:
    """No structure of the target gives each example its value; `functions` are their names."""
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
        "one value for each example, reduction='none')"
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


def _moody(modules: Sequence[nn.Module]) -> list[str]:
    return sorted(
        {type(module).__name__ for module in modules if module.training and isinstance(module, BATCH_NORMS)}
    )


def names_of(modules: Sequence[nn.Module], places: set[tuple[nn.Module, str]]) -> list[str]:
    """The attributes that were written, as messages name them."""
    known = [module for module in modules if any(module is place for place, _ in places)]
    return sorted(
        {f"{type(module).__name__}.{name}" for place, name in places for module in known if module is place}
    )


def shown(value: Tensor) -> str:
    """The first numbers of a value, for a message."""
    return ", ".join(f"{number:.4g}" for number in value.flatten()[:4].tolist())
