"""Certificates of the study: each network under noise certified from below, and attacked from above."""

from lumbar_disk.certified._recipe import CertifiedRecipe, certified_recipes
from lumbar_disk.certified._report import is_certified, write_report
from lumbar_disk.certified._run import Expectation, Trial, certified_work, spread

__all__ = [
    "CertifiedRecipe",
    "Expectation",
    "Trial",
    "certified_recipes",
    "certified_work",
    "is_certified",
    "spread",
    "write_report",
]
