"""Files: written whole or not at all, told apart by their content; tables as people save them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from advreg.evaluation import written_whole

AGAIN = "Delete it, and run the same command again."


def write(path: Path, content: str | Callable[[IO[bytes]], object]) -> Path:
    """Write a file whole or not at all, as `advreg.evaluation.written_whole` does, and return its path.

    Args:
        path: The file.
        content: The text, or what writes the bytes into an open file: `figure.savefig`.

    Raises:
        OSError: If it cannot be written; the message names the file and says what to do.
    """
    try:
        if isinstance(content, str):
            with written_whole(path) as file:
                file.write(content)
        else:
            with written_whole(path, "wb") as file:
                content(file)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise OSError(
            f"{path} cannot be written: {error.strerror or error}{place}. What was finished is kept: make "
            "room, give leave or choose another place, and run the command again."
        ) from error
    return path


def write_tensors(path: Path, state: Mapping[str, Any]) -> Path:
    """Write tensors as `torch.save` does, whole or not at all; errors as for `write`."""
    buffer = io.BytesIO()  # torch's own writer tells of a full disk in its own words, without the file
    torch.save(dict(state), buffer)
    return write(path, lambda file: file.write(buffer.getbuffer()))


def read_tensors(path: Path, device: torch.device | str, *needed: str) -> dict[str, Any]:
    """Read what `write_tensors` wrote, each part checked against its checksum.

    Args:
        path: The file.
        device: Where the tensors go.
        needed: Entries that it must have.

    Raises:
        ValueError: If the file is damaged, or lacks an entry.
    """
    with reading(path):
        with zipfile.ZipFile(path) as file:  # torch itself reads changed bytes without a word
            if (part := file.testzip()) is not None:
                raise ValueError(f"its part {part} does not match its checksum")
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        _insist(state, needed)
    return state


def read_arrays(path: Path, *needed: str, remedy: str = AGAIN) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz; those needed must be there.

    Raises:
        ValueError: If the file is damaged, or lacks an array; the message ends with the remedy.
    """
    with reading(path, remedy):
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = dict(file)
        _insist(arrays, needed)
    return arrays


def read_json(path: Path, *needed: str, remedy: str = AGAIN) -> dict[str, Any]:
    """Read a JSON file that holds an object; the names needed must be in it.

    Raises:
        ValueError: If it is no such file; the message ends with the remedy.
    """
    with reading(path, remedy):
        known = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(known, dict):
            raise TypeError(f"expected an object of JSON; got {type(known).__name__}")
        _insist(known, needed)
    return known


@contextmanager
def reading(path: Path, remedy: str = AGAIN) -> Iterator[None]:
    """A stretch in which whatever a damaged file makes its reader raise becomes one error.

    Args:
        path: The file.
        remedy: The sentence that says what to do.

    Raises:
        ValueError: In place of any other error; the message names the file, the reason and the remedy.
    """
    try:
        yield
    except Exception as error:  # zipfile, numpy, torch and Pillow raise a dozen kinds for damaged files
        raise ValueError(
            f"{path} is damaged, or is not what it should be: {reason(error)}. {remedy}"
        ) from error


def reason(error: BaseException) -> str:
    """An error in a few words: the last line of its message; its kind where that alone says little.

    Example:
        >>> reason(ValueError("expected one")), reason(EOFError()), reason(KeyError("net"))
        ('expected one', 'EOFError', "KeyError: 'net'")
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and isinstance(error, (OSError, ValueError, TypeError, zipfile.BadZipFile)):
        return lines[-1].rstrip(".")
    return ": ".join([type(error).__name__, *lines[-1:]]).rstrip(".")


def _insist(found: Mapping[str, Any], needed: Iterable[str]) -> None:
    """Raise unless names are there."""
    if absent := [name for name in needed if name not in found]:
        raise ValueError(f"it has no {', '.join(absent)}")


def visible(folder: Path, pattern: str) -> list[Path]:
    """The files that a pattern finds under a folder, sorted, without hidden ones.

    Hidden is what begins with a dot, or lies in such a folder: `._1_t2.mha`, which macOS lays beside each
    file on a foreign disk, has the ending of an image and is none.
    """
    return sorted(
        path
        for path in folder.glob(pattern)
        if not path.is_dir() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def checksum(array: NDArray[Any]) -> str:
    """The SHA-256 of an array's bytes, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


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
        ValueError: If the file is no table, a needed column is missing, or a row is shorter than those.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 ({error}). Save it as CSV in UTF-8.") from error
    heading = lines[0] if lines else ""
    table = csv.reader(lines, delimiter=max(",;\t", key=heading.count))
    try:
        listed = [(table.line_num, cells) for cells in table]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {table.line_num}: cannot be read as CSV ({error}). Save it as CSV again."
        ) from error
    names = [name.strip().lower() for name in (listed[0][1] if listed else [])]
    missing = [name for name in needed if name not in names]
    if missing:
        raise ValueError(
            f"{path}: expected columns {', '.join(needed)} in its first line; got {heading!r}, without "
            f"{', '.join(missing)}. Add a heading."
        )
    rows = []
    for number, cells in listed[1:]:
        if not "".join(cells).strip():
            continue
        row = {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
        if any(name not in row for name in needed):
            raise ValueError(
                f"{path}, line {number}: expected {len(names)} columns ({', '.join(names)}); got "
                f"{len(cells)}. Complete or remove the line."
            )
        rows.append(row)
    return rows
