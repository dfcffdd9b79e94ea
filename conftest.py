"""Runs the Python code of README.md and docs/, page by page, in the order in which a reader meets it."""

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

collect_ignore = ["docs/conf.py", "docs/_ext/rooms.py"]

pytest_collect_file = Sybil(parsers=[PythonCodeBlockParser()], patterns=["*.md"]).pytest()
