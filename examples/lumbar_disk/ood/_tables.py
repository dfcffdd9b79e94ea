"""Tables of the out-of-distribution study: detection and matching, by model, source and adversary.

A row's `attack` is "in", a test disc itself, or "SOURCE/ADVERSARY", the out-of-distribution image paired
with the disc: under the adversary "none" as it is, under another changed until the model answers alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from advreg.evaluation import Interval, Row, Table, bootstrap
from advreg.metrics import Detection, detection
from lumbar_disk.ood._recipe import MODELS
from lumbar_disk.study import CONTOUR_DICE, MASK_DICE, POINT_ERROR

LOSSES = {"P10_std": "L", "P10_std_rec": "L + L_rec", "P10_adv_rs_rec": "L_adv_rs + L_rec"}
"""The paper's names of the losses that the models are trained with."""
PAPER_SOURCE = "lung_ct"
SETTINGS = {"ood_radius": 40.0, "ood_steps": 4000, "ood_alpha": 0.01}
"""The paper's settings of its out-of-distribution attacks, for crops of 128 pixels; released code."""

DETECTOR = "detector"
"""What a table's column `head` says of a detector's scores; `metric` names the detector."""
STEP, FINISHED = ("attack", "step"), ("attack", "finished")
L2_NORM, OWN, OTHERS = ("perturbation", "l2"), ("perturbation", "own"), ("perturbation", "others")
"""Columns `head` and `metric` of what is measured on an attack: the step at which it ended, and
if its heads matched; its norm, and its correlations with its own disc and with the others."""

NEAREST = ("nearest disc", "l2")
"""The same of how far an image is from the nearest disc of all patients."""

IN, NONE, UNAWARE, WALK = "in", "none", "unaware", "walk"
AWARE = "aware:"
CLEAN_ONLY = "clean OOD only"
"""What stands beside every number of detection that no adversary was there for."""

Columns = Mapping[tuple[str, str, str], Table]
Key = tuple[str, str, str, str]  # model, detector, source, adversary


@dataclass(frozen=True)
class Tolerance:
    """Tolerance within which an answer counts as matched.

    Attributes:
        contour: Mean distance of the points, in pixels, at most.
        mask: Dice, at least.
    """

    contour: float
    mask: float


def ordered(models: set[str]) -> tuple[str, ...]:
    """The models of the study in its order, then any others by name.

    Example:
        >>> ordered({"mine"})
        ('P10_std', 'P10_std_rec', 'P10_adv_rs_rec', 'mine')
    """
    return (*MODELS, *sorted(models - set(MODELS)))


def paper_source(sources: Iterable[str]) -> str:
    """The source that the claims and figures are about: the paper's lung CT, or else the first.

    Raises:
        ValueError: If there is no source.

    Example:
        >>> paper_source(["blocks", "lung_ct"]), paper_source(["blocks", "uniform"])
        ('lung_ct', 'blocks')
    """
    names = list(sources)
    if not names:
        raise ValueError(
            "expected at least one source of out-of-distribution images, in study.json under ood, sources; "
            "got none. Run the study with one."
        )
    return PAPER_SOURCE if PAPER_SOURCE in names else names[0]


def columns(table: Table) -> Columns:
    """A table's rows by attack, head and metric."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in table:
        found.setdefault((row.attack, row.head, row.metric), []).append(row)
    return {key: Table(tuple(rows)) for key, rows in found.items()}


def sources_of(tables: Iterable[Columns], named: Iterable[str] = ()) -> tuple[str, ...]:
    """Every source that was named or measured, in order of first appearance."""
    seen = [attack.split("/")[0] for table in tables for attack, _, _ in table if "/" in attack]
    return tuple(dict.fromkeys([*named, *seen]))


def adversaries(table: Columns, source: str) -> tuple[str, ...]:
    """A model's adversaries on a source, "none" first, in order of appearance."""
    start = f"{source}/"
    seen = [attack.removeprefix(start) for attack, _, _ in table if attack.startswith(start)]
    return tuple(sorted(dict.fromkeys(seen), key=lambda name: name != NONE))


def detectors(table: Columns) -> tuple[str, ...]:
    """The detectors that scored the test discs, in order of appearance."""
    return tuple(dict.fromkeys(metric for attack, head, metric in table if (attack, head) == (IN, DETECTOR)))


def detections(tables: Mapping[str, Columns], sources: Iterable[str], resamples: int) -> dict[Key, Detection]:
    """Measure every detector of every model on every source, without an adversary and under each.

    Out-of-distribution is positive; the intervals resample test patients. An adversary who knows a detector
    is measured on that one alone.

    Args:
        tables: By model.
        sources: Which to measure.
        resamples: Of the bootstrap.

    Returns:
        The measures that can be computed, by model, detector, source and adversary.
    """
    found = {}
    for source in sources:
        for model, table in tables.items():
            for detector in detectors(table):
                low = table[IN, DETECTOR, detector]
                for adversary in adversaries(table, source):
                    high = table.get((f"{source}/{adversary}", DETECTOR, detector))
                    if high is None or (adversary.startswith(AWARE) and adversary != AWARE + detector):
                        continue
                    found[model, detector, source, adversary] = detection(
                        low.values(),
                        high.values(),
                        groups_in=low.groups(),
                        groups_out=high.groups(),
                        resamples=resamples,
                    )
    return found


