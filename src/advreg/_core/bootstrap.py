"""Bootstrap intervals over examples, or over groups of them: how far a mean can be trusted."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

_AT_ONCE = 2_000_000  # numbers that the bootstrap draws at a time: 16 MB


class Interval(NamedTuple):
    """A mean and its bootstrap interval; `low` and `high` are nan where there is nothing to resample."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: ArrayLike,
    groups: Sequence[Hashable] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean over examples with its percentile bootstrap interval.

    With groups, whole groups are resampled: two discs of one patient are not two patients. The statistic is
    then the sum of the values of the groups drawn over the number of their examples.

    Args:
        values: One number per example, `(N,)`.
        groups: Which group each belongs to, `(N,)`, names or numbers; by default each is its own.
        confidence: The share of such studies whose interval would hold the true mean.
        resamples: How many times to resample.
        seed: Of the resampling.

    Returns:
        An `Interval`. Of one group, or one example without groups, low and high are nan. Of fewer than about
        ten it is too short: the least that the uncertainty may be.

    Raises:
        ValueError: No values, or not finite ones; groups that do not pair with them; options out of range.

    Example:
        >>> from advreg.evaluation import bootstrap
        >>> dice = [0.9, 0.8, 0.7, 0.2, 0.3, 0.1]
        >>> ["%.2f" % number for number in bootstrap(dice)]
        ['0.50', '0.27', '0.75']
        >>> ["%.2f" % number for number in bootstrap(dice, ["Ada"] * 3 + ["Bob"] * 3)]
        ['0.50', '0.20', '0.80']

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; Davison and Hinkley,
        Bootstrap Methods and their Application, 1997, section 3.8 (resampling groups whole).
    """
    numbers = np.asarray(values, dtype=np.float64)
    _check_bootstrap(numbers, groups, confidence, resamples)
    members, count = numbered(groups, len(numbers))
    mean = float(numbers.mean())
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    sums, counts = np.bincount(members, weights=numbers), np.bincount(members, np.ones_like(numbers))
    low, high = percentiles(
        (sums, counts),
        lambda total, count, axis: total.sum(axis) / count.sum(axis),
        paired=True,
        entries=len(sums),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    return Interval(mean, float(low), float(high))


def numbered(groups: Sequence[Hashable] | None, count: int) -> tuple[NDArray[np.int64], int]:
    """The number of each example's group, `(count,)`, in order of appearance, and how many there are."""
    names: Any = range(count) if groups is None else groups
    if hasattr(names, "tolist"):
        names = names.tolist()  # numbers of arrays and tensors, so that they hash by value
    places: dict[Hashable, int] = {}
    members = np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)
    return members, len(places)


def percentiles(
    samples: Sequence[NDArray[Any]],
    statistic: Callable[..., NDArray[np.float64]],
    *,
    paired: bool,
    entries: int,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends of the percentile bootstrap interval of a statistic, or of several at once.

    Args:
        samples: One array `(N,)` each; resampled apart, or, if `paired`, together.
        statistic: `(*samples, axis)` to its values; of resampled ones, `(R, N)`, to `(..., R)`.
        paired: Whether the samples are columns of one.
        entries: How many numbers the statistic holds for each resample, which bounds how many run at once.
        confidence: As for `bootstrap`, and so are resamples and seed.
        resamples: See there.
        seed: See there.
    """
    from scipy import stats  # type: ignore[import-untyped]  # noqa: PLC0415 - it takes a second to import

    before_scipy_1_15 = "rng" not in inspect.signature(stats.bootstrap).parameters
    found = stats.bootstrap(
        samples,
        statistic,
        paired=paired,
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // entries),
        confidence_level=confidence,
        **{"random_state" if before_scipy_1_15 else "rng": np.random.default_rng(seed)},
    ).confidence_interval
    return found.low, found.high


def _check_bootstrap(
    numbers: NDArray[np.float64], groups: Sequence[Hashable] | None, confidence: float, resamples: int
) -> None:
    if numbers.ndim != 1 or len(numbers) == 0:
        raise ValueError(
            f"values must be one number per example, (N,), N at least 1; got shape {numbers.shape}: none at "
            "all often means a selection, where(...), that no row matches"
        )
    if bad := np.flatnonzero(~np.isfinite(numbers)).tolist():
        came = f"{numbers[bad[0]]} at {bad[0]}, {len(bad)} in all"
        raise ValueError(
            f"values must be finite; got {came}: put the worst value in the place of infinite ones, as "
            "Table.means(infinite=...) does, and look where NaN comes from"
        )
    check_groups(groups, len(numbers), "groups", "value")
    check_resampling(confidence, resamples)


def check_groups(groups: Sequence[Hashable] | None, count: int, name: str, unit: str) -> None:
    """Insist on one group for each of `count` units."""
    if groups is not None and len(groups) != count:
        raise ValueError(f"{name} must name one group per {unit}; got {len(groups)} for {count} {unit}s")


def check_resampling(confidence: float, resamples: int) -> None:
    """Insist on a confidence and a number of resamples that make sense."""
    if not 0 < confidence < 1 or resamples < 1:
        came = f"{confidence} and {resamples}"
        raise ValueError(f"confidence must be between 0 and 1, and resamples 1 or more; got {came}")
