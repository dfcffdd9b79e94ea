"""Measures of a network's robustness, each by its name: the paper's Eqs (13) to (15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from advreg import contour_dice, dice, point_error, tasks
from advreg.objectives import PerExample
from advreg.tasks import Task

By = Literal["paper", "auto"]
"""Which attack a number was measured under: the paper's, or `auto_attack`."""


@dataclass(frozen=True)
class Measure:
    """Measure of one head under attack on that head: a table, a curve, and what claims are about.

    Attributes:
        name: What it is called everywhere, such as "mask_dice".
        head: The head that is attacked, and whose answer is measured.
        metric: Its name among the head's metrics, in the column of an `advreg.evaluation.Table`.
        function: From the images' rows and columns `(H, W)` to the metric, `(answer, target) -> (B,)`.
        task: From the same to what `auto_attack` makes worse: this metric.
        worse: Which way an attack moves it.
        unit: "pixels" of the crop, or "" for a share in [0, 1].
        label: The name in words.
        symbol: The paper's name.
        table: The number of the paper's table.
        digits: Decimals to show.
    """

    name: str
    head: str
    metric: str
    function: Callable[[tuple[int, int]], PerExample]
    task: Callable[[tuple[int, int]], Task]
    worse: Literal["higher", "lower"]
    unit: str
    label: str
    symbol: str
    table: int
    digits: int

    @property
    def title(self) -> str:
        """The name in words, with the unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def column(self) -> tuple[str, str]:
        """Head and metric, by which a table of results holds it."""
        return self.head, self.metric

    def attack(self, by: By = "paper") -> str:
        """The attack under which it is reported, by its name in a table of results.

        The paper attacks a head, whatever is measured of it then; `auto_attack` attacks the measure itself.

        Example:
            >>> POINT_ERROR.attack(), CONTOUR_DICE.attack(), CONTOUR_DICE.attack("auto")
            ('contour', 'contour', 'auto contour_dice')
        """
        return self.head if by == "paper" else f"auto {self.name}"


POINT_ERROR = Measure(
    "point_error",
    head="contour",
    metric="point_error",
    function=lambda _: point_error,
    task=lambda _: tasks.points(),
    worse="higher",
    unit="pixels",
    label="point error",
    symbol="Error_reg",
    table=1,
    digits=2,
)
CONTOUR_DICE = Measure(
    "contour_dice",
    head="contour",
    metric="dice",
    function=lambda size: partial(contour_dice, size=size),
    task=tasks.outlines,
    worse="lower",
    unit="",
    label="contour Dice",
    symbol="DICE_reg",
    table=2,
    digits=3,
)
MASK_DICE = Measure(
    "mask_dice",
    head="mask",
    metric="dice",
    function=lambda _: dice,
    task=lambda _: tasks.masks(),
    worse="lower",
    unit="",
    label="mask Dice",
    symbol="DICE_seg",
    table=3,
    digits=3,
)

MEASURES = {measure.name: measure for measure in (POINT_ERROR, CONTOUR_DICE, MASK_DICE)}
"""All of them by name, in the order of the paper's tables."""


def metrics(size: tuple[int, int]) -> dict[str | int, dict[str, PerExample]]:
    """The measures as `advreg.radius_curve` takes them: functions by head and metric.

    Args:
        size: Rows and columns `(H, W)` of the images.
    """
    found: dict[str | int, dict[str, PerExample]] = {}
    for measure in MEASURES.values():
        found.setdefault(measure.head, {})[measure.metric] = measure.function(size)
    return found
