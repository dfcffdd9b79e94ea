"""What both reports show: a page from its template, claims, run times, data and recipe in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from . import prepare
from .claims import Claim, Part, Verdict
from .files import write
from .paper import PATIENTS
from .results import Results

FEW = 10  # test patients below which the intervals are too short, see `advreg.evaluation.bootstrap`


def written(out: Path, template: str, content: Mapping[str, Any], tables: Mapping[str, str]) -> list[Path]:
    """Write ``report.html`` and ``report.md`` from their templates, and tables that are text already.

    Args:
        out: The folder to write to.
        template: The name before ``.html.jinja`` and ``.md.jinja``.
        content: What the templates show.
        tables: Text by file name.

    Returns:
        The files.
    """
    pages = Environment(
        loader=PackageLoader("lumbar_disk", ""),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = {
        f"report.{kind}": pages.get_template(f"{template}.{kind}.jinja").render(content) + "\n"
        for kind in ("html", "md")
    }
    return [
        write(out / name, partial(Path.write_text, data=text, encoding="utf-8"))
        for name, text in (texts | dict(tables)).items()
    ]


def shared(results: Results, claims: Sequence[Claim], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the templates of both reports show, but for tables and figures.

    Args:
        results: Of the study.
        claims: As judged.
        known: The paper's settings, by name.
    """
    about, recipe = results.about, results.about["recipe"]
    settings = [_setting(name, value, known) for name, value in recipe.items() if name != "models"]
    return {
        "about": about,
        "missing": results.missing,
        "to_come": [name for name in results.missing if name in recipe.get("models", ())],
        "claims": [_claim(claim) for claim in claims],
        "verdicts": _counted(claim.verdict for claim in claims),
        "few": about["patients"]["test"] < FEW,
        "size": results.size,
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
                "condition": part.condition,
                "measured": part.reason if part.measured is None else _signed(part, part.measured.mean),
                "interval": ""
                if part.measured is None
                else between(partial(_signed, part), part.measured.low, part.measured.high),
                "published": "" if part.published is None else _signed(part, part.published),
                "verdict": part.verdict,
            }
            for part in claim.parts
        ],
    }


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
        "options": "; ".join(f"{name} {shown(value)}" for name, value in manifest["options"].items()),
    }


def _setting(name: str, value: Any, paper: Mapping[str, Any]) -> dict[str, Any]:
    """Return a field of the recipe beside the paper's value."""
    known = paper.get(name)
    same = known is None or (tuple(value) if isinstance(value, list) else value) == known
    return {
        "name": name,
        "value": shown(value),
        "paper": "" if known is None else shown(known),
        "differs": not same,
    }


def _signed(part: Part, value: float) -> str:
    """Return a level as it is, a difference with its sign."""
    return f"{value:.3f}" if not part.question.difference else f"{value:+.3f}"


def between(text: Callable[[float], str], low: float, high: float) -> str:
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


def shown(value: object) -> str:
    """Return a setting as people read it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
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
