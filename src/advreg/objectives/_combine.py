"""Combinations of objectives: of one head, weighted, the worst head, normalised, negated.

An objective is any function `(output, target) -> (B,)`; examples never interact. Attacks maximise: to
descend, `negate` it. For a model with several heads say which is meant: `on("mask", J_IND_seg)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advreg._core.checks import check_function
from advreg._core.trees import head
from advreg._core.types import Output, PerExample, Target
from advreg.objectives._conditions import Within


def on(key: str | int, function: PerExample) -> PerExample:
    """`function` of one head of output and target.

    Args:
        key: A mapping's key, a dataclass's or named tuple's field, or a place in a tuple or list; "" for a
            model whose output is the head itself, which gives `function` as it is.
        function: `(head of output, head of target) -> (B,)`.

    Raises:
        KeyError: When called: output or target has no such head; the message lists those it has.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, on
        >>> y = {"contour": torch.zeros(1, 2), "mask": torch.zeros(1, 1, 4, 4)}
        >>> on("contour", J_IND_reg)({**y, "contour": torch.ones(1, 2)}, y)
        tensor([2.])
    """
    if key == "":
        check_function("what on takes", function)
        return function
    return _On(key, _alone("on", function))


def transformed(
    transform: Callable[[Any], Any], function: PerExample, target: Callable[[Any], Any] | None = None
) -> PerExample:
    """`function` of a transformed output: `function(transform(output), target)`.

    For one head of several, `on(key, transformed(transform, function))`. What changes as an attack goes on
    still does.

    Args:
        transform: From an output, or a head of it, to what the function reads; differentiable where its
            gradient is wanted, and of each example alone.
        function: `(transformed output, target) -> (B,)`.
        target: The same for the target; by default it stays as it is.

    Raises:
        TypeError: What is no function.
        ValueError: A `normalised` function: transform its terms.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg
        >>> from advreg.objectives import transformed
        >>> transformed(torch.exp, J_IND_reg)(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([2.])
    """
    for name, given in (("transform", transform), ("target", target)):
        if not (callable(given) or (name == "target" and given is None)):
            raise TypeError(
                f"{name} must be a function of {'an output' if name == 'transform' else 'a target'}; got "
                f"{given!r:.60}: write lambda output: output[:, :10]"
            )
    return _Transformed(transform, _alone("transformed", function), target)


def weighted(*terms: tuple[float, PerExample]) -> PerExample:
    """`sum of weight * function(output, target)` over `(weight, function)` pairs.

    Heads have units: a squared error in pixels drowns a Dice in [0, 1] unless its weight is small, or they
    are `normalised`.

    Raises:
        ValueError: No terms; a `normalised` among them; a weight that is not finite.
        TypeError: What is no pair of a weight and a function.

    Example:
        >>> from advreg import J_IND_reg, J_IND_seg, on, weighted
        >>> joint = weighted((1e-3, on("contour", J_IND_reg)), (1.0, on("mask", J_IND_seg)))
    """
    return _Combined(_terms("weighted", terms), _total)


def worst_head(*terms: tuple[float, PerExample]) -> PerExample:
    """`max of weight * function(output, target)` over `(weight, function)` pairs, for each example.

    Only the largest term has a gradient: the adversary spends everything on one head, an example's weakest.

    Raises:
        ValueError: As for `weighted`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, on
        >>> from advreg.objectives import worst_head
        >>> either = worst_head((0.1, on(0, J_IND_reg)), (1.0, on(1, J_IND_reg)))
        >>> zeros = torch.zeros(2, 1)
        >>> either((torch.tensor([[10.0], [1.0]]), torch.tensor([[2.0], [2.0]])), (zeros, zeros))
        tensor([10.,  4.])
    """
    return _Combined(_terms("worst_head", terms), _largest)


def normalised(*terms: tuple[float, PerExample]) -> Normalised:
    """Heads of different units, to be ascended together: their values, `(B, H)`, one column for each term.

    The columns are unweighted. An attack scales each column's input gradient to size one and adds them with
    the weights, `.weights`, so that what counts is a head's direction, not its unit. It stands outermost: in
    place of `negate(normalised(...))` negate its terms.

    Raises:
        ValueError: As for `weighted`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, on
        >>> from advreg.objectives import normalised
        >>> both = normalised((1.0, on(0, J_IND_reg)), (2.0, on(1, J_IND_reg)))
        >>> zeros = torch.zeros(1, 2)
        >>> both((zeros + 1, zeros + 3), (zeros, zeros)), both.weights
        (tensor([[ 2., 18.]]), (1.0, 2.0))
    """
    return Normalised(_Combined(_terms("normalised", terms), _columns))


def negate(function: PerExample) -> PerExample:
    """`-function`: what an attack maximises to make `function` small. There is no `targeted` flag.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, negate
        >>> negate(J_IND_reg)(torch.ones(1, 2), torch.zeros(1, 2))
        tensor([-2.])
    """
    return _Combined(_terms("negate", ((-1.0, function),)), _total)


def at(function: PerExample, share: float) -> PerExample:
    """The form that an objective has after this share of an attack's steps: `function.at(share)`, if any.

    Combinations hand it on to their terms. A function without `at` is the same throughout.

    Args:
        function: `(output, target) -> (B,)`.
        share: Steps made over all steps, from 0 to 1.
    """
    form = getattr(function, "at", None)
    changed: PerExample = function if form is None else form(share)
    return changed


def heads_read(*functions: Callable[..., Tensor] | None) -> frozenset[str | int] | None:
    """The heads that functions made of `on`, the combinations and `Within` read; None: it may be any.

    Args:
        functions: Objectives, judges, conditions; those that are None read nothing.

    Example:
        >>> from advreg import J_IND_reg, J_IND_seg, dice, negate, on
        >>> from advreg.objectives import heads_read
        >>> sorted(heads_read(on("mask", J_IND_seg), negate(on("contour", J_IND_reg)), None))
        ['contour', 'mask']
        >>> heads_read(J_IND_reg) is None
        True
    """
    read: set[str | int] = set()
    left: list[Any] = [function for function in functions if function is not None]
    while left:
        match left.pop():
            case _On(key=key):
                read.add(key)
            case Normalised(columns=inner) | Within(function=inner):
                left.append(inner)
            case _Combined(terms=terms):
                left += [term for _, term in terms]
            case _:
                return None
    return frozenset(read)


_Terms: TypeAlias = tuple[tuple[float, PerExample], ...]


@dataclass(frozen=True)
class _On:
    key: str | int
    function: PerExample

    def __call__(self, output: Output, target: Target) -> Tensor:
        return self.function(head(output, self.key, "output"), head(target, self.key, "target"))

    def at(self, share: float) -> PerExample:
        return replace(self, function=at(self.function, share))


@dataclass(frozen=True)
class _Transformed:
    transform: Callable[[Any], Any]
    function: PerExample
    target: Callable[[Any], Any] | None

    def __call__(self, output: Output, target: Target) -> Tensor:
        return self.function(self.transform(output), target if self.target is None else self.target(target))

    def at(self, share: float) -> PerExample:
        return replace(self, function=at(self.function, share))


@dataclass(frozen=True)
class _Combined:
    terms: _Terms
    combine: Callable[[list[float], list[Tensor]], Tensor]

    def __call__(self, output: Output, target: Target) -> Tensor:
        values = [function(output, target) for _, function in self.terms]
        return self.combine([weight for weight, _ in self.terms], values)

    def at(self, share: float) -> _Combined:
        return replace(self, terms=tuple((weight, at(function, share)) for weight, function in self.terms))


@dataclass(frozen=True)
class Normalised:
    """Objectives of several heads as columns, made by `normalised`: an attack knows it by its type."""

    columns: _Combined

    @property
    def weights(self) -> tuple[float, ...]:
        """One weight for each column."""
        return tuple(float(weight) for weight, _ in self.columns.terms)

    def __call__(self, output: Output, target: Target) -> Tensor:
        """The values, `(B, H)`."""
        return self.columns(output, target)

    def at(self, share: float) -> Normalised:
        """As `at` of each term."""
        return replace(self, columns=self.columns.at(share))


def _total(weights: list[float], values: list[Tensor]) -> Tensor:
    first, *rest = (weight * value for weight, value in zip(weights, values, strict=True))
    return sum(rest, start=first)


def _largest(weights: list[float], values: list[Tensor]) -> Tensor:
    return _columns(weights, [weight * value for weight, value in zip(weights, values, strict=True)]).amax(1)


def _columns(_: list[float], values: list[Tensor]) -> Tensor:
    return torch.stack(values, 1)


def _terms(name: str, terms: _Terms) -> _Terms:
    if not terms:
        raise ValueError(f"{name} needs at least one (weight, function) pair; got none")
    for term in terms:
        if not isinstance(term, tuple) or len(term) != 2:
            raise TypeError(
                f"{name} takes pairs of a weight and a function; got "
                f"{getattr(term, '__name__', term)!r:.60}: write {name}((1.0, f), (0.5, g))"
            )
        weight, function = term
        _alone(name, function)
        if not math.isfinite(weight):
            raise ValueError(f"the weights of {name} must be finite; got {weight}")
    return terms


def _alone(name: str, function: PerExample) -> PerExample:
    check_function(f"what {name} takes", function)
    if isinstance(function, Normalised):
        raise ValueError(  # noqa: TRY004  # the type is right, its place is not
            f"{name} takes functions of one number per example; got normalised(...), which must stand "
            f"outermost: write normalised((weight, {name}(...)), ...)"
        )
    return function
