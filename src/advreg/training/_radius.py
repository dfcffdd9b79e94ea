"""Radius of adversarial training over the epochs."""

from __future__ import annotations


def radius_ramp(radius: float, epoch: int, epochs: int) -> float:
    """The radius of an epoch, counted from 0, where it grows linearly to its full size in the last.

    Raises:
        ValueError: An epoch that is not in 0 to epochs - 1.

    Example:
        >>> [round(radius_ramp(0.07, epoch, epochs=7), 2) for epoch in range(7)]
        [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]

    Source:
        The paper's released code: eps(epoch) = 0.07 (epoch + 1) / 100.
    """
    if not 0 <= epoch < epochs:
        raise ValueError(f"epoch must be in 0 to epochs - 1; got epoch {epoch} of {epochs}")
    return radius * (epoch + 1) / epochs
