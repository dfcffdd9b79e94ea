"""Tables and claims of a study as files for other programs: CSV and JSON, at full precision."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable

from .claims import Claim, Part
from .paper import RADII, ordered, published
from .results import Cells, Results


def radii_of(found: Cells, number: int) -> list[float]:
    """Return the columns of a table: the paper's radii, and any others that were evaluated."""
    return sorted({*RADII, *(radius for one, _, radius in found if one == number)})


def table_csv(results: Results, found: Cells, number: int) -> str:
    """Return one of Tables 1 to 3 at full precision: per radius mean, interval and the published value."""
    radii = radii_of(found, number)
    names = ("mean", "low", "high", "published")
    rows: list[list[object]] = [["model", *(f"{radius:g} {name}" for radius in radii for name in names)]]
    for model in ordered(set(results.tables)):
        row: list[object] = [model]
        for radius in radii:
            row += [*found.get((number, model, radius), (None,) * 3), published(number, model, radius)]
        rows.append(row)
    return csv_text(rows)


def claims_csv(claims: Iterable[Claim]) -> str:
    """Return one row per part of a claim."""
    rows: list[dict[str, object]] = [
        {"claim": claim.number, "title": claim.title, "claim_verdict": claim.verdict, **_part_json(part)}
        for claim in claims
        for part in claim.parts
    ]
    return csv_text([list(rows[0]), *(list(row.values()) for row in rows)])


def claims_json(claims: Iterable[Claim]) -> str:
    """Return the claims with their parts."""
    return json.dumps([_claim_json(claim) for claim in claims], indent=1) + "\n"


def _claim_json(claim: Claim) -> dict[str, object]:
    """Return a claim as JSON holds it."""
    return {
        "number": claim.number,
        "title": claim.title,
        "sentence": claim.sentence,
        "verdict": claim.verdict,
        "parts": [_part_json(part) for part in claim.parts],
    }


def _part_json(part: Part) -> dict[str, object]:
    """Return a part of a claim as JSON holds it."""
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
    }


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV; what is not there is empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
