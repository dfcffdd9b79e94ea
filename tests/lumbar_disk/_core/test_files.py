import pytest

from lumbar_disk._core.files import csv_text, differences, read_table, sha256, write


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
