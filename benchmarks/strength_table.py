"""Tables of `strength.py`, from its cells: means with bootstrap intervals over patients, and who is ahead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from advreg.evaluation import Interval, bootstrap

STRONGER = {"dice": -1, "iou": -1, "point_error": 1, "contour_dice": -1, "abs_rel": 1, "rmse": 1}
"""The sign with which a metric grows as the damage does."""

NAMES = {
    "dice": "Hard Dice of the mask (lower is stronger)",
    "iou": "IoU of the mask (lower is stronger)",
    "point_error": "Point error in pixels (higher is stronger)",
    "contour_dice": "Dice of the contour (lower is stronger)",
    "abs_rel": "Absolute relative error of disparity (higher is stronger)",
    "rmse": "Root mean square error of disparity in pixels (higher is stronger)",
}
GROUPS = ("paper", "by hand", "ours", "peers")
FIFTH = 5  # "as much with a fifth of the passes"

ABOUT = """\
Means over examples, in brackets 95 % bootstrap intervals that resample {groups}.
Columns are radius and passes. "ours" is `auto_attack` where it ran, otherwise the best of ours in that
setting in hindsight, as the best peer is; "fifteen lines" are signs of the gradient of cross-entropy or
distance with a cosine's sizes, in a radius that shrinks from 2 to 1.5 to 1, the best iterate kept. "over" is
how much more damage ours does, in the metric's unit, image by image: positive is stronger. How a peer was
bent to the network, "pixels", "own loss" or "damaged?", and its settings are explained in
`benchmarks/peers.py`."""

GAP = """\
"worst known" takes for each example the worst over every method here, ours and the peers', with every number
of passes, among them `auto_attack` restarted from ten seeds with 500 passes each where that ran. The gap is
in the metric's unit."""

Cell = dict[str, Any]
Place = tuple[str, str, float, int]  # metric, model, radius, passes


def tables(
    cells: Iterable[Cell], patients: Sequence[str], calls: Sequence[dict[str, Any]], groups: str
) -> tuple[str, dict[str, Any]]:
    """All of it, as markdown and for JSON.

    Args:
        cells: What `strength.py` wrote; a cell that holds an error has no values.
        patients: Of each example, for the bootstrap.
        calls: What came of calling peers as they are; see `peers_tried`.
        groups: What is resampled, in words.
    """
    cells = list(cells)
    good = [cell for cell in cells if "values" in cell]
    rows = [_row(cell, metric, patients) for cell in good for metric in cell["values"]]
    rows.sort(key=lambda r: (GROUPS.index(r["group"]), r["method"], r["model"], r["radius"], r["passes"]))
    values = {
        (metric, *_where(cell)): {} for cell in good for metric in cell["values"]
    }  # by place, then by group and method
    for cell in good:
        for metric, each in cell["values"].items():
            key = (cell["identity"]["group"], cell["identity"]["method"])
            values[(metric, *_where(cell))][key] = np.asarray(each)
    summary = [_summary(place, values[place], patients) for place in sorted(values)]
    content = {
        "rows": rows,
        "summary": summary,
        "fewer_passes": [row for place in sorted(values) if (row := _fewer(place, values, patients))],
        "gap": [row for place in sorted(values) if (row := _gap(place, values, patients))],
        "failed": [{**_short(cell), "error": cell["error"]} for cell in cells if "error" in cell],
        "outside": [_outside(cell) for cell in good if cell["outside"]],
        "over_budget": [
            {**_short(cell), "used": cell["passes"]}
            for cell in good
            if cell["passes"] > cell["identity"]["passes"] + 1e-6
        ],
        "tried": list(calls),
    }
    return _markdown(content, groups), content


def brief(content: dict[str, Any]) -> str:
    """The summary, for a terminal."""
    return "\n".join(_summary_lines(content["summary"]))


def _where(cell: Cell) -> tuple[str, float, int]:
    known = cell["identity"]
    return known["model"], known["radius"], known["passes"]


def _short(cell: Cell) -> dict[str, Any]:
    return {key: cell["identity"][key] for key in ("head", "model", "radius", "passes", "method")}


def _outside(cell: Cell) -> dict[str, Any]:
    return {**_short(cell), "examples": cell["outside"], "excess": cell["excess"]}


def _row(cell: Cell, metric: str, patients: Sequence[str]) -> dict[str, Any]:
    return {
        **_short(cell),
        "group": cell["identity"]["group"],
        "metric": metric,
        **bootstrap(cell["values"][metric], patients)._asdict(),
        "used": cell["passes"],
        "forwards": cell["forwards"],
        "seconds": cell["seconds"],
        "outside": cell["outside"],
    }


def _strongest(metric: str, found: dict[tuple[str, str], Any], group: str) -> str | None:
    """The method of a group with the largest mean damage."""
    names = [name for (which, name) in found if which == group]
    return max(names, key=lambda name: STRONGER[metric] * found[group, name].mean(), default=None)


