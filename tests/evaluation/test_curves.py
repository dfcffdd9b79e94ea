"""Evaluation: what is measured, and that interruptions and several processes change nothing."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import traceback
from functools import partial

import numpy as np
import pytest
import torch
from networks import batch, two_heads

from advreg import (
    J_IND_reg,
    J_IND_seg,
    Threat,
    dice,
    evaluate,
    l2,
    linf,
    on,
    pgd_attack,
    point_error,
    radius_curve,
)
from advreg._core.fingerprint import describe, digest
from advreg.attacks import AttackResult
from advreg.evaluation import Row, Table
from advreg.execution import frozen

METRICS = {"contour": {"error": point_error}, "mask": {"dice": dice}}
ATTACKS = {
    "contour": partial(pgd_attack, objective=on("contour", J_IND_reg), steps=3),
    "mask": partial(pgd_attack, objective=on("mask", J_IND_seg), steps=3),
}
RADII = (0.0, 0.02, 0.05)
GROUPS = [f"patient {i // 4}" for i in range(14)]
HERE = pathlib.Path(__file__).parent


def batches(sizes=(4, 4, 4, 2), shift=0.0):
    x, y = batch(14)
    at = 0
    for size in sizes:
        part = slice(at, at + size)
        yield (x[part] * (1 - shift), {key: value[part] for key, value in y.items()}, torch.arange(14)[part])
        at += size


def curve(model=None, sizes=(4, 4, 4, 2), **options):
    given = {
        "batches": list(batches(sizes)),
        "metrics": METRICS,
        "attacks": ATTACKS,
        "radii": RADII,
    } | options
    return radius_curve(model or two_heads(), groups=GROUPS, **given)


def killed_at(call, folder, out):
    """Evaluate in a process that kills itself when a metric is called for the nth time."""
    calls = 0

    def error(output, target):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return point_error(output, target)

    # The journal knows functions by name, and by code and closure where they have no name of their own.
    error.__qualname__ = "error"
    torch.set_num_threads(1)
    table = curve(metrics={"contour": {"error": error}, "mask": {"dice": dice}}, journal=folder)
    table.save(out)
    pathlib.Path(out).with_suffix(".calls").write_text(str(calls))


def shared(process, count, store, folder, out):
    """One of several processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=process, world_size=count)
    try:
        curve(journal=folder or None).save(f"{out}-{process}.jsonl")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


def serve():
    """Fork a process for each call asked for, and answer with how they ended: torch is imported once."""
    for line in sys.stdin:
        processes = []
        for function, *arguments in json.loads(line):
            process = os.fork()
            if process == 0:
                code = 1
                try:
                    globals()[function](*arguments)
                    code = 0
                except Exception:  # noqa: BLE001 - it is printed, and the parent sees the code
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            processes.append(process)
        ends = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        sys.stdout.write(json.dumps(ends) + "\n")
        sys.stdout.flush()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Runs functions of this module, each in a process of its own, all at once; returns how they ended."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", "import test_evaluation; test_evaluation.serve()"]
    errors = tmp_path_factory.mktemp("processes") / "errors"
    with (
        errors.open("w") as file,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
        ) as server,
    ):

        def run(*calls):
            print(json.dumps(calls), file=server.stdin, flush=True)
            answer = server.stdout.readline()
            assert answer, errors.read_text()
            codes = json.loads(answer)
            assert 1 not in codes, errors.read_text()
            return codes

        yield run
        server.stdin.close()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_rows_are_what_a_plain_loop_gives():
    model = two_heads()
    expected = []
    for attack, run in ATTACKS.items():
        for radius in RADII:
            for x, y, index in batches():
                if radius:
                    x = run(model, x, y, threat=Threat(linf, radius), seed=3, index=index).x  # noqa: PLW2901 - attacked
                with torch.no_grad():
                    output = model(x)
                error, overlap = point_error(output["contour"], y["contour"]), dice(output["mask"], y["mask"])
                for at, i in enumerate(index.tolist()):
                    place = (i, GROUPS[i], radius, attack)
                    expected += [
                        Row(*place, "contour", "error", error[at].item()),
                        Row(*place, "mask", "dice", overlap[at].item()),
                    ]
    assert curve(model, seed=3).rows == tuple(expected)


def test_every_head_is_measured_under_every_attack():
    table = curve()
    means = {mean[:4]: mean.mean for mean in table.means(resamples=10)}
    for attack, other in (("contour", "mask"), ("mask", "contour")):
        assert means["contour", "contour", "error", 0.05] >= means[attack, "contour", "error", 0.0]
        assert means[attack, "mask", "dice", 0.05] != means[other, "mask", "dice", 0.05]
        assert means[attack, "contour", "error", 0.05] != means[other, "contour", "error", 0.05]
    assert means["mask", "mask", "dice", 0.05] < means["contour", "mask", "dice", 0.05]
    assert means["contour", "contour", "error", 0.05] > means["mask", "contour", "error", 0.05]


