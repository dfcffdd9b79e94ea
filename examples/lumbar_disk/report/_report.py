"""Report of the study: one HTML page that needs nothing else, the same in Markdown, tables, figures.

Every number and verdict is computed from the folder of results (see `read_results`); a run in progress
gives a report that says what is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lumbar_disk._core.files import csv_text
from lumbar_disk.report._attacks import sentence
from lumbar_disk.report._claims import claims_csv, claims_json, judge
from lumbar_disk.report._figures import pictures
from lumbar_disk.report._pages import interval_text, page_content, write_pages
from lumbar_disk.report._paper import PAPER_RADII, PAPER_SETTINGS, PAPER_SIZE, PURE, ordered, published
from lumbar_disk.report._results import Cells, Results, cells, read_results
from lumbar_disk.study import MEASURES, Measure


def write_report(folder: Path) -> list[Path]:
    """Write a folder's report: `report/report.html`, the same in Markdown, tables, claims and figures.

    Args:
        folder: What the study wrote, or has written so far.

    Returns:
        Every file written.

    Raises:
        FileNotFoundError: If the folder is not a study's.
        ValueError: If something in it is not as it should be.
    """
    results = read_results(folder)
    found, auto, claims = cells(results), cells(results, "auto"), judge(results.tables)
    out = folder / "report"
    out.mkdir(exist_ok=True)
    shown, files = pictures(results, found, auto, out)
    content = page_content(results, claims, PAPER_SETTINGS) | {
        "figures": shown,
        "tables": [_table(results, found, auto, measure) for measure in MEASURES.values()],
        "auto": bool(auto),
        "paper_size": PAPER_SIZE,
        "pure": PURE,
    }
    tables = {
        f"table{measure.table}.csv": table_csv(results, found, auto, measure) for measure in MEASURES.values()
    }
    tables |= {"claims.csv": claims_csv(claims), "claims.json": claims_json(claims)}
    return files + write_pages(out, "report", content, tables)


def _table(results: Results, found: Cells, auto: Cells, measure: Measure) -> dict[str, Any]:
    """One of Tables 1 to 3 as the templates show it."""
    radii = radii_of(found, measure)
    text = f"{{:.{measure.digits}f}}".format
    rows = []
    for name in ordered(set(results.tables)):
        row = []
        for radius in radii:
            key = (measure.name, name, radius)
            one, stronger, printed = found.get(key), auto.get(key), published(*key)
            row.append(
                {
                    "mean": "" if one is None else text(one.mean),
                    "interval": "" if one is None else interval_text(text, one.low, one.high),
                    "auto": "" if stronger is None or not radius else text(stronger.mean),
                    "published": "" if printed is None else f"{printed:g}",
                }
            )
        rows.append({"name": name, "cells": row})
    return {
        "measure": measure,
        "radii": [f"{radius:g}" for radius in radii],
        "rows": rows,
        "overstated": sentence(results, measure),
    }


def radii_of(found: Cells, measure: Measure) -> list[float]:
    """The columns of a table: the paper's radii, and any others that were evaluated."""
    return sorted({*PAPER_RADII, *(radius for one, _, radius in found if one == measure.name)})


def table_csv(results: Results, found: Cells, auto: Cells, measure: Measure) -> str:
    """One of Tables 1 to 3 at full precision: per radius mean, interval and the published value.

    Where `auto_attack` was not left out, its mean and interval come after them.
    """
    radii = radii_of(found, measure)
    names = ["mean", "low", "high", "published"] + ["auto mean", "auto low", "auto high"] * bool(auto)
    rows: list[list[object]] = [["model", *(f"{radius:g} {name}" for radius in radii for name in names)]]
    for model in ordered(set(results.tables)):
        row: list[object] = [model]
        for radius in radii:
            key = (measure.name, model, radius)
            row += [*found.get(key, (None,) * 3), published(*key)]
            row += list(auto.get(key, (None,) * 3)) if auto else []
        rows.append(row)
    return csv_text(rows)
