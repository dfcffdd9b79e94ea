"""Report of the study: what the paper published, results read, claims judged, pages and figures written."""

from lumbar_disk.report._claims import Claim, Part, Question, Verdict, claims_csv, claims_json, judge
from lumbar_disk.report._figures import curve_figure, output_figure
from lumbar_disk.report._pages import (
    Picture,
    interval_text,
    page_content,
    rendered,
    write_drawing,
    write_pages,
    write_photograph,
)
from lumbar_disk.report._paper import (
    PAPER_MODELS,
    PAPER_PATIENTS,
    PAPER_RADII,
    PAPER_SETTINGS,
    PAPER_SIZE,
    published,
)
from lumbar_disk.report._report import write_report
from lumbar_disk.report._results import RESTORE, Cells, Results, cells, read_results

__all__ = [
    "PAPER_MODELS",
    "PAPER_PATIENTS",
    "PAPER_RADII",
    "PAPER_SETTINGS",
    "PAPER_SIZE",
    "RESTORE",
    "Cells",
    "Claim",
    "Part",
    "Picture",
    "Question",
    "Results",
    "Verdict",
    "cells",
    "claims_csv",
    "claims_json",
    "curve_figure",
    "interval_text",
    "judge",
    "output_figure",
    "page_content",
    "published",
    "read_results",
    "rendered",
    "write_drawing",
    "write_pages",
    "write_photograph",
    "write_report",
]
