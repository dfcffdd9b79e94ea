"""A journal: interruptions at any moment change nothing."""

import os
import pathlib
import signal
from functools import partial

import pytest
import torch
from networks.measured import ATTACKS, batches, curve, other_weights

from advreg import (
    Threat,
    dice,
    evaluate,
    l2,
    point_error,
)
from advreg.evaluation import Table


def killed_at(call, folder, out):
    """Evaluate in a process that kills itself when a metric is called for the nth time."""
    # What a metric reads from the environment is no part of its evaluation.
    os.environ |= {"CALLS": "0", "LAST": str(call)}

    def error(output, target):
        os.environ["CALLS"] = calls = str(int(os.environ["CALLS"]) + 1)
        if calls == os.environ["LAST"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return point_error(output, target)

    torch.set_num_threads(1)
    table = curve(metrics={"contour": {"error": error}, "mask": {"dice": dice}}, journal=folder)
    table.save(out)
    pathlib.Path(out).with_suffix(".calls").write_text(os.environ["CALLS"])


def test_a_killed_run_goes_on_to_the_very_same_table(tmp_path, processes):
    whole, folder, out = curve(), str(tmp_path / "journal"), str(tmp_path / "t.jsonl")
    assert processes(["killed_at", 8, folder, out]) == [-signal.SIGKILL]
    lines = (tmp_path / "journal" / "journal-0.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 7  # the fingerprint, and seven finished of 4 batches x 5 jobs
    processes(["killed_at", 0, folder, out])
    assert Table.load(out) == whole
    assert int(pathlib.Path(out).with_suffix(".calls").read_text()) == 20 - 7


@pytest.mark.parametrize("left", [3, 200, -1], ids=["in the first line", "in an entry", "before the newline"])
def test_a_torn_last_line_is_done_again(tmp_path, left):
    whole = curve(journal=tmp_path)
    path = tmp_path / "journal-0.jsonl"
    complete = path.read_bytes()
    lines = complete.splitlines(keepends=True)
    torn = {3: lines[0][:3], 200: b"".join(lines[:9]) + lines[9][:200], -1: complete[:-1]}[left]
    path.write_bytes(torn)
    assert curve(journal=tmp_path) == whole
    assert path.read_bytes() == complete
    assert curve(journal=tmp_path) == whole  # all from the journal
    assert path.read_bytes() == complete


def test_a_damaged_journal_is_refused(tmp_path):
    curve(journal=tmp_path)
    path = tmp_path / "journal-0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], "rubbish\n", *lines[5:]]))
    with pytest.raises(ValueError, match=r"journal-0.jsonl, line 5: expected an entry.*rubbish"):
        curve(journal=tmp_path)


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (
            {"model": other_weights()},
            r"differs in: model: its parameter 'mask.bias'\. Remove the folder",
        ),
        (
            {"radii": (0.0, 0.02, 0.06)},
            r"differs in: radii \(list\(0.0, 0.02, 0.05\) there, list\(0.0, 0.02, 0.06\)",
        ),
        ({"seed": 1}, r"differs in: seed \(0 there, 1 here\)"),
        ({"threat": Threat(l2, 0.0)}, "differs in: threat .*_Linf.*_L2"),
        (
            {"attacks": {**ATTACKS, "mask": partial(ATTACKS["mask"], steps=4)}},
            r"attack 'mask': its argument 'steps' \(3 there, 4 here\)",
        ),
        ({"attacks": {"mask": ATTACKS["mask"]}}, r"differs in: attack 'contour' \(none here\)"),
        (
            {"metrics": {"mask": {"dice": dice}}},
            r"differs in: metric 'error' of head 'contour' \(none here\)",
        ),
        ({"batches": list(batches(shift=0.1))}, r"differs in: the first batch\. Remove"),
        ({"batches": list(batches((4, 4, 2, 4)))}, "knows another batch 2"),
        ({"batches": list(batches((4, 4)))}, "knows a batch 3, and there are only 2 now"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_a_journal_of_another_evaluation_is_refused_by_name(tmp_path, changed, names):
    curve(journal=tmp_path)
    before = (tmp_path / "journal-0.jsonl").read_bytes()
    with pytest.raises(ValueError, match=names) as caught:
        curve(journal=tmp_path, **changed)
    assert str(tmp_path) in str(caught.value)
    assert "choose another one" in str(caught.value)
    assert (tmp_path / "journal-0.jsonl").read_bytes() == before


X, Y = torch.rand(2, 3), torch.zeros(2, 3)


def test_a_line_is_on_the_disk_before_the_next_is_begun(tmp_path, monkeypatch):
    synced = []

    def seen(output, _):
        synced.append(len((tmp_path / "journal-0.jsonl").read_text().splitlines()))
        return output.sum(1)

    fsync = []
    monkeypatch.setattr("advreg.evaluation._journal.os.fsync", fsync.append)
    evaluate(torch.nn.Identity(), [(X, Y), (X, Y), (X, Y)], {"": {"seen": seen}}, journal=tmp_path)
    assert synced == [1, 2, 3]
    assert len(fsync) == 4
