"""Report of detection: how well detectors do under each adversary."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from numpy.typing import ArrayLike
from torch import Tensor

from advreg.metrics import Detection, detection

_ADVERSARIES = ("none", "unaware", "aware")


class ReportRow(NamedTuple):
    """One detector under one adversary: "none", "unaware" or "aware"."""

    detector: str
    adversary: str
    detection: Detection
    count_in: int
    count_out: int


@dataclass(frozen=True)
class Report:
    """Detectors under adversaries, as `report` makes them. `report + other` joins two; `print` shows them.

    A detector that has no row "aware" is marked as not tried by an adversary who knows of it; what was seen
    on clean inputs alone is marked as such.

    Args:
        rows: Any iterable of `ReportRow`.
    """

    rows: tuple[ReportRow, ...]

    def __add__(self, other: Report) -> Report:
        return Report(self.rows + other.rows)

    def __str__(self) -> str:
        titles = ("detector", "adversary", "AUROC", "AUPR", "FPR95", "n")
        cells = [titles, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join(lines + [f"{name}: {text}" for name, text in self.warnings().items()])

    def warnings(self) -> dict[str, str]:
        """Warnings by detector of what the rows do not show; none where an aware adversary has tried."""
        tried: dict[str, set[str]] = {}
        for row in self.rows:
            tried.setdefault(row.detector, set()).add(row.adversary)
        return {
            name: "no aware adversary: an adversary who knows the detector was not tried"
            if "unaware" in adversaries
            else "clean OOD only: says nothing about an adversary"
            for name, adversaries in tried.items()
            if "aware" not in adversaries
        }


def report(
    detector: str, scores_in: Tensor | ArrayLike, scores_out: Mapping[str, Tensor | ArrayLike], **options: Any
) -> Report:
    """Report of one detector under each adversary, for print.

    Args:
        detector: Its name.
        scores_in: Scores of in-distribution inputs, `(N,)`.
        scores_out: Scores of out-of-distribution inputs, `(M,)`, by adversary: "none", the clean inputs;
            "unaware", attacked to fool the model; "aware", attacked to fool model and detector, see
            `advreg.detectors.aware`. Of inputs that did not fool the model, say so beside it.
        **options: As for `detection`.

    Returns:
        A `Report`, with a row for each.

    Raises:
        ValueError: Another adversary, or none; and as for `detection`.

    Example:
        >>> from advreg.detectors import report
        >>> print(report("reconstruction", [0.1, 0.2, 0.3], {"none": [0.7, 0.8]}))
        detector        adversary  AUROC              AUPR               FPR95              n
        reconstruction  none       1.00 [1.00, 1.00]  1.00 [1.00, 1.00]  0.00 [0.00, 0.00]  3 in, 2 out
        reconstruction: clean OOD only: says nothing about an adversary
    """
    if not scores_out or not set(scores_out) <= set(_ADVERSARIES):
        raise ValueError(f"expected scores_out by adversary, {_ADVERSARIES}; got {list(scores_out)}")
    return Report(
        tuple(
            ReportRow(
                detector,
                adversary,
                detection(scores_in, scores_out[adversary], **options),
                len(cast(Sized, scores_in)),
                len(cast(Sized, scores_out[adversary])),
            )
            for adversary in _ADVERSARIES
            if adversary in scores_out
        )
    )


def _cells(row: ReportRow) -> tuple[str, ...]:
    shown = (f"{part.mean:.2f} [{part.low:.2f}, {part.high:.2f}]" for part in row.detection)
    return (row.detector, row.adversary, *shown, f"{row.count_in} in, {row.count_out} out")
