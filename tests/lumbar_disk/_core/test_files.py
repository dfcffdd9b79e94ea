import errno
import os

import numpy as np
import pytest
import torch

from lumbar_disk._core.files import (
    csv_text,
    differences,
    read_arrays,
    read_json,
    read_table,
    read_tensors,
    sha256,
    visible,
    write,
    write_tensors,
)


def test_text_and_bytes_are_written_whole(tmp_path):
    path = tmp_path / "table.csv"
    for content in ("new", lambda file: file.write(b"new")):
        path.write_text("old")
        assert write(path, content) == path
        assert path.read_bytes() == b"new"
        assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_records_differ_by_what_json_tells_apart():
    then, now = {"radii": (0.0, 0.1), "width": 8, "gone": 1}, {"radii": [0.0, 0.1], "width": 16, "new": "a"}
    assert differences(then, now) == [
        "width: then 8, now 16",
        "gone: then 1, now None",
        "new: then None, now 'a'",
    ]
    assert not differences(then, then)


def test_rows_become_csv_at_full_precision():
    assert csv_text([["a", "b"], [0.1, None], ["x,y", 1 / 3]]) == f'a,b\n0.1,\n"x,y",{1 / 3!r}\n'


def test_sha256_is_the_standards(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_as_people_save_it(tmp_path, separator):
    path = tmp_path / "t.csv"
    lines = [["Name", " Pixel_MM", "more"], ["a ", "0.5", "x"], [], ["b", "1"]]
    path.write_text("\ufeff" + "\r\n".join(separator.join(line) for line in lines), encoding="utf-8")
    assert read_table(path, "name", "pixel_mm") == [
        {"name": "a", "pixel_mm": "0.5", "more": "x"},
        {"name": "b", "pixel_mm": "1"},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected columns x, y in its first line; got '', without x, y"),
        (b"x,z\n1,2\n", "expected columns x, y in its first line; got 'x,z', without y"),
        (b"x,y\n1,2\n3\n", "line 3: expected 2 columns .x, y.; got 1"),
        (b"x,y\n\xff\xfe,1\n", "not a text file in UTF-8"),
    ],
)
def test_a_table_that_is_none_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "points.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"points.csv.*{message}"):
        read_table(path, "x", "y")


def test_a_long_cell_is_refused_by_name(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(f"x,y\n1,{'2' * 200_000}\n")
    with pytest.raises(
        ValueError, match=r"points.csv, line 2: cannot be read as CSV \(.*Save it as CSV again"
    ):
        read_table(path, "x", "y")


def test_a_full_disk_is_an_error_that_names_the_file_and_the_remedy(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "weights.pt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"weights.pt cannot be written: No space left.*make room"):
        write_tensors(path, {"net": torch.zeros(3)})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_come_back(tmp_path):
    state = {"net": {"weight": torch.rand(4)}, "seconds": 1.5}
    found = read_tensors(write_tensors(tmp_path / "w.pt", state), "cpu", "net", "seconds")
    assert torch.equal(found["net"]["weight"], state["net"]["weight"])
    assert found["seconds"] == 1.5


def flipped(data):
    place = data.index(torch.arange(1000.0).numpy().tobytes()[400:440])
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:-50], lambda data: data[:100], lambda data: b"text", flipped],
    ids=["empty", "end", "beginning", "text", "bit"],
)
def test_damaged_tensors_are_an_error_that_names_the_file_and_the_remedy(tmp_path, damage):
    path = write_tensors(tmp_path / "weights.pt", {"net": torch.arange(1000.0)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"weights.pt is damaged, or is not.*: .+\. Delete it, and run the same"
    ):
        read_tensors(path, "cpu", "net")


def test_what_a_file_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"a.pt is damaged.*it has no seconds"):
        read_tensors(write_tensors(tmp_path / "a.pt", {"net": 1}), "cpu", "net", "seconds")
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match=r"a.npz is damaged.*it has no y"):
        read_arrays(tmp_path / "a.npz", "x", "y")
    (tmp_path / "a.json").write_text('{"x": 1}')
    with pytest.raises(ValueError, match=r"a.json is damaged.*it has no y. Restore it."):
        read_json(tmp_path / "a.json", "y", remedy="Restore it.")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_json_that_is_none_is_refused_by_name(tmp_path, content):
    path = tmp_path / "study.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"study.json is damaged, or is not what it should be: .+Delete it"):
        read_json(path)


def test_hidden_files_and_folders_are_not_listed(tmp_path):
    for name in ("b.mha", "a.mha", "._a.mha", ".c.mha", "deep/d.mha", ".trash/e.mha", "deep/.f/g.mha"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.mha").mkdir()
    (tmp_path / "gone.mha").symlink_to(tmp_path / "nowhere")  # for whoever reads it to name
    assert [path.name for path in visible(tmp_path, "*.mha")] == ["a.mha", "b.mha", "gone.mha"]
    assert [path.name for path in visible(tmp_path, "**/*.mha")] == ["a.mha", "b.mha", "d.mha", "gone.mha"]
    assert visible(tmp_path / "nowhere", "*") == []
