"""Journal of a long evaluation: finished pieces on disk, so that an interruption loses one batch."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from advreg.evaluation._identity import Identity

fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None

Shard: TypeAlias = tuple[int, int]
"""Number k and count n of a shard: the batches with `number % n == k`."""

FORMAT = 2
"""Number of the way journals are written."""


_HEADER = "advreg journal"


class Entry(NamedTuple):
    """The values of one job on one batch.

    Attributes:
        batch: The number of the batch.
        job: The number of the job.
        check: The digest of the batch.
        index: Each example's place in the data set, `(B,)`.
        values: One list `(B,)` for each metric.
    """

    batch: int
    job: int
    check: str
    index: list[int]  # type: ignore[assignment]  # a field's name here, rather than tuple's method
    values: list[list[float]]


def read_journals(folder: Path, here: Identity) -> dict[tuple[int, int], Entry]:
    """The finished pieces of one evaluation, by batch and job, from the journals of all its processes.

    A last line without its end, which a killed process leaves, does not count; nor does an empty file.

    Raises:
        ValueError: A journal of another evaluation; the message names what differs. A file that is no
            journal, or of a newer format. A damaged line.
        OSError: A file that cannot be read; a file in place of the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"the journal {folder} must be a folder, and a file is there: give the name of a new folder"
        )
    found: dict[tuple[int, int], Entry] = {}
    for path in sorted(folder.glob("journal-*.jsonl")):
        lines = _whole_lines(path)
        for number, line in enumerate(lines, 1):
            if number == 1:
                _check_header(path, line, here)
            else:
                entry = _entry(path, number, line)
                found.setdefault((entry.batch, entry.job), entry)
    return found


def file_name(process: int, size: int, shard: Shard | None) -> str:
    """The name of the journal of one process: no two that run at once write the same file."""
    if shard is None:
        return f"journal-{process}.jsonl"
    of_team = f"-process-{process}" if size > 1 else ""
    return f"journal-shard-{shard[0]}-of-{shard[1]}{of_team}.jsonl"


def shard_counts(folder: Path) -> list[int]:
    """Into how many shards an evaluation was cut whose journals lie in a folder; several where it changed."""
    names = (
        re.match(r"journal-shard-\d+-of-(\d+)", path.name) for path in folder.glob("journal-shard-*.jsonl")
    )
    return sorted({int(name[1]) for name in names if name})


@contextmanager
def journalling(folder: Path, name: str, here: Identity) -> Iterator[Callable[[Entry], None]]:
    """A function that adds an entry to the journal of this name, and returns when the disk has it.

    Raises:
        OSError: The folder or the file cannot be written; the message says what is kept and what to do.
        RuntimeError: Another process writes this journal now.
    """
    path = folder / name
    with _on_disk(path):
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _whole_lines(path)  # a file that is no journal is not touched
        file = path.open("ab", buffering=0)  # a full disk is met at once, not when the file is closed
    with file:
        _lock(path, file)
        with _on_disk(path):
            lines = _whole_lines(path)
            file.truncate(sum(map(len, lines)))

        def write(fields: Mapping[str, Any]) -> None:
            left = json.dumps(fields).encode() + b"\n"
            with _on_disk(path):
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())

        if not lines:
            write({_HEADER: FORMAT, **here._asdict()})
        yield lambda entry: write(entry._asdict())


def _lock(path: Path, file: FileIO) -> None:
    """Insist on being the only one that writes a journal, where the system can tell.

    Raises:
        RuntimeError: Another process writes it, or another thread.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RuntimeError(
            f"the journal {path} is being written by another process: give each job its own shard=(k, n), k "
            "from 0 to n - 1, or wait for the other one; it is free as soon as that has ended"
        ) from error
    except OSError:  # a file system without locks
        return


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        told = (
            f"the journal {path} cannot be read or written: {error.strerror}. All batches that were finished "
            "are kept: make room or give leave, or copy the folder to another place and give that as journal="
        )
        raise type(error)(error.errno, told) from error


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a journal that have their end.

    Raises:
        ValueError: The beginning is that of no journal: such a file is not touched.
        OSError: It cannot be read.
    """
    with _on_disk(path):
        data = path.read_bytes()
    begin = json.dumps({_HEADER: FORMAT})[:-2].encode()  # up to the number
    if data[: len(begin)] != begin[: len(data)]:
        raise ValueError(
            f"{path} is no journal: it begins with {data[:60]!r} instead of its header, {begin.decode()}...: "
            "move it away, or choose another folder as journal="
        )
    return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def _check_header(path: Path, line: bytes, here: Identity) -> None:
    try:
        header = json.loads(line)
        written = header.pop(_HEADER)
        there = Identity(dict(header["told"]), list(header["outputs"])) if written == FORMAT else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}, line 1: the header is damaged; got {line[:80]!r}: restore the file, or choose another "
            "folder as journal="
        ) from error
    if there is None:
        which = "a newer" if isinstance(written, int) and written > FORMAT else "another"
        raise ValueError(
            f"the journal {path} was written by {which} version of advreg, format {written!r}, and this one "
            f"reads format {FORMAT}: use that version, or choose another folder as journal="
        )
    if names := here.differences(there):
        raise ValueError(
            f"the journal {path} is of another evaluation; it differs in: {'; '.join(names)}. Remove the "
            f"folder {path.parent}, or choose another one for this evaluation"
        )


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        entry = Entry(**json.loads(line))
        whole = _is_whole(entry)
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path}, line {number}: expected an entry of a journal; got {line[:80]!r}: remove that "
            "line and those after it, and their work is done again"
        )
    return entry


def _is_whole(entry: Entry) -> bool:
    """Whether an entry that was read has the types and lengths of one that was written."""
    numbers = [value for column in entry.values for value in column]
    return (
        all(isinstance(place, int) for place in (entry.batch, entry.job, *entry.index))
        and all(isinstance(number, float) for number in numbers)
        and all(len(column) == len(entry.index) for column in entry.values)
    )
