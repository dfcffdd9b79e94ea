"""The study's report: one HTML page that needs nothing else, the same in Markdown, tables, figures.

Every number and verdict is computed from the folder of results (see `lumbar_disk.results`); a run in progress
gives a report that says what is missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from . import paper, prepare
from .claims import Claim, Part, Verdict, judge
from .exports import claims_csv, claims_json, radii_of, table_csv
from .files import write as whole
from .paper import MEASURES, PATIENTS, SETTINGS, published
from .pictures import pictures
from .results import Cells, Results, cells, read

FEW = 10  # test patients below which the intervals are too short, see `advreg.tables.bootstrap`


def write(folder: Path) -> list[Path]:
    """Write a folder's report: ``report/report.html``, the same in Markdown, tables, claims and figures.

    Args:
        folder: What the study wrote, or has written so far.

    Returns:
        Every file written.

    Raises:
        FileNotFoundError: If the folder is not a study's.
        ValueError: If something in it is not as it should be.
    """
    results = read(folder)
    found, claims = cells(results), judge(results.tables)
    out = folder / "report"
    out.mkdir(exist_ok=True)
    shown, files = pictures(results, found, out)
    content = _content(results, found, claims) | {"figures": shown}
    pages = Environment(
        loader=PackageLoader("lumbar_disk", ""),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = {
        f"report.{kind}": pages.get_template(f"report.{kind}.jinja").render(content) + "\n"
        for kind in ("html", "md")
    }
    texts |= {f"table{number}.csv": table_csv(results, found, number) for number in MEASURES}
    texts |= {"claims.csv": claims_csv(claims), "claims.json": claims_json(claims)}
    for name, text in texts.items():
        files.append(whole(out / name, partial(Path.write_text, data=text, encoding="utf-8")))
    return files


def _content(results: Results, found: Cells, claims: Sequence[Claim]) -> dict[str, Any]:
    """Return what the templates show, but for the figures."""
    about, recipe = results.about, results.about["recipe"]
    settings = [_setting(name, value) for name, value in recipe.items() if name != "models"]
    return {
        "about": about,
        "missing": results.missing,
        "to_come": [name for name in results.missing if name in recipe.get("models", ())],
        "claims": [_claim(claim) for claim in claims],
        "verdicts": _counted(claim.verdict for claim in claims),
        "few": about["patients"]["test"] < FEW,
        "tables": [_table(results, found, number) for number in MEASURES],
        "size": results.size,
        "paper": paper,
        "settings": settings,
        "unlike": [one for one in settings if one["differs"]],
        "times": _times(results),
        "data": prepare.counts(about["data"]),
        "data_facts": _facts(about),
    }


def _claim(claim: Claim) -> dict[str, Any]:
    """Return a claim as the templates show it."""
    return {
        "number": claim.number,
        "title": claim.title,
        "sentence": claim.sentence,
        "verdict": claim.verdict,
        "counts": _counted(part.verdict for part in claim.parts),
        "parts": [
            {
                "text": part.question.text,
                "condition": part.question.condition,
                "measured": part.reason if part.measured is None else _signed(part, part.measured.mean),
                "interval": ""
                if part.measured is None
                else _range(partial(_signed, part), part.measured.low, part.measured.high),
                "published": "" if part.published is None else _signed(part, part.published),
                "verdict": part.verdict,
            }
            for part in claim.parts
        ],
    }


def _table(results: Results, found: Cells, number: int) -> dict[str, Any]:
    """Return one of Tables 1 to 3 as the templates show it."""
    measure = MEASURES[number]
    radii = radii_of(found, number)
    text = f"{{:.{measure.digits}f}}".format
    rows = []
    for name in paper.ordered(set(results.tables)):
        row = []
        for radius in radii:
            one, printed = found.get((number, name, radius)), published(number, name, radius)
            row.append(
                {
                    "mean": "" if one is None else text(one.mean),
                    "interval": "" if one is None else _range(text, one.low, one.high),
                    "published": "" if printed is None else f"{printed:g}",
                }
            )
        rows.append({"name": name, "cells": row})
    return {"number": number, "measure": measure, "radii": [f"{radius:g}" for radius in radii], "rows": rows}


def _times(results: Results) -> dict[str, Any]:
    """Return how long each model took, and all of them."""
    models = results.models.values()
    sums = {name: sum(one[f"seconds_{name}"] for one in models) for name in ("training", "evaluation")}
    wall = results.about["wall_seconds"]
    return {
        "rows": [
            {
                "name": name,
                "steps": f"{one['steps']:,}",
                "parameters": f"{one['parameters']:,}",
                "start": one["warm_start"] or "random weights",
                "training": _duration(one["seconds_training"]),
                "evaluation": _duration(one["seconds_evaluation"]),
            }
            for name, one in results.models.items()
        ],
        **{name: _duration(total) for name, total in sums.items()},
        "total": _duration(sum(sums.values())),
        "wall": "not known yet" if wall is None else _duration(wall),
    }


def _facts(about: Mapping[str, Any]) -> dict[str, str]:
    """Return what the data are made from, by name."""
    manifest = about["data"]
    sources = manifest["sources"].values()
    return {
        "patients": ", ".join(
            f"{side} {count} (paper {PATIENTS[side]})" for side, count in about["patients"].items()
        ),
        "discs": ", ".join(f"{side} {count}" for side, count in about["discs"].items()),
        "refused discs": str(len(manifest["refused"])),
        "files read": f"{len(sources)}, {sum(one['bytes'] for one in sources) / 1e6:.1f} MB"
        if sources
        else "none: drawn from the seed",
        "prepared by": manifest["command"] or "the study itself",
        "prepared with": ", ".join(f"{name} {one}" for name, one in manifest["versions"].items()),
        "options": "; ".join(f"{name} {_shown(value)}" for name, value in manifest["options"].items()),
    }


def _setting(name: str, value: Any) -> dict[str, Any]:
    """Return a field of the recipe beside the paper's value."""
    known = SETTINGS.get(name)
    same = known is None or (tuple(value) if isinstance(value, list) else value) == known
    return {
        "name": name,
        "value": _shown(value),
        "paper": "" if known is None else _shown(known),
        "differs": not same,
    }


def _signed(part: Part, value: float) -> str:
    """Return a level as it is, a difference with its sign."""
    return f"{value:.3f}" if part.question.than is None else f"{value:+.3f}"


def _range(text: Callable[[float], str], low: float, high: float) -> str:
    """Return an interval; of one patient there is none."""
    return "no interval" if math.isnan(low) else f"{text(low)} to {text(high)}"


def _counted(verdicts: Iterable[str]) -> str:
    """Return how many of each verdict.

    Example:
        >>> _counted(["fails", "holds", "holds"])
        '2 holds, 1 fails'
    """
    counts = Counter(verdicts)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])


def _shown(value: object) -> str:
    """Return a setting as people read it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    """Return seconds as people read them.

    Example:
        >>> _duration(9.23), _duration(200), _duration(7261)
        ('9.2 s', '3 min 20 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"
