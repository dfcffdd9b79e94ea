"""The study's folder: killed and begun again, shared by runs and by processes, and never mixed."""

import json
import socket
import time

import torch

from advreg.evaluation import Table

MODELS = ("P10_std", "P10_adv_rs")


def weights(out, name):
    return torch.load(out / "models" / name / "weights.pt", weights_only=True)["net"]


def same(out, other):
    for name in MODELS:
        mine, theirs = weights(out, name), weights(other, name)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name
        tables = [(folder / "models" / name / "table.csv").read_bytes() for folder in (out, other)]
        assert tables[0] == tables[1]


def test_the_command_leaves_models_tables_and_a_report(whole_study):
    out, stdout = whole_study
    study = json.loads((out / "study.json").read_text())
    assert study["command"].startswith("lumbar-disk study")
    assert study["recipe"]["width"] == 2
    assert study["patients"] == {"train": 3, "test": 1}
    assert study["wall_seconds"] > 0
    for name in MODELS:
        table = Table.load(out / "models" / name / "table.csv")
        columns = [set(column) for column in list(zip(*table.rows, strict=True))[:6]]
        assert columns[0] == set(range(5))
        assert columns[2:] == [
            {0.0, 0.03, 0.07}, {"contour", "mask"}, {"contour", "mask"}, {"point_error", "dice"},
        ]  # fmt: skip
        assert not (out / "models" / name / "checkpoint.pt").exists()
        assert not (out / "models" / name / "journal").exists()
    adversarial = json.loads((out / "models" / "P10_adv_rs" / "model.json").read_text())
    assert adversarial["warm_start"] == "P10_std"
    assert adversarial["steps"] == 15
    for line in stdout.splitlines():
        assert (out / "report").name in line
    assert (out / "report" / "report.html").exists()


def test_killed_at_any_moment_it_ends_bit_for_bit_as_if_it_had_not_been(whole_study, start, tiny, tmp_path):
    out = tmp_path / "killed"
    moments = [
        out / "virtual" / "P10" / "stream.json",
        out / "models" / "P10_std" / "checkpoint.pt",
        out / "models" / "P10_std" / "journal",
        out / "models" / "P10_adv_rs" / "checkpoint.pt",
        out / "models" / "P10_adv_rs" / "weights.pt",
    ]
    kills = 0
    for moment in moments:
        run = start("study", *tiny, f"--out={out}", "--no-report")
        deadline = time.monotonic() + 120
        while not moment.exists() and run.process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        kills += run.kill()
    assert kills == len(moments)
    start("study", *tiny, f"--out={out}", "--no-report").finished()
    same(out, whole_study[0])


def test_two_runs_share_a_folder_and_make_each_model_once(whole_study, start, tiny, tmp_path):
    out = tmp_path / "shared"
    words = ("study", *tiny, f"--out={out}", "--no-report")
    runs = [run.finished() for run in [start(*words), start(*words)]]
    same(out, whole_study[0])
    for name in MODELS:
        assert sum(f"{name}:" in stderr for _, stderr in runs) == 1


def test_a_finished_study_is_left_alone(whole_study, start, tiny):
    out, _ = whole_study
    before = {path: path.stat().st_mtime_ns for path in out.glob("models/*/*")}
    start("study", *tiny, f"--out={out}", "--no-report").finished()
    assert {path: path.stat().st_mtime_ns for path in out.glob("models/*/*")} == before


def test_processes_that_torchrun_started_share_each_model(whole_study, start, tiny, tmp_path):
    out = tmp_path / "shared"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    run = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    words = ("study", *tiny, f"--out={out}", "--no-report")
    for one in [start(*words, RANK=str(rank), LOCAL_RANK=str(rank), **run) for rank in range(2)]:
        one.finished()
    plain, alone = weights(out, "P10_std"), weights(whole_study[0], "P10_std")
    for key, value in plain.items():
        torch.testing.assert_close(value, alone[key], rtol=1e-5, atol=1e-5)

    def apart(one, other):
        return sum(float((one[key] - other[key]).square().sum()) for key in one) ** 0.5

    # The attacks follow signs, which rounding can turn: near each other, against how far the training went.
    robust, robust_alone = weights(out, "P10_adv_rs"), weights(whole_study[0], "P10_adv_rs")
    assert apart(robust, robust_alone) < 0.2 * apart(robust_alone, alone)
    tables = [Table.load(folder / "models" / "P10_std" / "table.csv") for folder in (out, whole_study[0])]
    assert [row[:6] for row in tables[0].rows] == [row[:6] for row in tables[1].rows]
