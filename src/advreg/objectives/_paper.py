"""The paper's four objectives, `J_IND_reg`, `J_IND_seg`, `J_OOD_reg`, `J_OOD_seg` (Eqs 4 to 7)."""

from __future__ import annotations

from torch import Tensor

from advreg._core.checks import same_shape
from advreg.metrics import Activation, decide, soft_dice


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


def J_IND_seg(
    output: Tensor, target: Tensor, *, activation: Activation = "sigmoid", ignore_index: int | None = None
) -> Tensor:
    """In-distribution attack on a mask head: `1 - Dice(m_hat, m)`, Dice being `soft_dice`.

    Args:
        output: Logits `(B, C, *spatial)`, or as `activation` says.
        target: The mask, as for `soft_dice`.
        activation: "sigmoid", "softmax" or "none"; bind it with `functools.partial`.
        ignore_index: Where the target is this number, nothing counts.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: As for `soft_dice`.

    Source:
        Chen et al., Eq 5.
    """
    return 1 - soft_dice(output, target, activation=activation, ignore_index=ignore_index)


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
