"""Several processes share the work, return the same table, and stop together."""

import json
import os
import pathlib

import pytest
import torch
from networks.measured import batches, curve, other_weights

from advreg import dice, evaluate
from advreg.evaluation import Table


def shared(process, count, store, folder, out):
    """One of several processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=process, world_size=count)
    try:
        curve(journal=folder or None).save(f"{out}-{process}.jsonl")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def test_processes_share_the_work_and_return_the_same_table(tmp_path, processes):
    whole = curve()
    for count in (2, 4):
        folder, out = tmp_path / f"journal{count}", tmp_path / f"table{count}"
        store = str(tmp_path / f"store{count}")
        processes(*(["shared", r, count, store, str(folder), str(out)] for r in range(count)))
        for process in range(count):
            assert Table.load(f"{out}-{process}.jsonl") == whole
            entries = (folder / f"journal-{process}.jsonl").read_text().splitlines()[1:]
            assert {json.loads(entry)["batch"] for entry in entries} == set(range(process, 4, count))
    # Half of what four wrote is lost; one process reads what is left of all, and does the rest.
    for process in (1, 2):
        (tmp_path / "journal4" / f"journal-{process}.jsonl").unlink()
    assert curve(journal=tmp_path / "journal4") == whole
    entries = (tmp_path / "journal4" / "journal-0.jsonl").read_text().splitlines()[1:]
    assert {json.loads(entry)["batch"] for entry in entries} == {0, 1, 2}


def disagreeing(process, store, what):
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=process, world_size=2)
    later = [*list(batches())[:2], *list(batches(shift=0.1))[2:]]
    changed = {
        "model": {"model": other_weights()},
        "data": {"batches": list(batches(shift=0.1))},
        "later data": {"batches": later},
        "number": {"batches": list(batches())[:3]},
        "failure": {"metrics": {"mask": {"dice": no_memory}}},
    }[what]
    same = {"metrics": {"mask": {"dice": no_memory}}} if what == "failure" else {}
    os.environ["HAS_MEMORY"] = str(1 - process)
    try:
        curve(radii=[0.0], **(changed if process == 1 else same))
    except (ValueError, RuntimeError) as error:
        pathlib.Path(f"{store}-{process}").write_text(f"{type(error).__name__}: {error}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def no_memory(output, target):
    if os.environ["HAS_MEMORY"] == "0":
        raise ValueError("no memory")
    return dice(output, target)


@pytest.mark.parametrize(
    ("what", "messages"),
    [
        ("model", ["processes differ in model: give each the same"] * 2),
        ("data", ["processes differ in the first batch: give each the same"] * 2),
        ("later data", ["processes differ in batch 2, batch 3: give each the same"] * 2),
        ("number", ["processes differ in batch 3: give each the same"] * 2),
        ("failure", ["RuntimeError: process 1 of 2 failed: ValueError: no memory", "ValueError: no memory"]),
    ],
)
def test_processes_that_disagree_or_fail_stop_together(tmp_path, what, messages, processes):
    store = tmp_path / "store"
    processes(*(["disagreeing", process, str(store), what] for process in range(2)))
    for process, message in enumerate(messages):
        assert message in pathlib.Path(f"{store}-{process}").read_text()


# Shards: jobs that do not know of each other


def one_shard(number, count, folder, out):
    """One of an array of jobs."""
    torch.set_num_threads(1)
    curve(journal=folder, shard=(number, count)).save(f"{out}-{number}.jsonl")


def of_shard(table, number, count):
    """The rows of a shard; batches begin at 0, 4, 8 and 12."""
    return Table(row for row in table if row.index // 4 % count == number)


def unable(output, target):
    raise AssertionError("nothing is to be computed")


@pytest.fixture(scope="module")
def whole():
    return curve()


@pytest.mark.parametrize("count", [3, 6])
def test_shards_at_once_and_then_the_whole_table(tmp_path, processes, whole, count):
    folder, out = tmp_path / "journal", tmp_path / "table"
    processes(*(["one_shard", k, count, str(folder), str(out)] for k in range(count)))
    for k in range(count):
        assert Table.load(f"{out}-{k}.jsonl") == of_shard(whole, k, count)
    names = {path.name for path in folder.iterdir()}
    assert names == {f"journal-shard-{k}-of-{count}.jsonl" for k in range(min(count, 4))}
    before = [path.read_bytes() for path in sorted(folder.iterdir())]
    merged = curve(journal=folder)
    assert merged == whole
    assert merged.rows == whole.rows  # bit for bit
    assert before == [path.read_bytes() for path in sorted(folder.iterdir())]
    assert curve(journal=folder, shard=(1, count)) == of_shard(whole, 1, count)  # computes nothing


def test_shards_that_have_work_left_are_named(tmp_path, whole):
    curve(journal=tmp_path, shard=(0, 3))
    with pytest.raises(ValueError, match=r"work left: \(1, 3\): not begun; \(2, 3\): not begun\. Run them"):
        curve(journal=tmp_path)
    curve(journal=tmp_path, shard=(2, 3))
    path = tmp_path / "journal-shard-0-of-3.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])  # killed in the middle of its last line
    with pytest.raises(ValueError, match=r"\(0, 3\): 1 of 2 batches; \(1, 3\): not begun"):
        curve(journal=tmp_path)
    assert curve(journal=tmp_path, shard=(0, 3)) == of_shard(whole, 0, 3)
    assert path.read_bytes() == b"".join(lines)  # it went on where it was, bit for bit
    with pytest.raises(ValueError, match=r"work left: \(1, 3\): not begun\."):
        curve(journal=tmp_path)
    assert curve(journal=tmp_path, shard=(0, 1)) == whole  # does the rest itself
    assert curve(journal=tmp_path) == whole


def test_another_number_of_shards_goes_on_from_what_there_is(tmp_path, whole):
    curve(journal=tmp_path, shard=(0, 3))
    assert curve(journal=tmp_path, shard=(0, 2)) == of_shard(whole, 0, 2)
    with pytest.raises(ValueError, match=r"\(1, 2\): 1 of 2 batches; \(1, 3\): not begun"):
        curve(journal=tmp_path)
    curve(journal=tmp_path, shard=(1, 2))
    entries = [len(path.read_text().splitlines()) - 1 for path in sorted(tmp_path.iterdir())]
    assert sum(entries) == 4 * 5  # nothing twice: four batches, two attacks at two radii and the clean inputs
    assert curve(journal=tmp_path) == whole


def test_a_shard_that_runs_already_is_refused(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="locks of files are POSIX")
    curve(journal=tmp_path, shard=(0, 4))
    path = tmp_path / "journal-shard-0-of-4.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1])  # so that something is left to do
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match=r"written by another process: give each job its own shard"):
            curve(journal=tmp_path, shard=(0, 4))
    curve(journal=tmp_path, shard=(0, 4))
    assert path.read_bytes() == kept


def grouped(process, number, store, folder, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=process, world_size=2)
    try:
        curve(journal=folder, shard=(number, 2)).save(f"{out}-{number}-{process}.jsonl")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def test_a_shard_may_be_done_by_a_group_of_processes(tmp_path, processes, whole):
    folder, out = str(tmp_path / "journal"), str(tmp_path / "table")
    processes(*(["grouped", r, k, str(tmp_path / f"store{k}"), folder, out] for r in (0, 1) for k in (0, 1)))
    for k in (0, 1):
        for process in (0, 1):
            assert Table.load(f"{out}-{k}-{process}.jsonl") == of_shard(whole, k, 2)
    assert len(list(pathlib.Path(folder).iterdir())) == 4
    assert curve(journal=folder) == whole


def test_a_single_evaluation_has_shards_too(tmp_path):
    model, metrics = other_weights(), {"mask": {"dice": dice}}
    expected = evaluate(model, batches(), metrics)
    parts = [evaluate(model, batches(), metrics, journal=tmp_path, shard=(k, 2)) for k in (0, 1)]
    assert [len(part) for part in parts] == [8, 6]
    assert evaluate(model, batches(), metrics, journal=tmp_path) == expected
    with pytest.raises(ValueError, match="of another evaluation"):
        evaluate(model, batches(), {"mask": {"dice": unable}}, journal=tmp_path, shard=(0, 2))


@pytest.mark.parametrize(
    "shard", [(2, 2), (-1, 2), (0, 0), (0,), (0, 1, 2), "01", ("0", "2"), 3, (True, 2), (0.0, 2)]
)
def test_a_shard_that_is_none_is_refused(tmp_path, shard):
    with pytest.raises(ValueError, match=r"shard must be \(k, n\), k counted from 0 .*SLURM_ARRAY_TASK_ID"):
        curve(journal=tmp_path / "journal", shard=shard)
    assert not (tmp_path / "journal").exists()


def test_a_shard_needs_a_journal():
    with pytest.raises(ValueError, match=r"a shard, \(0, 2\), needs a journal"):
        curve(shard=(0, 2))