def _ours(metric: str, found: dict[tuple[str, str], Any]) -> str | None:
    """`auto_attack` on that metric where it ran; otherwise the best of ours in hindsight."""
    names = ("auto_attack, outlines" if metric == "contour_dice" else "auto_attack", f"auto_attack, {metric}")
    name = next((name for name in names if ("ours", name) in found), None)
    return name or _strongest(metric, found, "ours")


def _difference(metric: str, a: Any, b: Any, patients: Sequence[str]) -> Interval:
    """How much more damage `a` does than `b`, in the metric's unit; positive: `a` is stronger."""
    return bootstrap(STRONGER[metric] * (a - b), patients)


def _summary(place: Place, found: dict[tuple[str, str], Any], patients: Sequence[str]) -> dict[str, Any]:
    metric = place[0]
    peer, ours = _strongest(metric, found, "peers"), _ours(metric, found)
    row: dict[str, Any] = dict(zip(("metric", "model", "radius", "passes"), place, strict=True))
    hand = f"fifteen lines, {metric}"
    others = (("paper", "paper", "paper"), ("hand", "by hand", hand), ("peer", "peers", peer))
    for key, group, name in (*others, ("ours", "ours", ours)):
        each = found.get((group, name or ""))
        row[key] = None if each is None else {"method": name, "mean": float(each.mean())}
    for key, group, name in others:
        other, mine = found.get((group, name or "")), found.get(("ours", ours or ""))
        both = mine is not None and other is not None
        row[f"over_{key}"] = _difference(metric, mine, other, patients)._asdict() if both else None
    return row


def _fewer(place: Place, values: dict[Place, Any], patients: Sequence[str]) -> dict[str, Any] | None:
    """Ours against the paper's attack with five times the passes, where both ran."""
    metric, model, radius, passes = place
    much = values.get((metric, model, radius, FIFTH * passes), {}).get(("paper", "paper"))
    name = _ours(metric, values[place])
    if much is None or name is None:
        return None
    mine = values[place]["ours", name]
    row = dict(zip(("metric", "model", "radius", "passes"), place, strict=True))
    return {
        **row,
        "ours": {"method": name, "mean": float(mine.mean())},
        "paper": float(much.mean()),
        "over_paper": _difference(metric, mine, much, patients)._asdict(),
    }


def _gap(place: Place, values: dict[Place, Any], patients: Sequence[str]) -> dict[str, Any] | None:
    """What `auto_attack` leaves undone: against the worst of each example over all methods and budgets."""
    metric = place[0]
    mine = values[place].get(("ours", _ours(metric, values[place]) or ""))
    if mine is None or metric == "contour_dice":
        return None
    known = [
        (STRONGER[metric] * each, at[3], name)
        for at, found in values.items()
        if at[:3] == place[:3]
        for (_, name), each in found.items()
    ]
    worst = np.max([each for each, _, _ in known], axis=0)
    row = dict(zip(("metric", "model", "radius", "passes"), place, strict=True))
    return {
        **row,
        "ours": float(mine.mean()),
        "worst": float(STRONGER[metric] * worst.mean()),
        "gap": bootstrap(worst - STRONGER[metric] * mine, patients)._asdict(),
        "methods": len({name for _, _, name in known}),
        "most": max(passes for _, passes, _ in known),
    }


def _between(found: dict[str, float] | None, digits: int = 3) -> str:
    return "" if found is None else "{mean:.{d}f} ({low:.{d}f} to {high:.{d}f})".format(**found, d=digits)


