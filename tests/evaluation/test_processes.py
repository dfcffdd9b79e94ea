"""Several processes share the work, return the same table, and stop together."""

import json
import os
import pathlib

import pytest
import torch
from networks.measured import batches, curve, other_weights

from advreg import (
    dice,
)
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
