"""Runs the Python code of README.md and docs/, page by page, in the order in which a reader meets it."""

import os

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

os.environ.setdefault("OMP_NUM_THREADS", "1")  # fastest for small networks; workers share cores

collect_ignore = ["docs/conf.py", "docs/_ext/rooms.py", "docs/pictures"]

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no process waits for another in the end: pages, and the study."""
    items.sort(key=lambda item: item.path.suffix != ".md" and "lumbar_disk" not in item.path.parts)
