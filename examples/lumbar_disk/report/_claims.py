"""Claims of the paper about in-distribution attacks, six of them, each decided by the measurements.

A claim has parts. Each part is one number, a level or the difference of two models on the same discs, with
its bootstrap interval over test patients and the threshold that it must pass. A part holds if the whole
interval lies on the claimed side of the threshold, fails if it lies on the other, and is undecided otherwise.
The intervals tell how sure the number is for these networks; another training would give other networks.

Claims are judged under the paper's attack. Where a study has `auto_attack` too, each part is answered under
it as well, beside the verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from typing import Protocol

from advreg.evaluation import Interval, Table, bootstrap
from lumbar_disk._core.files import csv_text
from lumbar_disk.report._paper import PURE, SHAPE_MODELS, published
from lumbar_disk.report._results import chosen
from lumbar_disk.study import CONTOUR_DICE, MASK_DICE, By, Measure

COLLAPSE = 0.5
"""Below this Dice a network has collapsed: the paper's own figure, in the caption of Fig. 4."""
MARGIN = 0.1
"""What counts as help, in Dice. The paper says that random noise does not help, though its printed mask Dice
gains up to 0.092 by it at radius 0.03; what it calls robust gains 0.15 at the least."""
NOISE = 0.03
"""The radius that claims 1 to 4 look at: "even when the noise was very small (0.03)", Fig. 4."""
TRAINED = 0.07
"""The radius of adversarial training, where heads that were trained and heads that were not lie far apart."""
SMALL = (0.01, 0.03)
"""Small noise, claim 5: the radii below half of `TRAINED`."""
CLEAN = 0.0


class Verdict(StrEnum):
    """Verdict on a claim, or on a part of it."""

    holds = "holds"
    fails = "fails"
    undecided = "undecided"
    missing = "not computed"
    told = "not judged"


class Asked(Protocol):
    """Question of any kind, as the report shows it."""

    @property
    def text(self) -> str:
        """What is measured, in words."""

    @property
    def threshold(self) -> float | None:
        """What to compare with; None for a number that is told beside the others and decides nothing."""

    @property
    def above(self) -> bool:
        """Whether the claim is that the number lies above."""

    @property
    def difference(self) -> bool:
        """Whether it is a difference, which is shown with its sign."""


