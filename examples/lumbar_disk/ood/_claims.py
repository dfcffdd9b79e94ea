"""Claims of the paper about out-of-distribution attacks, three of them, judged as its other six are."""

from __future__ import annotations

from dataclasses import dataclass

from advreg.evaluation import Table, bootstrap
from lumbar_disk.ood._recipe import MODELS
from lumbar_disk.ood._tables import AWARE, CLEAN_ONLY, DETECTOR, NONE, OTHERS, OWN, UNAWARE, Measured
from lumbar_disk.report import Claim, Part
from lumbar_disk.study import CONTOUR_DICE, MASK_DICE, Measure

ALIKE = 0.95
"""Above this mean Dice between its outputs a network cannot tell the images apart."""
GUESS = 0.5
"""The AUROC of a random guess. The paper calls a detector below it ineffective."""
RECONSTRUCTION = "reconstruction"
"""The paper's detector: the error with which the network gives back its own input."""

STD, STD_REC, ADV_REC = MODELS


@dataclass(frozen=True)
class OODQuestion:
    """Question that a part of these claims asks.

    Attributes:
        text: What is measured, in words.
        threshold: What to compare with; None for a number that is told and decides nothing.
        above: Whether the claim is that the number lies above.
        difference: Whether it is a difference, which is shown with its sign.
    """

    text: str
    threshold: float | None
    above: bool
    difference: bool = False


def judge(measured: Measured) -> tuple[Claim, ...]:
    """Decide claims 7 to 9, on the source that the paper took.

    Args:
        measured: What `measure` returned.

    Returns:
        The claims, in order.

    Raises:
        ValueError: If two models that are compared were attacked for different discs.
    """
    source = measured.source
    return (
        Claim(
            7,
            "A network trained on clean images cannot tell what is no disc from discs",
            f"The mean Dice between the outputs of {STD} for discs and for attacked images of {source} is "
            f"above {ALIKE:g}: of the contours under attack on the contour, of the masks under attack on the "
            "mask.",
            (_alike(measured, "reg", CONTOUR_DICE), _alike(measured, "seg", MASK_DICE)),
        ),
        Claim(
            8,
            "The reconstruction error does not detect attacked images",
            f"The AUROC of the reconstruction error on attacked images of {source} lies below {GUESS:g}, if "
            "the adversary matches contour and mask and does not know of the detector. Beside it, not "
            "judged: the same without an adversary, and under one that lowers the error too.",
            tuple(
                _detected(measured, model, adversary)
                for adversary in (UNAWARE, NONE, AWARE + RECONSTRUCTION)
                for model in (STD_REC, ADV_REC)
            ),
        ),
        Claim(
            9,
            "After adversarial training the perturbation looks like a disc",
            f"The smoothed perturbations of {source} resemble the masks of their own discs, in magnitude of "
            "the correlation, more than those of the other discs: the difference lies above 0 for "
            f"{ADV_REC}, and above that of {STD_REC}. The adversary matches contour and mask.",
            (_disc_like(measured, ADV_REC), _disc_like(measured, ADV_REC, STD_REC)),
        ),
    )


def _alike(measured: Measured, adversary: str, measure: Measure) -> Part:
    """Ask whether a head answers alike for discs and attacked images."""
    text = f"{STD}, mean {measure.title} between outputs, attack J_OOD_{adversary}, {measured.source}"
    rows, reason = _rows(measured, STD, adversary, measure.column)
    found = None if rows is None else bootstrap(rows.values(), rows.groups())
    return Part(OODQuestion(text, ALIKE, above=True), found, None, reason)


def _detected(measured: Measured, model: str, adversary: str) -> Part:
    """Ask for the AUROC of the reconstruction error; only that under the unaware adversary is judged."""
    source = measured.source
    who = (
        CLEAN_ONLY if adversary == NONE else "aware adversary" if AWARE in adversary else "unaware adversary"
    )
    text = f"{model}, AUROC of the reconstruction error, {source}, {who}"
    pairs = measured.matchings.get((model, source, adversary))
    if pairs is not None and adversary != NONE:
        text += f" ({pairs.matched:.0%} matched)"
    question = OODQuestion(text, GUESS if adversary == UNAWARE else None, above=False)
    detection = measured.detections.get((model, RECONSTRUCTION, source, adversary))
    if detection is not None:
        return Part(question, detection.auroc, None)
    _, reason = _rows(measured, model, adversary, (DETECTOR, RECONSTRUCTION))
    return Part(question, None, None, reason or f"{model}: no scores of the test discs")


def _disc_like(measured: Measured, model: str, than: str | None = None) -> Part:
    """Ask whether a perturbation resembles its own disc; with `than`, more than another model's does."""
    who = model if than is None else f"{model} minus {than}"
    text = f"{who}, correlation with its own disc minus others, unaware adversary, {measured.source}"
    question = OODQuestion(text, 0.0, above=True, difference=True)
    found: list[dict[int, float]] = []
    groups: dict[int, str | int] = {}
    for name in (model,) if than is None else (model, than):
        parts = [_rows(measured, name, UNAWARE, column) for column in (OWN, OTHERS)]
        (own, reason), (others, _) = parts
        if own is None or others is None:
            return Part(question, None, None, reason or f"{name}: no correlation with other discs")
        apart = {row.index: row.value for row in others}
        found.append({row.index: row.value - apart[row.index] for row in own})
        groups |= {row.index: row.group or row.index for row in own}
    if found[0].keys() != found[-1].keys():
        raise ValueError(
            f"{text}: expected both models attacked for the same discs; got {len(found[0])} and "
            f"{len(found[-1])}, {len(found[0].keys() & found[-1].keys())} of them for both. Attack them "
            "again, with the same data."
        )
    values = [found[0][index] - sum(one[index] for one in found[1:]) for index in found[0]]
    return Part(question, bootstrap(values, [groups[index] for index in found[0]]), None)


def _rows(
    measured: Measured, model: str, adversary: str, column: tuple[str, str]
) -> tuple[Table | None, str]:
    """A model's rows on the paper's source, or why there are none."""
    if model not in measured.tables:
        return None, f"{model} not there"
    attack = f"{measured.source}/{adversary}"
    rows = measured.tables[model].get((attack, *column))
    return (None, f"{attack} was not evaluated") if rows is None else (rows, "")
