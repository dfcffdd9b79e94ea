"""Targets of tasks as they are given: a tensor, or a mapping with what counts beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advreg._core.checks import check_function, examples, one_per_example
from advreg._core.device import check_values
from advreg._core.types import Output, Target
from advreg.objectives import at

Valid: TypeAlias = Callable[[Any], Tensor]
"""From a target to what of it counts, bool."""


@dataclass(frozen=True)
class Given:
    """A function of output, target and what is valid of it, as one of output and target.

    Args:
        function: `(output, target, valid=, weights=) -> (B,)`; it is passed what there is.
        valid: From the target as it is given to what counts.
        entry: Of a mapping, the key of the target itself.
        there: Of a mapping, the key of what counts.
        weights: What each point weighs; a mapping's "weights" go first.
        normalise: From the target as it is given to what the value is divided by, `(B,)`.
    """

    function: Callable[..., Tensor]
    valid: Valid | None = None
    entry: str = "target"
    there: str = "valid"
    weights: Tensor | None = None
    normalise: Callable[[Any], Tensor] | None = None

    def at(self, share: float) -> Given:
        """The function after this share of the steps."""
        return replace(self, function=at(self.function, share))

    def __call__(self, output: Output, target: Target) -> Tensor:
        """The value, `(B,)`."""
        options: dict[str, Tensor] = {} if self.weights is None else {"weights": self.weights}
        given = target
        if isinstance(target, Mapping):
            given = self._entry(target)
            if self.there in target:
                options["valid"] = _flags(target[self.there], self.there)
            if "weights" in target:
                options["weights"] = target["weights"]
        if self.valid is not None:
            options["valid"] = self.valid(target)
        value = self.function(output, given, **options)
        return value if self.normalise is None else value / self._size(target, value)

    def _entry(self, target: Mapping[Any, Any]) -> Any:
        known = (self.entry, self.there, *(("weights",) if self.entry == "points" else ()))
        if self.entry not in target:
            raise KeyError(
                f"a target that is a mapping must have {self.entry!r}, and may have "
                f"{' and '.join(map(repr, known[1:]))}; got {list(target)}: for one head of several attack "
                "the head by its key, heads={key: task}"
            )
        return target[self.entry]

    def _size(self, target: Target, value: Tensor) -> Tensor:
        assert self.normalise is not None
        size = one_per_example(self.normalise(target), len(value), "normalise")
        check_values(size, partial(_refuse_size, size))
        return size.to(value)


def check_given(**functions: Any) -> None:
    """Insist on functions of the target, or None; the names stand in the message.

    Raises:
        TypeError: Something else.
    """
    for name, function in functions.items():
        if isinstance(function, Tensor):
            raise TypeError(
                f"{name} must be a function of the target, so that it is cut with the batch; got a tensor: "
                "put it into the target, and write lambda target: ..."
            )
        if function is not None:
            check_function(name, function)


def _flags(flags: Any, key: str) -> Any:
    """Flags as bool: numbers such as COCO's 0, 1, 2 say that something is there where they are above 0."""
    if isinstance(flags, Tensor) and not flags.is_floating_point() and flags.dtype != torch.bool:
        return flags > 0
    if isinstance(flags, Tensor) and flags.is_floating_point():
        raise TypeError(
            f"the target's {key!r} must be bool or whole numbers; got {flags.dtype}: pass flags > 0, or for "
            "points what each weighs as 'weights'"
        )
    return flags


def _refuse_size(size: Tensor) -> None:
    sick = ~(size.isfinite() & (size > 0))
    if bool(sick.any()):
        raise ValueError(
            f"normalise must return finite sizes above zero; got {size[sick][0].item():.6g} for "
            f"{examples(sick)}: leave these examples out, or give them a size of their own"
        )
