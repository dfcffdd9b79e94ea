"""Paths of objectives that sharpen on the way: from a first number to a last one, in equal ratios."""

from __future__ import annotations


def between(first: float, last: float, share: float) -> float:
    """From first to last in equal ratios, and last from a share of 1 on."""
    ratio: float = (last / first) ** min(1.0, share)
    return first * ratio


def check_path(first: float, last: float, until: float) -> None:
    """Insist on a path that leads somewhere.

    Raises:
        ValueError: Numbers that are not above zero; a share outside (0, 1].
    """
    if not (first > 0 and last > 0 and 0 < until <= 1):
        raise ValueError(
            f"first and last must be above zero and until in (0, 1]; got {first}, {last} and {until}"
        )
