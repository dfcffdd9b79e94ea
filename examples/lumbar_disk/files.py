"""Files: written whole or not at all, and told apart by their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


def write(path: Path, save: Callable[[Path], object]) -> Path:
    """Write a file whole or not at all: ``save`` writes a temporary one, which then takes its place."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