@dataclass(frozen=True)
class Matching:
    """Matching of a model's answers to the images of a source with those to the test discs.

    Attributes:
        discs: How many pairs.
        contour: Mean Dice between the contours of image and disc, with its interval over patients.
        mask: The same of the masks.
        point_error: Mean distance between the contours' points, in pixels.
        matched: Share of the pairs whose answers match: of the head that was attacked, or else of both.
        steps: Mean number of steps; None without an adversary.
        l2: Mean L2 norm of the perturbation; the same.
    """

    discs: int
    contour: Interval
    mask: Interval
    point_error: float
    matched: float
    steps: float | None
    l2: float | None


def matchings(
    tables: Mapping[str, Columns], sources: Iterable[str], within: Tolerance, resamples: int
) -> dict[tuple[str, str, str], Matching]:
    """Measure how nearly each model answers alike, by model, source and adversary.

    Args:
        tables: By model.
        sources: Which to measure.
        within: What counts as matched.
        resamples: Of the bootstrap.
    """
    return {
        (model, source, adversary): _matching(table, source, adversary, within, resamples)
        for source in sources
        for model, table in tables.items()
        for adversary in adversaries(table, source)
        if (f"{source}/{adversary}", *CONTOUR_DICE.column) in table
    }


@dataclass(frozen=True)
class Limit:
    """Limit of detection for a source: how near its images are to discs.

    Attributes:
        images: How many, one for each disc: an image that is the partner of several counts with each.
        median: The median L2 distance from the nearest disc of any patient.
        least: The smallest; from that radius on not every image can be detected.
        inside: The share of the images with a disc inside the ball: no detector can hold there.
    """

    images: int
    median: float
    least: float
    inside: float


@dataclass(frozen=True)
class Measured:
    """Measurements that claims, figures and tables show.

    Attributes:
        tables: By model.
        sources: In order.
        source: The one that the claims and figures are about.
        detections: See `detections`.
        matchings: See `matchings`.
        limits: By source, of those whose distances were measured.
    """

    tables: Mapping[str, Columns]
    sources: tuple[str, ...]
    source: str
    detections: Mapping[Key, Detection]
    matchings: Mapping[tuple[str, str, str], Matching]
    limits: Mapping[str, Limit]


def measure(
    tables: Mapping[str, Table],
    sources: Iterable[str],
    within: Tolerance,
    *,
    radius: float,
    resamples: int = 10_000,
) -> Measured:
    """Measure everything.

    Args:
        tables: By model.
        sources: The sources that the study names; others in the tables come after.
        within: What counts as matched.
        radius: Of the adversaries' L2 balls.
        resamples: Of the bootstrap.

    Raises:
        ValueError: If there is no source at all.
    """
    parts = {model: columns(table) for model, table in tables.items()}
    names = sources_of(parts.values(), sources)
    return Measured(
        parts,
        names,
        paper_source(names),
        detections(parts, names, resamples),
        matchings(parts, names, within, resamples),
        limits(parts, names, radius),
    )


def limits(tables: Mapping[str, Columns], sources: Iterable[str], radius: float) -> dict[str, Limit]:
    """How near the images of each source are to discs; the same for every model.

    Args:
        tables: By model.
        sources: Which to measure.
        radius: Of the adversaries' L2 balls.
    """
    found = {}
    for source in sources:
        tried = (table.get((f"{source}/{NONE}", *NEAREST)) for table in tables.values())
        rows = next((one for one in tried if one is not None), None)
        if rows is not None:
            far = rows.values()
            found[source] = Limit(
                len(far), float(np.median(far)), float(far.min()), float((far <= radius).mean())
            )
    return found


def _matching(table: Columns, source: str, adversary: str, within: Tolerance, resamples: int) -> Matching:
    """Measure one model on one source under one adversary."""
    attack = f"{source}/{adversary}"
    contour, mask = table[attack, *CONTOUR_DICE.column], table[attack, *MASK_DICE.column]
    errors = table[attack, *POINT_ERROR.column].values()
    near = {"reg": errors <= within.contour, "seg": mask.values() >= within.mask}
    return Matching(
        discs=len(contour),
        contour=bootstrap(contour.values(), contour.groups(), resamples=resamples),
        mask=bootstrap(mask.values(), mask.groups(), resamples=resamples),
        point_error=float(errors.mean()),
        matched=float(near.get(adversary, near["reg"] & near["seg"]).mean()),
        steps=_mean(table.get((attack, *STEP))),
        l2=_mean(table.get((attack, *L2_NORM))),
    )


def _mean(rows: Table | None) -> float | None:
    """The mean of what is there."""
    return None if rows is None else float(rows.values().mean())
