"""Files: written whole or not at all, told apart by their content; tables as people save them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from advreg.evaluation import written_whole


def write(path: Path, content: str | Callable[[IO[bytes]], object]) -> Path:
    """Write a file whole or not at all, as `advreg.evaluation.written_whole` does, and return its path.

    Args:
        path: The file.
        content: The text, or what writes the bytes into an open file: `figure.savefig`.
    """
    if isinstance(content, str):
        with written_whole(path) as file:
            file.write(content)
    else:
        with written_whole(path, "wb") as file:
            content(file)
    return path


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV; what is not there is empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs between two records of the same thing, entry by entry, in JSON's terms.

    Example:
        >>> differences({"width": 8, "radii": (0.0, 0.1)}, {"width": 16, "radii": [0.0, 0.1]})
        ['width: then 8, now 16']
    """
    old, new = json.loads(json.dumps(then)), json.loads(json.dumps(now))
    return [
        f"{name}: then {old.get(name)!r}, now {new.get(name)!r}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_table(path: Path, *needed: str) -> list[dict[str, str]]:
    """Read a CSV file with a heading, separated by commas, semicolons or tabs; more columns do not matter.

    Args:
        path: The file, UTF-8 with or without a byte-order mark.
        needed: The columns that it must have, in lower case.

    Returns:
        The rows: text without blanks around it, by heading in lower case. Empty rows are left out.

    Raises:
        ValueError: If the file is no text, a needed column is missing, or a row is shorter than those.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 ({error}). Save it as CSV in UTF-8.") from error
    heading = lines[0] if lines else ""
    table = csv.reader(lines, delimiter=max(",;\t", key=heading.count))
    names = [name.strip().lower() for name in next(table, [])]
    missing = [name for name in needed if name not in names]
    if missing:
        raise ValueError(
            f"{path}: expected columns {', '.join(needed)} in its first line; got {heading!r}, without "
            f"{', '.join(missing)}. Add a heading."
        )
    rows = []
    for cells in table:
        if not "".join(cells).strip():
            continue
        row = {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
        if any(name not in row for name in needed):
            raise ValueError(
                f"{path}, line {table.line_num}: expected {len(names)} columns ({', '.join(names)}); got "
                f"{len(cells)}. Complete or remove the line."
            )
        rows.append(row)
    return rows
