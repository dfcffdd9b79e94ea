"""Pages of both reports from their templates: claims, run times, data, recipe and pictures in words."""

from __future__ import annotations

import base64
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from cycler import cycler
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from lumbar_disk._core.drawing import COLOURS, darkened
from lumbar_disk._core.files import write
from lumbar_disk.data import counts
from lumbar_disk.report._claims import Claim, Part, Verdict
from lumbar_disk.report._paper import PAPER_PATIENTS
from lumbar_disk.report._results import Results

NARROW = "(max-width: 640px)"
DARK = "(prefers-color-scheme: dark)"
WRITTEN: dict[Any, Any] = {  # matplotlib reads colours such as "C0" when a figure is written
    "svg.hashsalt": "advreg",
    "axes.prop_cycle": cycler(color=COLOURS),
}
FEW = 10  # test patients below which the intervals are too short, see `advreg.evaluation.bootstrap`


def write_pages(
    out: Path, template: str, content: Mapping[str, Any], tables: Mapping[str, str]
) -> list[Path]:
    """Write `report.html` and `report.md` from their templates, and tables that are text already.

    Args:
        out: The folder to write to.
        template: The name before `.html.jinja` and `.md.jinja`.
        content: What the templates show.
        tables: Text by file name.

    Returns:
        The files.
    """
    texts = {f"report.{kind}": rendered(f"{template}.{kind}", content) for kind in ("html", "md")}
    return [write(out / name, text) for name, text in (texts | dict(tables)).items()]


def rendered(template: str, content: Mapping[str, Any]) -> str:
    """A page or a card from its template, in which text of users stands as text.

    Args:
        template: The name before `.jinja`; `.html` or `.md` says which.
        content: What it shows.
    """
    pages = Environment(
        loader=PackageLoader("lumbar_disk.report", "templates"),
        autoescape=select_autoescape(["html.jinja"]),
        finalize=literal if template.endswith(".md") else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["fenced"] = fenced
    return pages.get_template(f"{template}.jinja").render(content) + "\n"


def literal(value: Any) -> Any:
    r"""A value as it shall stand in Markdown: text without HTML, links, code or breaks of its own.

    Example:
        >>> literal("a|b <script>"), literal(3), literal(Markup("| safe |"))
        ('a\\|b &lt;script&gt;', 3, Markup('| safe |'))
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    line = " ".join(escape(value, quote=False).splitlines())
    return re.sub(r"[\\`*\[\]|]", r"\\\g<0>", line)


def fenced(command: str) -> Markup:
    """A block of Markdown that shows a command as it was typed, whatever is in it."""
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}console\n{command}\n{fence}")  # noqa: S704 - nothing in a fence is read as HTML


def page_content(results: Results, claims: Sequence[Claim], known: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates of both reports show, but for tables and figures.

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
        "both": any(claim.auto for claim in claims),
        "few": about["patients"]["test"] < FEW,
        "size": results.size,
        "settings": settings,
        "unlike": [one for one in settings if one["differs"]],
        "times": _times(results),
        "data": counts(about["data"]),
        "data_facts": _facts(about),
    }


def _claim(claim: Claim) -> dict[str, Any]:
    """A claim as the templates show it."""
    return {
        "number": claim.number,
        "title": claim.title,
        "sentence": claim.sentence,
        "verdict": claim.verdict,
        "auto": claim.auto,
        "counts": _counted(part.verdict for part in claim.parts),
        "parts": [
            {
                "text": part.question.text,
                "condition": part.condition,
                "measured": part.reason if part.measured is None else _signed(part, part.measured.mean),
                "interval": ""
                if part.measured is None
                else interval_text(partial(_signed, part), part.measured.low, part.measured.high),
                "published": "" if part.published is None else _signed(part, part.published),
                "verdict": part.verdict,
                "auto": _under_auto(part),
            }
            for part in claim.parts
        ],
    }


def _under_auto(part: Part) -> str:
    """What `auto_attack` says of a part: number and verdict; empty where it was left out."""
    if part.auto is None:
        return ""
    one = part.auto.measured
    return str(part.auto.verdict) if one is None else f"{_signed(part, one.mean)}, {part.auto.verdict}"


def _times(results: Results) -> dict[str, Any]:
    """How long each model took, and all of them."""
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
    """What the data are made from, by name."""
    manifest = about["data"]
    sources = manifest["sources"].values()
    whole = sum(one["level"] is None for one in manifest["refused"])
    return {
        "patients": ", ".join(
            f"{side} {count} (paper {PAPER_PATIENTS[side]})" for side, count in about["patients"].items()
        ),
        "discs": ", ".join(f"{side} {count}" for side, count in about["discs"].items()),
        "refused discs": str(len(manifest["refused"]) - whole),
        **({"images refused whole": str(whole)} if whole else {}),
        "files read": f"{len(sources)}, {sum(one['bytes'] for one in sources) / 1e6:.1f} MB"
        if sources
        else "none: drawn from the seed",
        "prepared by": manifest["command"] or "the study itself",
        "prepared with": ", ".join(f"{name} {one}" for name, one in manifest["versions"].items()),
        "options": "; ".join(f"{name} {shown(value)}" for name, value in manifest["options"].items()),
    }


def _setting(name: str, value: Any, paper: Mapping[str, Any]) -> dict[str, Any]:
    """A field of the recipe beside the paper's value."""
    known = paper.get(name)
    same = known is None or (tuple(value) if isinstance(value, list) else value) == known
    return {
        "name": name,
        "value": shown(value),
        "paper": "" if known is None else shown(known),
        "differs": not same,
    }


def _signed(part: Part, value: float) -> str:
    """A level as it is, a difference with its sign."""
    return f"{value:.3f}" if not part.question.difference else f"{value:+.3f}"


def interval_text(text: Callable[[float], str], low: float, high: float) -> str:
    """An interval; of one patient there is none."""
    return "no interval" if math.isnan(low) else f"{text(low)} to {text(high)}"


def _counted(verdicts: Iterable[str]) -> str:
    """How many of each verdict.

    Example:
        >>> _counted(["fails", "holds", "holds"])
        '2 holds, 1 fails'
    """
    counts = Counter(verdicts)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])


