"""Command line as a module: `python -m lumbar_disk`."""

from lumbar_disk.cli import app

app(prog_name="lumbar-disk")
