"""Files of a journal that are none, or cannot be read or written: an error that teaches, nothing lost."""

import errno
import json
import pathlib
import resource
import shutil
import signal

import pytest
from networks.measured import curve

from advreg.evaluation._journal import FORMAT


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished journal, and the table of its evaluation."""
    folder = tmp_path_factory.mktemp("finished") / "journal"
    return folder, curve(journal=folder)


@pytest.fixture
def whole(finished, tmp_path):
    """A finished journal's file, and the table of its evaluation."""
    folder, table = finished
    return shutil.copytree(folder, tmp_path / "journal") / "journal-0.jsonl", table


def other_header(line, **changes):
    return json.dumps({**json.loads(line), **changes}).encode() + b"\n"


SPOILT = {
    "without a header": (
        lambda lines: lines[1:],
        r"is no journal: it begins with b'{\"batch\".*move it away",
    ),
    "binary garbage": (lambda lines: [b"\x00\xff\x80garbage"], r"is no journal: .*move it away, or choose"),
    "garbage of several lines": (lambda lines: [b"\x00\xff\n", b"\x01\n"], "is no journal"),
    "a text": (lambda lines: [b"my notes"], "is no journal"),
    "a header cut in the middle, and entries": (
        lambda lines: [lines[0][:40] + b"\n", *lines[1:]],
        "line 1: the header is damaged.*restore the file, or choose another folder",
    ),
    "a header of other things": (
        lambda lines: [b'{"advreg journal": 2, "told": 3, "outputs": []}\n', *lines[1:]],
        "line 1: the header is damaged",
    ),
    "a newer format": (
        lambda lines: [other_header(lines[0], **{"advreg journal": FORMAT + 1}), *lines[1:]],
        rf"a newer version of advreg, format {FORMAT + 1}, and this one reads format {FORMAT}: use that",
    ),
    "an older format": (
        lambda lines: [other_header(lines[0], **{"advreg journal": 1}), *lines[1:]],
        "another version of advreg, format 1",
    ),
    "rubbish in a line": (lambda lines: [*lines[:4], b"rubbish\n", *lines[5:]], "line 5: expected an entry"),
    "bytes in a line": (lambda lines: [*lines[:4], b"\xff\xfe\n", *lines[5:]], "line 5: expected an entry"),
    "a line without an end in the middle": (
        lambda lines: [*lines[:4], lines[4][:30], *lines[5:]],
        "line 5: expected an entry.*remove that line and those after it",
    ),
    "too few values": (
        lambda lines: [
            *lines[:4],
            json.dumps({**json.loads(lines[4]), "values": [[1.0], [1.0]]}).encode() + b"\n",
        ],
        "line 5: expected an entry",
    ),
    "texts for values": (
        lambda lines: [
            *lines[:4],
            json.dumps({**json.loads(lines[4]), "batch": "0"}).encode() + b"\n",
        ],
        "line 5: expected an entry",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(whole, how):
    path, _ = whole
    spoil, message = SPOILT[how]
    path.write_bytes(b"".join(spoil(lines_of(path))))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        curve(journal=path.parent)
    assert str(path) in str(caught.value)
    assert "JSON" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [0, 1, 12, 300], ids=["empty", "a byte", "half a word", "half a header"])
def test_a_file_that_ends_before_its_header_does_is_begun_anew(whole, left):
    path, table = whole
    complete = path.read_bytes()
    assert left < len(lines_of(path)[0])
    path.write_bytes(complete[:left])
    assert curve(journal=path.parent) == table
    assert path.read_bytes() == complete


def test_a_directory_in_place_of_the_file(tmp_path):
    (tmp_path / "journal-0.jsonl").mkdir()
    with pytest.raises(
        IsADirectoryError, match=r"journal-0.jsonl cannot be read or written: .*copy the folder"
    ):
        curve(journal=tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(
        NotADirectoryError, match=r"notes.txt must be a folder, and a file is there: give the"
    ):
        curve(journal=path)
    assert path.read_text() == "mine"
    with pytest.raises(NotADirectoryError, match=r"notes\.txt"):
        curve(journal=path / "below")


def test_a_folder_that_may_only_be_read(whole, monkeypatch):
    path, table = whole
    opened, made = pathlib.Path.open, pathlib.Path.mkdir

    def denied(self, mode="r", *arguments, **options):
        if self.is_relative_to(path.parent) and mode != "rb":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, mode, *arguments, **options)

    def not_made(self, *arguments, **options):
        if self != path.parent and self.is_relative_to(path.parent):
            raise PermissionError(errno.EACCES, "Permission denied")
        return made(self, *arguments, **options)

    monkeypatch.setattr("pathlib.Path.open", denied)
    monkeypatch.setattr("pathlib.Path.mkdir", not_made)
    assert curve(journal=path.parent) == table  # what is finished is read without leave to write
    new = path.parent / "new"
    with pytest.raises(PermissionError) as told:
        curve(journal=new)
    assert f"the journal {new / 'journal-0.jsonl'} cannot be read or written: Permission" in str(told.value)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", opened)
        path.write_bytes(b"".join(lines_of(path)[:-1]))
    with pytest.raises(
        PermissionError, match=r"denied. All batches that were finished are kept: make room or"
    ):
        curve(journal=path.parent)
    monkeypatch.undo()
    assert curve(journal=path.parent) == table


@pytest.mark.parametrize("room", [20, 0.8, 0.99], ids=["in the header", "in the middle", "near the end"])
def test_a_full_disk_keeps_what_was_finished(whole, tmp_path, room):
    path, table = whole
    size = int(path.stat().st_size * room) if room < 1 else room
    folder = tmp_path / "small"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"journal-0.jsonl cannot be read or written: File too large.*make room"
        ):
            curve(journal=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = [line for line in lines_of(folder / "journal-0.jsonl") if line.endswith(b"\n")]
    assert kept == lines_of(path)[: len(kept)]
    assert len(kept) == 0 if room == 20 else 5 < len(kept) < 21
    assert curve(journal=folder) == table
    assert (folder / "journal-0.jsonl").read_bytes() == path.read_bytes()


def test_a_disk_that_reports_late_that_it_is_full(whole, tmp_path, monkeypatch):
    _, table = whole
    calls = []

    def full(_):
        calls.append(1)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("advreg.evaluation._journal.os.fsync", full)
        with pytest.raises(
            OSError, match=r"cannot be read or written: No space left on device.*are kept"
        ) as told:
            curve(journal=tmp_path / "full")
    assert told.value.errno == errno.ENOSPC
    assert curve(journal=tmp_path / "full") == table


def test_the_journal_of_one_of_several_processes_may_be_spoilt(whole):
    path, _ = whole
    (path.parent / "journal-3.jsonl").write_bytes(b"rubbish\n")
    with pytest.raises(ValueError, match=r"journal-3.jsonl is no journal"):
        curve(journal=path.parent)