def shown(value: object) -> str:
    """A setting as people read it."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    """Seconds as people read them.

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


@dataclass(frozen=True)
class Picture:
    """Picture of a page: a figure, rendered for it.

    Attributes:
        number: The paper's, such as 4 or "1b".
        caption: What stands below.
        alt: What it shows, for whoever does not see it.
        sources: Data URIs by media query, the narrowest first; "" is the rest. Empty if nothing was drawn.
    """

    number: int | str
    caption: str
    alt: str
    sources: dict[str, str]


def write_drawing(path: Path, draw: Callable[..., Figure]) -> dict[str, str]:
    """Write a figure of lines, and render it for a page, light and dark.

    Args:
        path: The PNG file to write.
        draw: Draws it, given `tall`, in the colours that the study's `darkened` knows.

    Returns:
        See `Picture.sources`.
    """
    page = draw(tall=False)
    with rc_context(WRITTEN):
        write(path, page.savefig)
    wide, tall = _svg(page), _svg(draw(tall=True))
    drawn = {f"{NARROW} and {DARK}": darkened(tall), NARROW: tall, DARK: darkened(wide), "": wide}
    return {media: _uri("image/svg+xml", svg) for media, svg in drawn.items()}


def write_photograph(path: Path, draw: Callable[..., Figure]) -> dict[str, str]:
    """Write a figure of images, and render it for a page; see `write_drawing`."""
    write(path, draw(tall=False).savefig)
    return {
        NARROW: _uri("image/png", _saved(draw(tall=True))),
        "": _uri("image/png", path.read_bytes()),
    }


def _svg(figure: Figure) -> bytes:
    """A drawing as SVG, the same for the same figure."""
    with rc_context(WRITTEN):
        return _saved(figure, format="svg", metadata={"Date": None})


def _saved(figure: Figure, **options: Any) -> bytes:
    """What a figure writes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def _uri(kind: str, content: bytes) -> str:
    """Content as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