@dataclass(frozen=True)
class Question:
    """Question whether a measured number lies above, or below, a threshold.

    Attributes:
        model: The model in question.
        measure: What is measured.
        radius: Of the attack.
        threshold: What to compare with.
        above: Whether the claim is that the number lies above.
        than: The model to subtract; None for the level itself.
    """

    model: str
    measure: Measure
    radius: float
    threshold: float
    above: bool
    than: str | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The one or two models that it takes."""
        return (self.model,) if self.than is None else (self.model, self.than)

    @property
    def text(self) -> str:
        """What is measured, in words."""
        who = " minus ".join(self.models)
        where = "clean images" if self.radius == CLEAN else f"radius {self.radius:g}"
        return f"{who}, {self.measure.title}, {where}"

    @property
    def difference(self) -> bool:
        """Whether it is a difference of two models."""
        return self.than is not None


@dataclass(frozen=True)
class Part:
    """Part of a claim: a question with its answer.

    Attributes:
        question: What was asked.
        measured: The number, with its interval over test patients; None if it could not be computed.
        published: The same number from the paper's tables, where they have it.
        reason: Why nothing was measured; empty otherwise.
        auto: The same question answered under `auto_attack`; None where it was left out.
    """

    question: Asked
    measured: Interval | None
    published: float | None
    reason: str = ""
    auto: Part | None = None

    @property
    def condition(self) -> str:
        """What the claim asks for, in words; empty if nothing."""
        asked = self.question
        return "" if asked.threshold is None else f"{'above' if asked.above else 'below'} {asked.threshold:g}"

    @property
    def verdict(self) -> Verdict:
        """Whether the interval lies on the claimed side of the threshold."""
        if self.question.threshold is None:
            return Verdict.told
        if self.measured is None:
            return Verdict.missing
        above = self.measured.low > self.question.threshold
        below = self.measured.high < self.question.threshold
        if not above and not below:
            return Verdict.undecided
        return Verdict.holds if above == self.question.above else Verdict.fails


@dataclass(frozen=True)
class Claim:
    """Claim of the paper with its parts.

    Attributes:
        number: 1 to 6; 7 to 9 are in `lumbar_disk.ood`.
        title: A few words.
        sentence: What is claimed, and what would count as such.
        parts: All that are judged must hold.
    """

    number: int
    title: str
    sentence: str
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> Verdict:
        """Fails if any part fails; else not computed if any part is missing; holds if all parts hold."""
        return _together(self.parts)

    @property
    def auto(self) -> Verdict | None:
        """The verdict under `auto_attack`; None where it was left out."""
        parts = [part.auto for part in self.parts if part.auto is not None]
        return _together(parts) if parts else None


def _together(parts: Iterable[Part]) -> Verdict:
    """The verdict that parts give."""
    verdicts = {part.verdict for part in parts}
    ranked = (Verdict.fails, Verdict.missing, Verdict.undecided, Verdict.holds)
    return next(verdict for verdict in ranked if verdict in verdicts)


def judge(tables: Mapping[str, Table]) -> tuple[Claim, ...]:
    """Decide the six claims.

    Args:
        tables: The evaluation of each model that is there, by the paper's names of the models.

    Returns:
        The claims, in order.

    Raises:
        ValueError: If two models that are compared were evaluated on different discs.
    """
    auto = any(chosen(table, MASK_DICE, "auto") for table in tables.values())
    return tuple(
        Claim(number, title, sentence, tuple(_answer(question, tables, auto=auto) for question in questions))
        for number, (title, sentence, questions) in enumerate(_claims(), start=1)
    )


def _claims() -> Iterator[tuple[str, str, list[Question]]]:
    """Yield title, sentence and questions of each claim."""
    both = (CONTOUR_DICE, MASK_DICE)
    yield (
        "Networks trained on clean images collapse",
        f"Mask Dice of each std model falls below {COLLAPSE:g} under attack of radius {NOISE:g}.",
        [Question(f"{ssm}_std", MASK_DICE, NOISE, COLLAPSE, above=False) for ssm in SHAPE_MODELS],
    )
    sentence = (
        f"At radius {NOISE:g} no rand model gains {MARGIN:g} Dice over std, with either head and in either "
        f"reading of L_rand: image plus noise (rand) and pure noise ({PURE})."
    )
    yield (
        "Random noise in training does not help",
        sentence,
        [
            Question(f"{ssm}_{kind}", measure, NOISE, MARGIN, above=False, than=f"{ssm}_std")
            for kind, ssm, measure in product(("rand", PURE), SHAPE_MODELS, both)
        ],
    )
    yield (
        "Adversarial training on both heads makes both robust",
        f"At radius {NOISE:g} adv_rs gains more than {MARGIN:g} Dice over std, with either head.",
        [_gain(ssm, "adv_rs", "std", measure) for ssm, measure in product(SHAPE_MODELS, both)],
    )
    sentence = (
        f"At radius {NOISE:g} adv_s gains more than {MARGIN:g} Dice over std with either head, adv_r with "
        f"the contour head; at the training radius, {TRAINED:g}, the mask of adv_s is better than that of "
        f"adv_r by more than {MARGIN:g}."
    )
    yield (
        "Training against attacks on the mask makes both heads robust, on the contour mainly the contour",
        sentence,
        [
            *(_gain(ssm, "adv_s", "std", measure) for ssm, measure in product(SHAPE_MODELS, both)),
            *(_gain(ssm, "adv_r", "std", CONTOUR_DICE) for ssm in SHAPE_MODELS),
            *(_gain(ssm, "adv_s", "adv_r", MASK_DICE, TRAINED) for ssm in SHAPE_MODELS),
        ],
    )
    sentence = (
        f"At radii {' and '.join(f'{radius:g}' for radius in SMALL)} the Dice of P10 is above that of P3: "
        "both heads of adv_rs, and the head that the training attacked of adv_r and adv_s."
    )
    yield (
        "Under adversarial training the larger shape model does better at small noise",
        sentence,
        [
            Question(f"P10_{kind}", measure, radius, 0.0, above=True, than=f"P3_{kind}")
            for (kind, measure), radius in product(_TRAINED_HEADS, SMALL)
        ],
    )
    sentence = (
        "On clean images the Dice of std is above that of each adversarially trained model, for the heads "
        "that the training attacked."
    )
    yield (
        "Adversarial training costs accuracy on clean images",
        sentence,
        [
            Question(f"{ssm}_std", measure, CLEAN, 0.0, above=True, than=f"{ssm}_{kind}")
            for (kind, measure), ssm in product(_TRAINED_HEADS, SHAPE_MODELS)
        ],
    )


_TRAINED_HEADS = (
    ("adv_rs", CONTOUR_DICE),
    ("adv_rs", MASK_DICE),
    ("adv_r", CONTOUR_DICE),
    ("adv_s", MASK_DICE),
)


def _gain(ssm: str, kind: str, than: str, measure: Measure, radius: float = NOISE) -> Question:
    """Ask whether one training is better than another by more than `MARGIN`."""
    threshold = MARGIN if measure.worse == "lower" else -MARGIN
    return Question(f"{ssm}_{kind}", measure, radius, threshold, threshold > 0, than=f"{ssm}_{than}")


def _answer(question: Question, tables: Mapping[str, Table], *, auto: bool) -> Part:
    """Measure what a question asks for, under `auto_attack` as well if that is told."""
    part = _answered(question, tables, "paper")
    return replace(part, auto=_answered(question, tables, "auto")) if auto else part


def _answered(question: Question, tables: Mapping[str, Table], by: By) -> Part:
    """Measure what a question asks for under one attack."""
    printed = [published(question.measure.name, name, question.radius) for name in question.models]
    known = None if None in printed else _minus([value for value in printed if value is not None])
    absent = [name for name in question.models if name not in tables]
    if absent:
        return Part(question, None, known, f"{' and '.join(absent)} not there")
    found = [chosen(tables[name], question.measure, by, radius=question.radius) for name in question.models]
    if not all(found):
        return Part(question, None, known, f"radius {question.radius:g} was not evaluated")
    values = [{row.index: row.value for row in table} for table in found]
    if values[0].keys() != values[-1].keys():
        raise ValueError(
            f"{question.text}: expected both models evaluated on the same discs; got {len(values[0])} and "
            f"{len(values[-1])} discs, {len(values[0].keys() & values[-1].keys())} of them in both. Evaluate "
            "them again with the same data."
        )
    differences = [_minus([value[row.index] for value in values]) for row in found[0]]
    return Part(question, bootstrap(differences, found[0].groups()), known)


def _minus(values: Sequence[float]) -> float:
    """The first value less the others."""
    return values[0] - sum(values[1:])


def claims_csv(claims: Iterable[Claim]) -> str:
    """One row per part of a claim."""
    rows: list[dict[str, object]] = [
        {"claim": claim.number, "title": claim.title, "claim_verdict": claim.verdict, **_part_json(part)}
        for claim in claims
        for part in claim.parts
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return csv_text([names, *([row.get(name) for name in names] for row in rows)])


def claims_json(claims: Iterable[Claim]) -> str:
    """The claims with their parts."""
    return json.dumps([_claim_json(claim) for claim in claims], indent=1) + "\n"


def _claim_json(claim: Claim) -> dict[str, object]:
    """A claim as JSON holds it."""
    return {
        "number": claim.number,
        "title": claim.title,
        "sentence": claim.sentence,
        "verdict": claim.verdict,
        **({} if claim.auto is None else {"auto_verdict": claim.auto}),
        "parts": [_part_json(part) for part in claim.parts],
    }


def _part_json(part: Part) -> dict[str, object]:
    """A part of a claim as JSON holds it."""
    numbers = part.measured or (None,) * 3
    mean, low, high = (None if one is None or math.isnan(one) else one for one in numbers)
    return {
        "part": part.question.text,
        "measured": mean,
        "low": low,
        "high": high,
        "must_be": part.condition,
        "verdict": part.verdict,
        "published": part.published,
        "reason": part.reason,
        **({} if part.auto is None else _auto_json(part.auto)),
    }


def _auto_json(part: Part) -> dict[str, object]:
    """What `auto_attack` says of a part."""
    known = _part_json(part)
    return {f"auto_{name}": known[name] for name in ("measured", "low", "high", "verdict")}
