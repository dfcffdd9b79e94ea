"""Tables: chosen from, summarised, joined, written and read again."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advreg.evaluation import Row, Table, bootstrap

HEADER = '"index","group","radius","attack","head","metric","value","bound"'


TEXTS = st.text(max_size=5)


ROWS = st.builds(Row, st.integers(0, 2**40), TEXTS, st.floats(0), TEXTS, TEXTS, TEXTS, st.floats(width=64))


def example(groups=True):
    rng = np.random.default_rng(0)
    return Table(
        Row(i, f"patient {i // 3}" if groups else "", radius, attack, head, "dice", rng.random())
        for attack in ("contour", "mask")
        for radius in (0.0, 0.03)
        for i in range(12)
        for head in ("contour", "mask")
    )


def test_means_are_those_of_numpy():
    table = example()
    means = table.means()
    assert [mean[:4] for mean in means] == [
        (attack, head, "dice", radius)
        for attack in ("contour", "mask")
        for radius in (0.0, 0.03)
        for head in ("contour", "mask")
    ]
    for mean in means:
        rows = [row for row in table if (row.attack, row.head, row.metric, row.radius) == mean[:4]]
        assert mean.count == len(rows) == 12
        assert mean.mean == pytest.approx(np.mean([row.value for row in rows]), rel=1e-12)
        assert (mean.mean, mean.low, mean.high) == bootstrap(
            [row.value for row in rows], [row.group for row in rows]
        )


def test_rows_of_one_example_are_resampled_together():
    table = example(groups=False)
    (pooled,) = table.means(by=["metric"], resamples=500)
    assert (pooled.mean, pooled.low, pooled.high) == bootstrap(
        table.values(), [row.index for row in table], resamples=500
    )


def test_where_chooses_by_value_and_by_collection():
    table = example()
    assert [row.index for row in table.where(attack="mask", head="mask", radius=0.03)] == list(range(12))
    assert len(table.where(radius={0.03, 0.5}, index=torch.tensor([1, 2]))) == 2 * 2 * 2
    assert len(table.where(index=np.int64(4))) == len(table.where(index=(4,))) == 8
    assert len(table.where(head="nowhere")) == 0
    with pytest.raises(KeyError, match=r"expected columns out of index, group.*got 'metrics'"):
        table.where(metrics="dice")


def test_an_untold_radius_is_one_value():
    rows = [Row(i, "", float("nan"), "a", "", "dice", i / 4) for i in range(5)]
    table = Table(rows)
    assert table == Table([row._replace(radius=np.float64("nan")) for row in rows])
    (mean,) = table.means()
    assert mean.count == 5
    assert len(table.where(radius=float("nan"))) == 5


def test_means_errors_teach():
    table = Table([Row(7, "", 0.0, "clean", "mask", "distance", math.inf)])
    with pytest.raises(ValueError, match=r"1 is infinite, Row.index=7.*means.infinite="):
        table.means()
    for by in (["attack", "value"], "attack"):
        with pytest.raises(KeyError, match=r"expected columns out of index, .*metric, bound; got"):
            table.means(by)


def test_tables_join_and_tell_what_they_hold():
    table = example()
    both = table + Table([Row(0, "", 0.1, "mask", "", "error", 3.0)])
    assert len(both) == len(table) + 1
    assert repr(both) == (
        "Table(97 rows; attack: contour, mask; head: contour, mask, ''; metric: dice, error; "
        "radius: 0.0, 0.03, 0.1)"
    )
    assert repr(Table()) == "Table(0 rows; attack: ; head: ; metric: ; radius: )"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@given(rows=st.lists(ROWS, max_size=6))
def test_files_give_back_the_same_table(rows, suffix, tmp_path_factory):
    table = Table(rows)
    path = table.save(tmp_path_factory.mktemp("t") / "folder" / f"table{suffix}")
    assert Table.load(path) == table
    assert [str(row.value) for row in Table.load(path)] == [str(row.value) for row in table]  # -0.0 too
    assert list(path.parent.iterdir()) == [path]


def test_jsonl_is_strict_json_and_csv_has_a_header(tmp_path):
    table = Table([Row(0, "Ada", math.nan, "a", "mask", "distance", -math.inf)])
    line = table.save(tmp_path / "t.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail)["value"] == "-inf"
    lines = table.save(tmp_path / "t.csv").read_text().splitlines()
    assert lines == [HEADER, '0,"Ada",nan,"a","mask","distance",-inf,"found"']


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", r"got the columns \[\]"),
        ("t.csv", "index,value\n1,2\n", "expected index, group, .*'value'"),
        (
            "t.csv",
            HEADER + "\n1,,0.0,a,b,c,0.5\n2,,0.0,a\n",
            "after line 2.*4 cells",
        ),
        ("t.csv", HEADER + "\n1,,0.0,a,b,c,good\n", "after line 0.*'good'"),
        ("t.csv", HEADER + '\n1,"', "unexpected end of data"),
        ("t.jsonl", '{"index": 1, "value": 2}\n', 'after line 0.*got \'{"index": 1'),
        ("t.jsonl", '{"index": 1, "va', "after line 0.*restore the file"),
        ("t.jsonl", "[1, 2]\n", "got '\\[1, 2\\]'"),
    ],
)
def test_malformed_files_are_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Table.load(path)
    assert str(path) in str(caught.value)


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .csv or .jsonl; got 't.xlsx'"):
        Table().save(tmp_path / "t.xlsx")
    with pytest.raises(ValueError, match=r"got 't'"):
        Table.load(tmp_path / "t")


def test_pandas_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        example().to_pandas()


def test_to_pandas():
    pd = pytest.importorskip("pandas", reason="pandas is optional")
    frame = example().to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(Row._fields)
    assert len(frame) == len(example())
