"""The study's report: one HTML page that needs nothing else, the same in Markdown, tables, figures.

Every number and verdict is computed from the folder of results (see `lumbar_disk.results`); a run in progress
gives a report that says what is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import paper
from lumbar_disk.report._claims import judge
from lumbar_disk.report._report import claims_csv, claims_json, radii_of, table_csv
from lumbar_disk.report._pages import between, shared, written
from lumbar_disk.report._paper import MEASURES, published
from lumbar_disk.report._pages import pictures
from lumbar_disk.report._results import Cells, Results, cells, read


def write(folder: Path) -> list[Path]:
    """Write a folder's report: `report/report.html`, the same in Markdown, tables, claims and figures.

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
    content = shared(results, claims, paper.SETTINGS) | {
        "figures": shown,
        "tables": [_table(results, found, number) for number in MEASURES],
        "paper": paper,
    }
    tables = {f"table{number}.csv": table_csv(results, found, number) for number in MEASURES}
    tables |= {"claims.csv": claims_csv(claims), "claims.json": claims_json(claims)}
    return files + written(out, "report", content, tables)


def _table(results: Results, found: Cells, number: int) -> dict[str, Any]:
    """One of Tables 1 to 3 as the templates show it."""
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
                    "interval": "" if one is None else between(text, one.low, one.high),
                    "published": "" if printed is None else f"{printed:g}",
                }
            )
        rows.append({"name": name, "cells": row})
    return {"number": number, "measure": measure, "radii": [f"{radius:g}" for radius in radii], "rows": rows}


def radii_of(found: Cells, number: int) -> list[float]:
    """The columns of a table: the paper's radii, and any others that were evaluated."""
    return sorted({*RADII, *(radius for one, _, radius in found if one == number)})


def table_csv(results: Results, found: Cells, number: int) -> str:
    """One of Tables 1 to 3 at full precision: per radius mean, interval and the published value."""
    radii = radii_of(found, number)
    names = ("mean", "low", "high", "published")
    rows: list[list[object]] = [["model", *(f"{radius:g} {name}" for radius in radii for name in names)]]
    for model in ordered(set(results.tables)):
        row: list[object] = [model]
        for radius in radii:
            row += [*found.get((number, model, radius), (None,) * 3), published(number, model, radius)]
        rows.append(row)
    return csv_text(rows)
