"""Report of the out-of-distribution study: one HTML page, the same in Markdown, tables, figures.

Every number and verdict is computed from the folder of results, as for the study's report. A number of
detection that no adversary was there for is marked as such wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from advreg.evaluation import Interval
from advreg.metrics import Detection
from lumbar_disk._core.files import csv_text, read_json
from lumbar_disk.ood import _figures as drawn
from lumbar_disk.ood._claims import STD, judge
from lumbar_disk.ood._tables import (
    AWARE,
    CLEAN_ONLY,
    LOSSES,
    NONE,
    SETTINGS,
    UNAWARE,
    WALK,
    Measured,
    Tolerance,
    detectors,
    measure,
    ordered,
)
from lumbar_disk.report import (
    PAPER_SETTINGS,
    PAPER_SIZE,
    RESTORE,
    Picture,
    Results,
    claims_csv,
    claims_json,
    interval_text,
    page_content,
    read_results,
    write_drawing,
    write_pages,
    write_photograph,
)

NEEDED = ("ood_radius", "contour_within", "mask_within")  # of the recipe


def write_report(folder: Path) -> list[Path]:
    """Write a folder's report: `report/report.html`, the same in Markdown, tables, claims and figures.

    Args:
        folder: What the study wrote, or has written so far.

    Returns:
        Every file written.

    Raises:
        FileNotFoundError: If the folder is not a study's.
        ValueError: If it is another study's, or something in it is not as it should be.
    """
    results = read_results(folder, ordered)
    about, recipe = results.about, results.about["recipe"]
    absent = [name for name in NEEDED if name not in recipe]
    if "ood" not in about or absent:
        raise ValueError(
            f"{folder}: expected an out-of-distribution study; got one without "
            f"{', '.join([*absent, *(['ood'] if 'ood' not in about else [])])}. Make one with `lumbar-disk "
            "ood`, or report the fifteen models with `lumbar-disk report`."
        )
    sources = about["ood"]["sources"]
    within = Tolerance(recipe["contour_within"], recipe["mask_within"])
    measured = measure(results.tables, sources, within, radius=recipe["ood_radius"])
    claims = judge(measured)
    out = folder / "report"
    out.mkdir(exist_ok=True)
    figures, files = _figures(results, measured, out)
    content = page_content(results, claims, PAPER_SETTINGS | SETTINGS) | {
        "figures": figures,
        "source": measured.source,
        "within": within,
        "radius": f"{recipe['ood_radius']:g}",
        "like_the_papers": f"{SETTINGS['ood_radius'] * results.size / PAPER_SIZE:g}",
        "paper_radius": f"{SETTINGS['ood_radius']:g}",
        "paper_size": PAPER_SIZE,
        "clean_only": CLEAN_ONLY,
        "detection": [
            _detection(measured, name) for name in results.tables if detectors(measured.tables[name])
        ],
        "limits": {
            source: {
                "median": f"{one.median:.1f}",
                "least": f"{one.least:.1f}",
                "inside": f"{one.inside:.0%}",
            }
            for source, one in measured.limits.items()
        },
        "matching": [_matching(measured, name) for name in results.tables],
        "sources": [
            {"name": name, "images": one["images"], "skipped": one["skipped"]}
            for name, one in sources.items()
        ],
        "scarce": [name for name, one in sources.items() if one["images"] < about["discs"]["test"]],
    }
    tables = {
        "detectors.csv": _detectors_csv(measured),
        "matching.csv": _matching_csv(measured),
        "claims.csv": claims_csv(claims),
        "claims.json": claims_json(claims),
    }
    return files + write_pages(out, "ood", content, tables)


def _figures(results: Results, measured: Measured, out: Path) -> tuple[list[Picture], list[Path]]:
    """Write Figs 1(b), 10, 11 and 12 as far as they can be drawn."""
    examples, std = results.examples, results.examples.get(STD)
    shown = f" ({std['patients'][0]}, {std['levels'][0]})" if std else ""
    plans = {
        "1b": std
        and (
            write_photograph,
            partial(drawn.example_figure, std),
            drawn.example_text(std),
        ),
        "10": STD in measured.tables
        and (write_drawing, partial(drawn.dice_figure, measured), drawn.dice_text(measured)),
        "11": any(detectors(table) for table in measured.tables.values())
        and (write_drawing, partial(drawn.error_figure, measured), drawn.error_text(measured)),
        "12": drawn.drawable(examples)
        and (
            write_photograph,
            partial(drawn.perturbation_figure, examples),
            drawn.perturbation_text(examples),
        ),
    }
    captions = {
        "1b": f"A disc{shown}, an image that is none, and the same attacked; the network is {STD}",
        "10": "How alike the network answers to discs and to their partners, before and under attack",
        "11": "Reconstruction errors of discs and of what is none, under each adversary; what no adversary "
        f"was there for is marked: {CLEAN_ONLY}",
        "12": "What the unaware adversary adds to an image that is no disc, and the answers",
    }
    pictures, files = [], []
    for number, caption in captions.items():
        path, plan = out / f"figure{number}.png", plans[number]
        if not plan:
            path.unlink(missing_ok=True)  # of an earlier run
            pictures.append(Picture(number, caption, "", {}))
            continue
        render, draw, alt = plan
        pictures.append(Picture(number, caption, alt, render(path, draw)))
        files.append(path)
    return pictures, files


def _detection(measured: Measured, model: str) -> dict[str, Any]:
    """A model's detectors as the templates show them, a row per source and adversary."""
    names = detectors(measured.tables[model])
    rows: list[dict[str, Any]] = []
    for source in measured.sources:
        for adversary in (NONE, UNAWARE, WALK, "aware"):
            cells = []
            for name in names:
                key = AWARE + name if adversary == "aware" else adversary
                found = measured.detections.get((model, name, source, key))
                pairs = measured.matchings.get((model, source, key))
                share = None if pairs is None or adversary == NONE else pairs.matched
                cells.append(None if found is None else _cell(found, share))
            if any(cells):
                rows.append(
                    {
                        "source": source,
                        "adversary": adversary,
                        "mark": CLEAN_ONLY if adversary == NONE else "",
                        "first": not rows or rows[-1]["source"] != source,
                        "cells": cells,
                    }
                )
    return {"model": model, "loss": LOSSES.get(model, ""), "detectors": names, "rows": rows}