def test_clean_inputs_are_measured_once_and_begin_every_curve():
    calls = []

    def counted(output, target):
        calls.append(len(target))
        return dice(output, target)

    table = curve(metrics={"mask": {"dice": counted}})
    assert sum(calls) == 14 * (1 + 2 * 2)
    clean = [table.where(attack=attack, radius=0.0) for attack in ATTACKS]
    assert [row._replace(attack="") for row in clean[0]] == [row._replace(attack="") for row in clean[1]]
    alone = evaluate(two_heads(), batches(), {"mask": {"dice": dice}}, groups=np.array(GROUPS))
    assert [row.group for row in alone] == GROUPS
    assert [row.value for row in alone] == [row.value for row in clean[0]]
    assert {(row.attack, row.radius) for row in alone} == {("clean", 0.0)}


def test_evaluate_is_one_point_of_the_curve():
    attack = partial(ATTACKS["mask"], threat=Threat(linf, 0.02))
    table = evaluate(two_heads(), batches(), METRICS, attack, name="mask", radius=0.02, groups=GROUPS)
    assert table == curve().where(attack="mask", radius=0.02)
    untold = evaluate(two_heads(), batches(), METRICS, attack)
    assert {(row.attack, row.group) for row in untold} == {("attack", "")}
    assert all(np.isnan(row.radius) for row in untold)


def test_the_threat_is_the_callers_but_for_its_radius():
    seen = []

    def attack(model, x, y, *, threat, seed, index):
        seen.append((threat.norm, threat.radius, threat.bounds, seed, index.tolist()))
        return pgd_attack(model, x, y, objective=on("mask", J_IND_seg), threat=threat, steps=0, seed=seed)

    curve(attacks={"a": attack}, radii=[0.5, 0.25], threat=Threat(l2, 9.0, bounds=(-1.0, 2.0)), seed=8)
    assert seen[:3] == [
        (l2, 0.5, (-1.0, 2.0), 8, [0, 1, 2, 3]),
        (l2, 0.25, (-1.0, 2.0), 8, [0, 1, 2, 3]),
        (l2, 0.5, (-1.0, 2.0), 8, [4, 5, 6, 7]),
    ]


@pytest.mark.parametrize("sizes", [(14,), (1,) * 14, (5, 5, 4)])
def test_results_do_not_depend_on_the_size_of_batches(sizes):
    class Smooth(torch.nn.Module):
        def forward(self, x):
            return {"contour": torch.tanh(3 * x.flatten(1)[:, :10].unflatten(1, (5, 2)))}

    options = {
        "metrics": {"contour": {"error": point_error}},
        "attacks": {"contour": ATTACKS["contour"]},
    }
    one, other = curve(Smooth(), **options), curve(Smooth(), sizes, **options)
    np.testing.assert_allclose(other.values(), one.values(), rtol=1e-5, atol=1e-6)
    assert [row[:6] for row in one] == [row[:6] for row in other]


def test_heads_may_be_places_or_the_whole_output():
    model, (x, y) = two_heads("tuple"), batch(3, "tuple")
    table = evaluate(
        model,
        [(x, y)],
        {0: {"error": point_error}, "": {"sum": lambda output, target: (output[0] - target[0]).sum((1, 2))}},
    )
    assert [(row.index, row.head, row.metric) for row in table][:3] == [
        (0, "0", "error"),
        (0, "", "sum"),
        (1, "0", "error"),
    ]


def test_only_the_heads_measured_are_computed_and_the_model_is_left_alone():
    class Sparing(torch.nn.Linear):
        asked = ()

        def forward(self, x, heads=("a", "b")):
            self.asked = heads
            return {key: super(Sparing, self).forward(x) for key in heads}

    model = Sparing(3, 2)
    before = digest(model)
    x = torch.rand(2, 3)
    evaluate(model, [(x, {"a": x[:, :2]})], {"a": {"error": J_IND_reg}})
    assert model.asked == ("a",)
    assert model.weight.requires_grad
    assert digest(model) == before


def test_values_are_written_in_full_and_batches_are_moved():
    x = torch.rand(2, 3, dtype=torch.float64)
    (row, _) = evaluate(
        torch.nn.Identity(), [(x, x)], {"": {"sum": lambda output, _: output.sum(1)}}, device="cpu"
    )
    assert row.value == x[0].sum().item()
    on_meta = evaluate(
        lambda x: x,
        [(x, {"y": x, "name": "L4"})],
        {
            "": {
                "where": lambda o, t: torch.full(
                    (2,), float((o.device, t["y"].device) == (torch.device("meta"),) * 2)
                )
            }
        },
        device="meta",
    )
    assert [row.value for row in on_meta] == [1.0, 1.0]


