"""Runs `lumbar-disk` with WORDS, with more ENVIRONMENT, its output in the files OUT and ERR.

A process that was forked from one which has imported everything runs this, see `conftest.py`.
"""

import os

for number, path in ((1, OUT), (2, ERR)):  # noqa: F821 - given by whoever runs this
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
os.environ.update(ENVIRONMENT)  # noqa: F821 - given by the process that runs this file

from lumbar_disk.cli import app  # noqa: E402 - imported with the environment in place

app(WORDS)  # noqa: F821 - given by the process that runs this file