def _cell(found: Detection, matched: float | None) -> dict[str, str]:
    """One detector under one adversary as the templates show it."""
    text = "{:.2f}".format
    return {
        "auroc": text(found.auroc.mean),
        "interval": interval_text(text, found.auroc.low, found.auroc.high),
        "aupr": text(found.aupr.mean),
        "fpr95": text(found.fpr95.mean),
        "matched": "" if matched is None else f"{matched:.0%}",
    }


def _matching(measured: Measured, model: str) -> dict[str, Any]:
    """How nearly a model answered alike as the templates show it."""
    text = "{:.3f}".format
    rows: list[dict[str, Any]] = []
    for (name, source, adversary), one in measured.matchings.items():
        if name == model:
            rows.append(
                {
                    "source": source,
                    "adversary": adversary,
                    "first": not rows or rows[-1]["source"] != source,
                    "contour": text(one.contour.mean),
                    "contour_interval": interval_text(text, one.contour.low, one.contour.high),
                    "mask": text(one.mask.mean),
                    "mask_interval": interval_text(text, one.mask.low, one.mask.high),
                    "matched": f"{one.matched:.0%}",
                    "steps": "" if one.steps is None else f"{one.steps:.0f}",
                    "l2": "" if one.l2 is None else f"{one.l2:.1f}",
                }
            )
    return {"model": model, "loss": LOSSES.get(model, ""), "rows": rows}


def _detectors_csv(measured: Measured) -> str:
    """One row per model, detector, source and adversary, at full precision."""
    names = [f"{name}{end}" for name in Detection._fields for end in ("", "_low", "_high")]
    rows: list[list[object]] = [
        ["model", "detector", "source", "adversary", "mark", *names, "discs", "matched"]
    ]
    for (model, detector, source, adversary), found in measured.detections.items():
        pairs = measured.matchings.get((model, source, adversary))
        mark = CLEAN_ONLY if adversary == NONE else ""
        told = (None, None) if pairs is None else (pairs.discs, pairs.matched)
        rows.append([model, detector, source, adversary, mark, *_flat(found), *told])
    return csv_text(rows)


def _matching_csv(measured: Measured) -> str:
    """One row per model, source and adversary, at full precision."""
    dice = [f"{head}_dice_{name}" for head in ("contour", "mask") for name in ("mean", "low", "high")]
    last = ["contour_point_error", "matched", "steps", "l2"]
    rows: list[list[object]] = [["model", "source", "adversary", "discs", *dice, *last]]
    rows += [
        [
            *key,
            one.discs,
            *_flat([one.contour]),
            *_flat([one.mask]),
            one.point_error,
            one.matched,
            one.steps,
            one.l2,
        ]
        for key, one in measured.matchings.items()
    ]
    return csv_text(rows)


def _flat(intervals: Iterable[Interval]) -> list[float | None]:
    """The numbers of intervals one after another; what there is not, of one patient, is None."""
    return [None if math.isnan(number) else number for one in intervals for number in one]


def is_ood(folder: Path) -> bool:
    """Whether a results folder is the out-of-distribution study's."""
    path = folder / "study.json"
    return path.exists() and "ood" in read_json(path, remedy=RESTORE)
