"""Run ``lumbar-disk`` as ``python -m lumbar_disk``."""

from .cli import app

app(prog_name="lumbar-disk")
