"""The paper's four objectives, `J_IND_reg`, `J_IND_seg`, `J_OOD_reg`, `J_OOD_seg` (Eqs 4 to 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg._core.checks import same_shape
from advreg._core.tensors import rows
from advreg._core.valid import difference
from advreg.metrics import Absent, Activation, decide, soft_dice


def J_IND_reg(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """In-distribution attack on a regression head: `||s_hat - s||_2^2`.

    Its gradient is zero where output and target agree, so with the model's own output as the target an
    attack needs a random start.

    Args:
        output: `(B, ...)`, for example a contour `(B, K, 2)`.
        target: Shaped like `output`.
        valid: What counts, bool, shaped like the first dimensions of `output`: `(B, K)` for points; by
            default everything. It must be cut with the batch: take it from the target, for example
            `lambda o, y: J_IND_reg(o, y, valid=y.isfinite().all(-1))`. What is not valid has no gradient.

    Returns:
        `(B,)`, in squared units of the output, float32 at least; 0 where nothing is valid.

    Raises:
        TypeError: A `valid` that is not bool.
        ValueError: Shapes that differ; NaN or infinity in a valid part of the target.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg
        >>> J_IND_reg(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
        tensor([25.])

    Source:
        Chen et al., Eq 4.
    """
    return rows(difference(output, target, valid)).square().sum(1)


def J_IND_seg(
    output: Tensor,
    target: Tensor,
    *,
    activation: Activation = "sigmoid",
    ignore_index: int | None = None,
    absent: Absent | None = None,
) -> Tensor:
    """In-distribution attack on a mask head: `1 - Dice(m_hat, m)`, Dice being `soft_dice`.

    Args:
        output: Logits `(B, C, *spatial)`, or as `activation` says.
        target: The mask, as for `soft_dice`.
        activation: "sigmoid", "softmax" or "none"; bind it with `functools.partial`.
        ignore_index: Where the target is this number, nothing counts.
        absent: As for `soft_dice`: a channel that the target lacks is 1 here without a gradient, where it
            counts; `SharpenedDice` has one.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: As for `soft_dice`.

    Source:
        Chen et al., Eq 5.
    """
    return 1 - soft_dice(output, target, activation=activation, ignore_index=ignore_index, absent=absent)


def J_OOD_reg(output: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Out-of-distribution attack on a regression head: `-||s_hat - s||_1`, largest where they agree.

    Args:
        output: `(B, ...)`, the head's output for x_out.
        target: Shaped like `output`: its output for x_in, as `ood_attack` passes it, or any other.
        valid: As for `J_IND_reg`.

    Returns:
        `(B,)`, zero or less, in units of the output.

    Raises:
        TypeError: As for `J_IND_reg`.
        ValueError: As for `J_IND_reg`.

    Source:
        Chen et al., Eq 6.
    """
    return -rows(difference(output, target, valid)).abs().sum(1)


def J_OOD_seg(
    output: Tensor, target: Tensor, *, activation: Activation = "sigmoid", absent: Absent | None = None
) -> Tensor:
    """Out-of-distribution attack on a mask head: `Dice(m_hat, m)`, largest where they agree.

    The target is what is to be matched, in the head's own terms: its output for x_in, as `ood_attack`
    passes it, which is decided into a mask here (logit > 0, largest class). A mask of zeros and ones is
    its own decision.

    Args:
        output: Logits `(B, C, *spatial)` for x_out, or as `activation` says.
        target: Shaped like `output`: logits for x_in, or a mask.
        activation: "sigmoid", "softmax" or "none".
        absent: As for `soft_dice`.

    Returns:
        `(B,)` in [0, 1].

    Raises:
        ValueError: As for `soft_dice`. A target that is NaN cannot be decided: the example gives NaN.

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
    value = soft_dice(output, decide(target, activation), activation=activation, absent=absent)
    return torch.where(target.flatten(1).isnan().any(1), torch.nan, value)
