"""Runs the Python code of README.md and docs/, page by page, in the order in which a reader meets it."""

import os

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

os.environ.setdefault("OMP_NUM_THREADS", "1")  # fastest for small networks; workers share cores

collect_ignore = ["docs/conf.py", "docs/_ext/rooms.py"]

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()
