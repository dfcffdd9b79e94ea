"""How far a mean can be trusted: the bootstrap over examples, or over groups of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

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
    places: dict[Hashable, int] = {}
    names: Iterable[Hashable] = range(len(numbers)) if groups is None else groups
    if hasattr(names, "tolist"):
        names = names.tolist()  # numbers of arrays and tensors, so that they hash by value
    members = [places.setdefault(name, len(places)) for name in names]
    sums, counts = np.bincount(members, weights=numbers), np.bincount(members, np.ones_like(numbers))
    mean = float(numbers.mean())
    if len(sums) < 2:
        return Interval(mean, math.nan, math.nan)
    from scipy import stats  # type: ignore[import-untyped]  # noqa: PLC0415 - it takes a second to import

    before_scipy_1_15 = "rng" not in inspect.signature(stats.bootstrap).parameters
    found = stats.bootstrap(
        (sums, counts),
        lambda total, count, axis: total.sum(axis) / count.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // len(sums)),
        confidence_level=confidence,
        **{"random_state" if before_scipy_1_15 else "rng": np.random.default_rng(seed)},
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


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
        raise ValueError(f"values must be finite; got {came}: leave such examples out, and report how many")
    if groups is not None and len(groups) != len(numbers):
        raise ValueError(f"groups must name one group per value; got {len(groups)} for {len(numbers)} values")
    if not 0 < confidence < 1 or resamples < 1:
        came = f"{confidence} and {resamples}"
        raise ValueError(f"confidence must be between 0 and 1, and resamples 1 or more; got {came}")