def _named(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{found['mean']:.3f} {found['method']}"


def _summary_lines(summary: list[dict[str, Any]]) -> list[str]:
    hand = any(row["hand"] for row in summary)
    others = ("paper", "hand", "peer") if hand else ("paper", "peer")
    names = {"paper": "paper", "hand": "fifteen lines", "peer": "best peer"}
    title = [names[key] for key in others] + ["ours"] + [f"over {names[key]}" for key in others]
    lines = [f"| metric | model | radius | passes | {' | '.join(title)} |", "|---" * (4 + len(title)) + "|"]
    for row in summary:
        cells = [row["metric"], row["model"], f"{row['radius']:g}", str(row["passes"])]
        for key in (*others, "ours"):
            alone = "" if row[key] is None else f"{row[key]['mean']:.3f}"
            cells.append(_named(row[key]) if key in ("peer", "ours") else alone)
        lines.append(f"| {' | '.join([*cells, *(_between(row[f'over_{key}']) for key in others)])} |")
    return lines


def _ahead(summary: list[dict[str, Any]]) -> list[str]:
    """In how many cells ours is ahead; surely, where the interval leaves out zero."""
    lines = []
    for other, name in (
        ("over_paper", "the paper's attack"),
        ("over_hand", "the fifteen lines"),
        ("over_peer", "the best peer"),
    ):
        for metric in STRONGER:
            found = [row[other] for row in summary if row["metric"] == metric and row[other]]
            if not found:
                continue
            ahead = sum(each["mean"] > 0 for each in found)
            surely, behind = sum(each["low"] > 0 for each in found), sum(each["high"] < 0 for each in found)
            worst = min(each["mean"] for each in found)
            lines.append(
                f"- {metric}: more damage than {name} in {ahead} of {len(found)} settings; the interval is "
                f"above zero in {surely} and below in {behind}; at worst {worst:+.4f}."
            )
    return lines


def _grid(rows: list[dict[str, Any]], metric: str, model: str) -> list[str]:
    """Methods down, radius and passes across; the strongest of each column is bold."""
    rows = [row for row in rows if row["metric"] == metric and row["model"] == model]
    columns = sorted({(row["radius"], row["passes"]) for row in rows})
    found = {(row["group"], row["method"], row["radius"], row["passes"]): row for row in rows}
    best: dict[tuple[float, int], float] = defaultdict(lambda: -np.inf)
    for row in rows:
        at = (row["radius"], row["passes"])
        best[at] = max(best[at], STRONGER[metric] * row["mean"])
    heads = [f"{radius:g}, {passes}" for radius, passes in columns]
    lines = [f"| group | method | {' | '.join(heads)} |", "|---" * (len(columns) + 2) + "|"]
    for group, method in dict.fromkeys((row["group"], row["method"]) for row in rows):
        cells = []
        for at in columns:
            row = found.get((group, method, *at))
            text = _between(row)
            if row and STRONGER[metric] * row["mean"] == best[at]:
                text = f"**{text}**"
            cells.append(text + (" (outside)" if row and row["outside"] else ""))
        lines.append(f"| {group} | {method} | {' | '.join(cells)} |")
    return lines


def _work(rows: list[dict[str, Any]]) -> list[str]:
    """What each method used: passes over those allowed, forward passes besides, seconds of a pass."""
    lines = [
        "| group | method | head | passes used over allowed | forward passes besides | ms a pass |",
        "|---|---|---|---|---|---|",
    ]
    for group, method, head in dict.fromkeys((row["group"], row["method"], row["head"]) for row in rows):
        some = [row for row in rows if (row["group"], row["method"], row["head"]) == (group, method, head)]
        shares = [row["used"] / row["passes"] for row in some]
        besides = [row["forwards"] for row in some]
        pace = np.median([1000 * row["seconds"] / max(row["used"], 1) for row in some])
        used = f"{min(shares):.3g} to {max(shares):.3g}" if min(shares) < max(shares) else f"{shares[0]:.3g}"
        extra = (
            f"{min(besides):.3g} to {max(besides):.3g}"
            if min(besides) < max(besides)
            else f"{besides[0]:.3g}"
        )
        lines.append(f"| {group} | {method} | {head} | {used} | {extra} | {pace:.1f} |")
    return lines


def _tried(calls: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["| library | attack | output | what came |", "|---|---|---|---|"]
    for call in calls:
        text = call["came"].replace("|", "\\|")
        came = f"runs: {text}" if call["error"] is None else f"`{call['error']}`: {text}"
        lines.append(f"| {call['library']} | {call['attack']} | {call['output']} | {came} |")
    return lines


def _markdown(content: dict[str, Any], groups: str) -> str:
    rows = content["rows"]
    parts = [
        ABOUT.format(groups=groups),
        "## Who is ahead",
        "\n".join(_ahead(content["summary"])),
        "\n".join(_summary_lines(content["summary"])),
    ]
    if content["fewer_passes"]:
        lines = [
            "| metric | model | radius | passes of ours | ours | paper, five times as many | over paper |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in content["fewer_passes"]:
            where = [row["metric"], row["model"], f"{row['radius']:g}", str(row["passes"])]
            came = [_named(row["ours"]), f"{row['paper']:.3f}", _between(row["over_paper"])]
            lines.append(f"| {' | '.join(where + came)} |")
        parts += ["## A fifth of the passes", "\n".join(lines)]
    lines = [
        "| metric | model | radius | passes | ours | worst known | gap | methods | most passes of one |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["gap"]:
        where = [row["metric"], row["model"], f"{row['radius']:g}", str(row["passes"])]
        came = [f"{row['ours']:.4f}", f"{row['worst']:.4f}", _between(row["gap"], 4)]
        lines.append(f"| {' | '.join([*where, *came, str(row['methods']), str(row['most'])])} |")
    parts += ["## What is left undone", GAP, "\n".join(lines)]
    for metric, name in NAMES.items():
        for model in sorted({row["model"] for row in rows if row["metric"] == metric}):
            parts += [f"## {name}: {model}", "\n".join(_grid(rows, metric, model))]
    parts += [
        "## Passes and time",
        "\n".join(_work([row for row in rows if row["metric"] != "contour_dice"])),
    ]
    for key, title in (
        ("failed", "Attacks that failed"),
        ("outside", "Results outside ball or box"),
        ("over_budget", "Attacks that took more passes than they were allowed"),
    ):
        lines = ["- " + ", ".join(f"{name} {value}" for name, value in row.items()) for row in content[key]]
        parts += [f"## {title}", "\n".join(lines or ["None."])]
    if content["tried"]:
        parts += ["## Peers called as they are", "\n".join(_tried(content["tried"]))]
    return "\n\n".join(parts) + "\n"
