"""Journal of a long evaluation: finished pieces on disk, so that an interruption loses one batch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


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


def read_journals(folder: Path, fingerprint: Mapping[str, str]) -> dict[tuple[int, int], Entry]:
    """The finished pieces of one evaluation, by batch and job, from the journals of all its processes.

    A last line without its end, which a killed process leaves, does not count.

    Raises:
        ValueError: A journal of another evaluation; the message names what differs. A damaged line.
    """
    found: dict[tuple[int, int], Entry] = {}
    for path in sorted(folder.glob("journal-*.jsonl")):
        for number, line in enumerate(_whole_lines(path), 1):
            try:
                fields = json.loads(line)
                entry = None if number == 1 else Entry(**fields)
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: expected an entry of a journal; got {line[:80]!r}: remove that "
                    "line and those after it, and their work is done again"
                ) from error
            if entry is None:
                _check_fingerprint(path, fields, fingerprint)
            else:
                found.setdefault((entry.batch, entry.job), entry)
    return found


@contextmanager
def journalling(
    folder: Path, process: int, fingerprint: Mapping[str, str]
) -> Iterator[Callable[[Entry], None]]:
    """A function that adds an entry to the journal of this process, and returns when the disk has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"journal-{process}.jsonl"
    whole = b"".join(_whole_lines(path)) if path.exists() else b""
    with path.open("ab") as file:
        file.truncate(len(whole))

        def write(fields: Mapping[str, Any]) -> None:
            file.write(json.dumps(fields).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

        if not whole:
            write(fingerprint)
        yield lambda entry: write(entry._asdict())


def _whole_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _check_fingerprint(path: Path, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if names:
        shown = (f"{name} ({_brief(there.get(name))} there, {_brief(here.get(name))} here)" for name in names)
        raise ValueError(
            f"the journal {path} is of another evaluation; it differs in: {'; '.join(shown)}. Remove the "
            f"folder {path.parent}, or choose another one for this evaluation"
        )


def _brief(text: str | None) -> str:
    return "none" if text is None else text if len(text) <= 100 else f"{text[:60]} ... {text[-30:]}"
