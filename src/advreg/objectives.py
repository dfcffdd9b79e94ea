"""What an attack maximises: the paper's four objectives, and how to combine any others.

An objective is any function `(output, target) -> (B,)`; examples never interact. Attacks maximise: to
descend, `negate` it. For a model with several heads say which is meant: `on("mask", J_IND_seg)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advreg.metrics import Activation, decide, same_shape, soft_dice
from advreg.trees import head
from advreg.types import Output, PerExample, Target


def J_IND_reg(output: Tensor, target: Tensor) -> Tensor:
    """In-distribution attack on a regression head: `||s_hat - s||_2^2`.

    Its gradient is zero where output and target agree, so with the model's own output as the target an
    attack needs a random start.

    Args:
        output: `(B, ...)`, for example a contour `(B, K, 2)`.
        target: Shaped like `output`.

    Returns:
        `(B,)`, in squared units of the output.

    Raises:
        ValueError: Shapes that differ.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg
        >>> J_IND_reg(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
        tensor([25.])

    Source:
        Chen et al., Eq 4.
    """
    same_shape(output, target)
    return (output - target).flatten(1).square().sum(1)


def J_IND_seg(output: Tensor, target: Tensor, *, activation: Activation = "sigmoid") -> Tensor:
    """In-distribution attack on a mask head: `1 - Dice(m_hat, m)`, Dice being `soft_dice`.

    Args:
        output: Logits `(B, C, *spatial)`, or as `activation` says.
        target: The mask, as for `soft_dice`.
        activation: "sigmoid", "softmax" or "none"; bind it with `functools.partial`.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: As for `soft_dice`.

    Source:
        Chen et al., Eq 5.
    """
    return 1 - soft_dice(output, target, activation=activation)


def J_OOD_reg(output: Tensor, target: Tensor) -> Tensor:
    """Out-of-distribution attack on a regression head: `-||s_hat - s||_1`, largest where they agree.

    Args:
        output: `(B, ...)`, the head's output for x_out.
        target: Shaped like `output`: its output for x_in, as `ood_attack` passes it, or any other.

    Returns:
        `(B,)`, zero or less, in units of the output.

    Raises:
        ValueError: Shapes that differ.

    Source:
        Chen et al., Eq 6.
    """
    same_shape(output, target)
    return -(output - target).flatten(1).abs().sum(1)


def J_OOD_seg(output: Tensor, target: Tensor, *, activation: Activation = "sigmoid") -> Tensor:
    """Out-of-distribution attack on a mask head: `Dice(m_hat, m)`, largest where they agree.

    The target is what is to be matched, in the head's own terms: its output for x_in, as `ood_attack`
    passes it, which is decided into a mask here (logit > 0, largest class). A mask of zeros and ones is
    its own decision.

    Args:
        output: Logits `(B, C, *spatial)` for x_out, or as `activation` says.
        target: Shaped like `output`: logits for x_in, or a mask.
        activation: "sigmoid", "softmax" or "none".

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: As for `soft_dice`.

    Example:
        >>> import torch
        >>> from advreg import J_OOD_seg
        >>> logits = torch.tensor([[[[9.0, -9.0], [9.0, -9.0]]]])
        >>> J_OOD_seg(10 * logits, logits)
        tensor([1.])

    Source:
        Chen et al., Eq 7.
    """
    same_shape(output, target)
    return soft_dice(output, decide(target, activation), activation=activation)


def on(key: str | int, function: PerExample) -> PerExample:
    """`function` of one head of output and target.

    Args:
        key: A mapping's key, a dataclass's or named tuple's field, or a place in a tuple or list.
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
    return _On(key, function)


def weighted(*terms: tuple[float, PerExample]) -> PerExample:
    """`sum of weight * function(output, target)` over `(weight, function)` pairs.

    Heads have units: a squared error in pixels drowns a Dice in [0, 1] unless its weight is small.

    Raises:
        ValueError: No terms.

    Example:
        >>> from advreg import J_IND_reg, J_IND_seg, on, weighted
        >>> joint = weighted((1e-3, on("contour", J_IND_reg)), (1.0, on("mask", J_IND_seg)))
    """
    if not terms:
        raise ValueError("weighted needs at least one (weight, function) pair; got none")
    return _Weighted(terms)


def negate(function: PerExample) -> PerExample:
    """`-function`: what an attack maximises to make `function` small. There is no `targeted` flag.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, negate
        >>> negate(J_IND_reg)(torch.ones(1, 2), torch.zeros(1, 2))
        tensor([-2.])
    """
    return _Weighted(((-1.0, function),))


def keys_read(function: PerExample) -> frozenset[str | int] | None:
    """The heads that an objective made of `on`, `weighted` and `negate` reads; None: it may read any."""
    if isinstance(function, _On):
        return frozenset([function.key])
    if isinstance(function, _Weighted):
        read = [keys_read(term) for _, term in function.terms]
        known = [keys for keys in read if keys is not None]
        return frozenset().union(*known) if len(known) == len(read) else None
    return None


@dataclass(frozen=True)
class _On:
    key: str | int
    function: PerExample

    def __call__(self, output: Output, target: Target) -> Tensor:
        return self.function(head(output, self.key, "output"), head(target, self.key, "target"))


@dataclass(frozen=True)
class _Weighted:
    terms: tuple[tuple[float, PerExample], ...]

    def __call__(self, output: Output, target: Target) -> Tensor:
        (weight, function), *rest = self.terms
        total = weight * function(output, target)
        for weight, function in rest:
            total = total + weight * function(output, target)
        return total
