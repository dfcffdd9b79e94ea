"""Rows, means and files of results; the bootstrap against another implementation and against simulation."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from advreg.evaluation import Row, Table, bootstrap

HEADER = '"index","group","radius","attack","head","metric","value"'
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


def percentile_bootstrap(values, groups, resamples, seed):
    """Another way to the same: draw names of groups, pool their members, take the mean."""
    members = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    names, rng = list(members), np.random.default_rng(seed)
    means = [
        np.mean(np.concatenate([members[names[i]] for i in rng.integers(len(names), size=len(names))]))
        for _ in range(resamples)
    ]
    return np.percentile(means, [2.5, 97.5])


def test_bootstrap_agrees_with_another_implementation():
    rng = np.random.default_rng(3)
    groups = [f"p{i}" for i, size in enumerate(rng.integers(1, 9, size=25)) for _ in range(size)]
    shift = {group: rng.normal() for group in groups}
    values = np.array([shift[group] + 0.1 * rng.normal() for group in groups])
    mean, low, high = bootstrap(values, groups)
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    # Both are random: 4000 resamples know a percentile to about 2 % of the interval's length.
    assert (low, high) == pytest.approx(
        tuple(percentile_bootstrap(values, groups, 4000, 5)), abs=0.05 * (high - low)
    )


def test_groups_are_resampled_whole():
    # Twenty copies of five patients are five values, not a hundred.
    five = [0.1, 0.4, 0.5, 0.7, 0.9]
    alone = bootstrap(five)
    together = bootstrap(np.repeat(five, 20), np.repeat(np.arange(5), 20))
    assert together == pytest.approx(alone, rel=1e-12)
    blind = bootstrap(np.repeat(five, 20))
    assert blind.high - blind.low < 0.4 * (alone.high - alone.low)


@pytest.mark.parametrize("grouped", [False, True])
def test_nine_intervals_in_ten_hold_the_true_mean(grouped):
    rng = np.random.default_rng(0)
    repeats, patients, discs = 300, 40, 4
    hits = 0
    for _ in range(repeats):
        values = (rng.normal(size=(patients, 1)) + 0.3 * rng.normal(size=(patients, discs))).ravel()
        groups = np.repeat(np.arange(patients), discs)
        _, low, high = bootstrap(values, groups if grouped else None, confidence=0.9, resamples=400)
        hits += low <= 0 <= high
    # 0.9 nominal with a standard error of 0.017; blind to the patients, intervals are half as long as needed.
    assert hits / repeats > 0.84 if grouped else hits / repeats < 0.7


def test_the_bootstrap_is_decided_by_its_seed():
    values = np.random.default_rng(1).random(30)
    assert bootstrap(values, seed=4) == bootstrap(torch.from_numpy(values), seed=4)
    assert bootstrap(values, seed=4) != bootstrap(values, seed=5)
    assert bootstrap(values, torch.arange(30)) == bootstrap(values)
    wide, narrow = bootstrap(values, confidence=0.99), bootstrap(values, confidence=0.5)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_the_bootstrap_of_scipy_before_1_15(monkeypatch):
    values, now = [0.1, 0.4, 0.5], stats.bootstrap
    expected = bootstrap(values)

    def before(data, statistic, *, random_state=None, **options):
        assert random_state is not None
        return now(data, statistic, rng=random_state, **options)

    monkeypatch.setattr(stats, "bootstrap", before)
    assert bootstrap(values) == expected


@pytest.mark.parametrize(("values", "groups"), [([0.5], None), ([0.25, 0.75], ["Ada", "Ada"])])
def test_one_group_has_a_mean_without_an_interval(values, groups):
    mean, low, high = bootstrap(values, groups)
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "that no row matches"),
        (([[1.0, 2.0]],), {}, r"got shape \(1, 2\)"),
        (([1.0, math.nan, math.inf],), {}, "got nan at 1, 2 in all"),
        (([1.0, 2.0], ["a"]), {}, "got 1 for 2 values"),
        (([1.0, 2.0],), {"confidence": 95}, "between 0 and 1"),
        (([1.0, 2.0],), {"resamples": 0}, "1 or more"),
    ],
)
def test_bootstrap_errors_teach(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(*arguments, **options)


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
    with pytest.raises(ValueError, match=r"got Row.index=7.*leave it out, and report it"):
        table.means()
    for by in (["attack", "value"], "attack"):
        with pytest.raises(KeyError, match=r"expected columns out of index, .*metric; got"):
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
    assert lines == [HEADER, '0,"Ada",nan,"a","mask","distance",-inf']


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = example().save(tmp_path / "t.csv")
    before = path.read_bytes()

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr("advreg._core.files.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        Table().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


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
    pd = pytest.importorskip("pandas")
    frame = example().to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(Row._fields)
    assert len(frame) == len(example())
