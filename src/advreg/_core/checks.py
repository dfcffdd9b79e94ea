"""Checks of arguments that several rooms make: shapes, one number per example, the names of examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from advreg._core.device import check_values
from advreg._core.modules import reached
from advreg._core.tensors import rows


def same_shape(output: Tensor, target: Tensor) -> None:
    """Refuse to broadcast: `(B, 1)` against `(B,)` would silently compare every pair of examples."""
    check_tensors(output, target)
    if output.shape != target.shape:
        raise ValueError(
            f"output and target must have the same shape, nothing is broadcast; got {tuple(output.shape)} "
            f"and {tuple(target.shape)}: reshape the target like the output"
        )


def check_tensors(output: Any, target: Any) -> None:
    """Insist on tensors, one head of each.

    Raises:
        TypeError: Something else.
    """
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        raise TypeError(
            f"output and target must be tensors; got {type(output).__name__} and {type(target).__name__}: "
            "for one head of several, wrap the function, on('mask', f)"
        )


def one_per_example(value: Any, count: int, name: str) -> Tensor:
    """Insist on a tensor of one number per example, `(count,)`. `name` stands in the message."""
    if not isinstance(value, Tensor) or value.shape != (count,):
        came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"{name} must return one number per example, a tensor of shape ({count},); got {came}: "
            "reduce over all but the first dimension, for example loss.flatten(1).mean(1), "
            "and turn a loss's own reduction off with reduction='none'"
        )
    return value


def examples(flags: Tensor) -> str:
    """Names the examples in which any flag `(B, *input)` is set, for a message."""
    found = rows(flags).any(1).nonzero().flatten().tolist()
    shown = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
    return f"{'example' if len(found) == 1 else 'examples'} {shown}"


def check_function(name: str, function: Any) -> None:
    """Insist on a function `(output, target) -> (B,)`; `name` stands in the message.

    Raises:
        TypeError: Something that cannot be called.
    """
    if not callable(function):
        remedy = (
            f": for one head of several write on({function!r}, J_IND_seg)"
            if isinstance(function, str)
            else ""
        )
        raise TypeError(
            f"{name} must be a function (output, target) -> (B,); got {function!r} of type "
            f"{type(function).__name__}{remedy}"
        )


def check_objective(objective: Any) -> None:
    """Insist on a function that an attack can ascend, with its `at` in sight if it changes on the way.

    Raises:
        TypeError: Something that cannot be called; a plain function around an objective with `at(share)`,
            which would stay what it is in the end.
    """
    check_function("objective", objective)
    for thing, inside in reached(objective):
        if inside and _changes(thing):
            name = getattr(objective, "__name__", type(objective).__name__)
            raise TypeError(
                f"objective must let its form at each step be seen; got {name}, a function around "
                f"{type(thing).__name__}, which changes as an attack goes on: of one head write "
                f"on('mask', {type(thing).__name__}(...)), of several weighted(...), or make your function a "
                "class with a method at(share) beside __call__"
            )


def _changes(thing: Any) -> bool:
    """Whether a thing is an objective with other forms at the first step of an attack and in the end."""
    own = type(thing)
    if own.__module__.partition(".")[0] in ("numpy", "torch", "pandas") or not callable(thing):
        return False
    form = getattr(own, "at", None)
    try:
        return callable(form) and bool(form(thing, 0.0) != form(thing, 1.0))
    except (TypeError, ValueError, LookupError):  # an `at` of another kind, as of a table
        return False


def check_kind(name: str, value: Any, kind: type, example: str) -> None:
    """Insist on an instance of a class; `name` and `example`, how one is made, stand in the message.

    Raises:
        TypeError: Something else, the class itself among it.
    """
    if not isinstance(value, kind):
        came = f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.60}"
        raise TypeError(f"{name} must be of type {kind.__name__}; got {came}: write {example}")


def check_each(name: str, value: Any, kind: type, example: str) -> None:
    """Insist on an instance of a class, or on a mapping of such, one for each of several inputs.

    Raises:
        TypeError: Something else; a mapping without an entry.
    """
    several = value if isinstance(value, Mapping) else {"": value}
    if not several:
        raise TypeError(f'{name} must be {example}, or one by key, {{"image": {example}}}; got no key')
    for key, one in several.items():
        check_kind(name if one is value else f"the {name} of {key!r}", one, kind, example)


def check_finite_target(target: Tensor) -> None:
    """Refuse a target with NaN or infinity: whatever is measured against it is NaN, and so is its gradient.

    Raises:
        ValueError: It names the examples, and how to say what is missing.
    """
    if target.is_floating_point():
        check_values(target, partial(_refuse_infinite, target))


def _refuse_infinite(target: Tensor) -> None:
    if not bool(target.isfinite().all()):
        raise ValueError(
            f"the target must be finite; got NaN or infinity for {examples(~target.isfinite())}: "
            "say where it is there with valid=, bool (B, K) for points, for example "
            "lambda output, target: point_error(output, target, valid=target.isfinite().all(-1)), or leave "
            "these examples out"
        )


def check_word(name: str, word: object, words: tuple[str, ...], remedy: str = "") -> None:
    """Insist on one of a few words; `name` and `remedy` stand in the message.

    Raises:
        ValueError: Another word.
    """
    if word not in words:
        *others, last = map(repr, words)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}; got {word!r}{remedy}")


def check_sigma(sigma: float) -> None:
    """Insist on a deviation of Gaussian noise that there is.

    Raises:
        ValueError: Zero, less, or not finite.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(
            "sigma must be the deviation of the noise in units of the input, above zero and finite; got "
            f"{sigma!r}"
        )