def test_a_killed_run_goes_on_to_the_very_same_table(tmp_path, one_thread, processes):
    whole, folder, out = curve(), str(tmp_path / "journal"), str(tmp_path / "t.jsonl")
    assert processes(["killed_at", 8, folder, out]) == [-signal.SIGKILL]
    lines = (tmp_path / "journal" / "journal-0.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 7  # the fingerprint, and seven finished of 4 batches x 5 jobs
    processes(["killed_at", 0, folder, out])
    assert Table.load(out) == whole
    assert int(pathlib.Path(out).with_suffix(".calls").read_text()) == 20 - 7


@pytest.mark.parametrize("left", [3, 200, -1], ids=["in the first line", "in an entry", "before the newline"])
def test_a_torn_last_line_is_done_again(tmp_path, left, one_thread):
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


def other_weights():
    model = two_heads()
    with torch.no_grad():
        model.mask.bias += 1e-6
    return model


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (
            {"model": other_weights()},
            r"differs in: model \([0-9a-f]+ there, [0-9a-f]+ here\)\. Remove the folder",
        ),
        (
            {"radii": (0.0, 0.02, 0.06)},
            r"differs in: radii \(list\(0.0, 0.02, 0.05\) there, list\(0.0, 0.02, 0.06\)",
        ),
        ({"seed": 1}, r"differs in: seed \(0 there, 1 here\)"),
        ({"threat": Threat(l2, 0.0)}, "differs in: threat .*_Linf.*_L2"),
        ({"attacks": {**ATTACKS, "mask": partial(ATTACKS["mask"], steps=4)}}, "differs in: attack 'mask' "),
        ({"attacks": {"mask": ATTACKS["mask"]}}, "differs in: attack 'contour' .* none here"),
        ({"metrics": {"mask": {"dice": dice}}}, "differs in: metric 'error' of head 'contour' .* none here"),
        ({"batches": list(batches(shift=0.1))}, "knows another batch 0: give the same data"),
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


def test_processes_share_the_work_and_return_the_same_table(tmp_path, one_thread, processes):
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


def test_progress_needs_tqdm_and_counts_jobs(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    curve(progress=True)
    shown = capsys.readouterr().err
    assert "20/20" in shown
    assert "attack=mask, radius=0.05" in shown
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        curve(progress=True)


X, Y = torch.rand(2, 3), torch.zeros(2, 3)
WHOLE = {"": {"error": J_IND_reg}}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: curve(radii=[0.0, 0.1, 0.1]), ValueError, "distinct radii of 0 or more; got .*0.1, 0.1"),
        (lambda: curve(radii=[-0.1]), ValueError, "distinct radii of 0 or more"),
        (lambda: curve(radii=[float("nan")]), ValueError, "distinct radii of 0 or more"),
        (lambda: curve(radii=[]), ValueError, "distinct radii"),
        (lambda: curve(attacks={}), ValueError, r"got attacks \[\]"),
        (lambda: curve(metrics={}), ValueError, "expected metrics of one head or more"),
        (lambda: curve(batches=[]), ValueError, "a generator is empty when it is used a second time"),
        (lambda: curve(metrics={"edge": {"dice": dice}}), KeyError, "has no head 'edge'"),
        (lambda: evaluate(len, [(X, Y, Y, Y)], WHOLE), ValueError, "batch 0 is a list|batch 0 is a tuple"),
        (lambda: evaluate(len, [(X, Y, torch.ones(2))], WHOLE), ValueError, "index must be int64.*float32"),
        (
            lambda: evaluate(lambda x: x, [(X, Y, [0, 1])] * 2, WHOLE),
            ValueError,
            "one of batch 1 comes again",
        ),
        (lambda: evaluate(len, [(X, Y, [3, 3])], WHOLE), ValueError, r"its index is \[3, 3\]"),
        (
            lambda: evaluate(len, [(X, Y)], WHOLE, groups=["a"]),
            ValueError,
            "got 1 groups, and batch 0 has the indices 0 to 1",
        ),
        (
            lambda: evaluate(len, [(X, Y)], WHOLE, radius=0.1),
            ValueError,
            "clean inputs have no radius; got 0.1",
        ),
        (
            lambda: evaluate(lambda x: x, [(X, Y)], WHOLE, lambda *_, **__: X),
            TypeError,
            "must return an AttackResult.*got Tensor",
        ),
        (
            lambda: evaluate(lambda x: x, [(X, Y)], {"": {"mean": lambda o, t: o.mean()}}),
            TypeError,
            "the metric 'mean' must return one",
        ),
    ],
)
def test_errors_teach(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_descriptions_tell_values_apart_and_not_addresses():
    def inner(steps):
        return lambda x: x * steps

    class Plain:
        def __init__(self, value):
            self.value = value

    same = [
        lambda: inner(3),
        lambda: Plain(torch.ones(2)),
        lambda: partial(Plain(1).__eq__, 2) and partial(pgd_attack, objective=on("mask", J_IND_seg)),
        lambda: {"a": np.arange(3), "b": [None, two_heads()]},
    ]
    for make in same:
        assert describe(make()) == describe(make())
        assert " at 0x" not in describe(make())
    different = [
        (inner(3), inner(4)),
        (lambda x: x + 1, lambda x: x + 2),
        (Plain(torch.ones(2)), Plain(torch.zeros(2))),
        (Threat(linf, 0.1, mask=torch.ones(2000).bool()), Threat(linf, 0.1, mask=torch.arange(2000) != 1000)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.ones(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)),
        (np.zeros(3), np.ones(3)),
        (two_heads(), other_weights()),
        (torch.nn.ReLU(), torch.nn.LeakyReLU()),
    ]
    for one, other in different:
        assert describe(one) != describe(other)
    loop = Plain(1)
    loop.value = loop
    assert describe(loop).endswith("Plain(value=...)")


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


def test_the_model_must_not_mix_examples():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"), frozen(model):
        pass
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        evaluate(model, [(X, Y)], WHOLE)


class Told:
    """An attack that remembers how many examples came, and the largest radius of each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, model, x, y, *, threat, seed, index):
        assert len(y["mask"]) == len(index) == len(x)
        self.calls.append((len(x), round(threat.largest, 6)))
        return ATTACKS["mask"](model, x, y, threat=threat, seed=seed, index=index)


@pytest.mark.parametrize(
    ("fits", "calls"),
    [
        (100, [(12, 0.06)] * 3 + [(6, 0.06)]),
        (8, [(8, 0.05), (4, 0.06)] * 3 + [(6, 0.06)]),
        (3, [(4, 0.02), (4, 0.05), (4, 0.06)] * 3 + [(2, 0.02), (2, 0.05), (2, 0.06)]),
    ],
)
def test_radii_together_give_what_they_give_one_by_one(monkeypatch, tmp_path, fits, calls):
    monkeypatch.setattr("advreg.evaluation._jobs.room", lambda _: fits)
    radii, limit = (0.0, 0.02, 0.05, 0.06), torch.ones(8, 8, dtype=torch.bool).triu()
    options = {"radii": radii, "threat": Threat(linf, 0.0, mask=limit), "seed": 3}
    told = Told()
    found = curve(attacks={"told": told, "contour": ATTACKS["contour"]}, together=True, **options)
    assert told.calls == calls
    expected = curve(attacks={"told": Told(), "contour": ATTACKS["contour"]}, **options)
    assert [row[:-1] for row in found.rows] == [row[:-1] for row in expected.rows]
    torch.testing.assert_close(
        torch.tensor([row.value for row in found.rows]), torch.tensor([row.value for row in expected.rows])
    )
    journalled = curve(journal=tmp_path, together=True, **options)
    again = curve(metrics=METRICS, journal=tmp_path, **options)  # which does nothing anew
    assert again.rows == journalled.rows


def test_what_fits_is_asked_of_the_device_and_a_batch_moves_once(monkeypatch):
    devices, moved = [], []

    class Moving(torch.Tensor):
        def to(self, *args, **kwargs):
            moved.append(args[0])
            return torch.Tensor.to(self.as_subclass(torch.Tensor), *args, **kwargs)

    def attack(model, x, y, *, threat, seed, index):
        devices.append(x.device.type)
        return AttackResult(x, *[torch.zeros(len(x), device=x.device)] * 4)

    rooms = []
    monkeypatch.setattr("advreg.evaluation._jobs.room", lambda x: rooms.append(x.device.type) or 100)
    model, (x, y, index) = two_heads().to("meta"), next(batches())
    metrics = {"mask": {"none": lambda output, _: torch.zeros(len(output))}}
    case = [(x.as_subclass(Moving), y, index)]
    curve = radius_curve(model, case, metrics, {"it": attack}, [0.1, 0.2], together=True, device="meta")
    assert len(curve.rows) == 2 * 4
    assert (rooms, devices, moved) == (["meta"], ["meta"], ["meta"])
