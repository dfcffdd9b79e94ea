"""The study's folder: killed and begun again, shared by runs and by processes, and never mixed."""

import json
import shutil
import socket
import time

import pytest
import torch
from typer.testing import CliRunner

from advreg.evaluation import Table
from lumbar_disk.cli import app

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
        attacks = {"contour", "mask", "auto point_error", "auto contour_dice", "auto mask_dice"}
        assert columns[2:] == [
            {0.0, 0.03}, attacks, {"contour", "mask"}, {"point_error", "dice"},
        ]  # fmt: skip
        assert not (out / "models" / name / "checkpoint.pt").exists()
        assert not (out / "models" / name / "journal").exists()
    adversarial = json.loads((out / "models" / "P10_adv_rs" / "model.json").read_text())
    assert adversarial["warm_start"] == "P10_std"
    assert adversarial["steps"] == 6
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


def test_processes_that_torchrun_started_share_each_model(start, finished, tiny, tmp_path):
    """Of a model with noise: signs of gradients would turn at a rounding, and make of it something larger."""
    shared, alone = tmp_path / "shared", finished
    words = ("study", *tiny, "--models=P10_rand", "--no-report")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    run = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    ranks = [start(*words, f"--out={shared}", RANK=str(i), LOCAL_RANK=str(i), **run) for i in range(2)]
    for one in [*ranks, start(*words, f"--out={alone}")]:
        one.finished()

    def apart(one, other):
        return sum(float((one[key] - other[key]).square().sum()) for key in one) ** 0.5

    # Near each other, against how far the training with noise went: Adamax divides by the gradient's size, so
    # that a weight whose gradient is all rounding goes its own way.
    went = apart(weights(alone, "P10_rand"), weights(alone, "P10_std"))
    for model in ("P10_std", "P10_rand"):
        assert apart(weights(shared, model), weights(alone, model)) < 0.01 * went
    tables = [Table.load(folder / "models" / "P10_std" / "table.csv") for folder in (shared, alone)]
    assert [row[:6] for row in tables[0].rows] == [row[:6] for row in tables[1].rows]


@pytest.fixture
def finished(whole_study, tmp_path):
    """A finished study of one's own."""
    return shutil.copytree(whole_study[0], tmp_path / "out")


@pytest.fixture
def unfinished(finished):
    """A study whose second model is still to be made."""
    shutil.rmtree(finished / "models" / "P10_adv_rs")
    return finished


def ran(tiny, out, *words):
    return CliRunner().invoke(app, ["study", *tiny, f"--out={out}", "--no-report", *words])


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, emptied])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("models/P10_std/weights.pt", "Delete it, and run the same command again."),
        ("data.npz", "Delete it, or choose another --out, and run the command again."),
        ("study.json", "Restore it, or choose another folder than"),
        ("virtual/P10/stream.json", "virtual/P10, and run the same command again."),
        ("models/P10_std/model.json", "Delete it, and run the same command again."),
    ],
)
def test_a_damaged_file_ends_the_command_in_one_sentence(unfinished, tiny, name, remedy, damage):
    damage(unfinished / name)
    before = (unfinished / name).read_bytes()
    result = ran(tiny, unfinished)
    assert result.exit_code == 2, result.output
    assert f"lumbar-disk: {unfinished / name} is damaged, or is not what it should be: " in result.stderr
    assert remedy in result.stderr
    assert "Traceback" not in result.output
    assert (unfinished / name).read_bytes() == before
    assert not (unfinished / "models" / "P10_adv_rs" / "weights.pt").exists()  # no work was done in vain


def test_a_damaged_journal_ends_the_command_in_one_sentence(whole_study, finished, tiny):
    out = finished
    folder = out / "models" / "P10_adv_rs"
    (folder / "model.json").unlink()
    (folder / "journal").mkdir()
    (folder / "journal" / "journal-0.jsonl").write_text("no journal\n")
    result = ran(tiny, out)
    assert result.exit_code == 2, result.output
    assert "journal-0.jsonl is no journal" in result.stderr
    assert f"Here: delete {folder / 'journal'} and run the same command again" in result.stderr
    shutil.rmtree(folder / "journal")
    assert ran(tiny, out).exit_code == 0
    same(out, whole_study[0])


def test_weights_that_were_deleted_are_made_again_where_another_model_starts_from_them(
    whole_study, unfinished, tiny
):
    (unfinished / "models" / "P10_std" / "weights.pt").unlink()
    table = (unfinished / "models" / "P10_std" / "table.csv").stat().st_mtime_ns
    assert ran(tiny, unfinished).exit_code == 0
    same(unfinished, whole_study[0])
    assert (unfinished / "models" / "P10_std" / "table.csv").stat().st_mtime_ns == table
    (unfinished / "models" / "P10_std" / "weights.pt").unlink()
    assert ran(tiny, unfinished).exit_code == 0  # nothing is left that starts from them
    assert not (unfinished / "models" / "P10_std" / "weights.pt").exists()


def rounded(path, folder, *, back):
    """Lay a finished model into a folder, its weights in half precision, or turned back into float32."""
    shutil.copytree(path, folder)
    kept = torch.load(folder / "weights.pt", weights_only=True)
    for key, value in kept["net"].items():
        kept["net"][key] = value.half().float() if back else value.half()
    torch.save(kept, folder / "weights.pt")


def test_a_finished_model_of_half_precision_is_laid_into_a_new_folder_and_gone_on_from(
    whole_study, tiny, tmp_path
):
    outs = [tmp_path / "half", tmp_path / "whole"]
    for out in outs:
        rounded(whole_study[0] / "models" / "P10_std", out / "models" / "P10_std", back=out.name == "whole")
        shutil.copy(whole_study[0] / "study.json", out)
        laid = files(out / "models" / "P10_std")
        assert ran(tiny, out).exit_code == 0
        assert files(out / "models" / "P10_std") == laid  # done, and left alone
    half, whole = (weights(out, "P10_adv_rs") for out in outs)
    assert all(value.dtype is torch.float32 for value in half.values())
    assert all(torch.equal(half[key], whole[key]) for key in whole)  # both start from the rounded weights
    assert any(
        not torch.equal(half[key], value) for key, value in weights(whole_study[0], "P10_adv_rs").items()
    )
    result = ran(tiny, outs[0], "--set=seed=1")
    assert result.exit_code == 2  # what was laid in belongs to its recipe
    assert "seed: then 0, now 1" in result.stderr


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set=test_patients=2"], "test_patients: then 1, now 2"),
        (["--patients=5"], "was begun with another recipe or other data: arrays:"),
        (["--set=seed=1"], "seed: then 0, now 1"),
        (["--set=width=3"], "width must be an even number"),
    ],
)
def test_a_refusal_leaves_the_folder_as_it_was(whole_study, tiny, words, message):
    out, _ = whole_study
    before = files(out)
    result = ran(tiny, out, *words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert files(out) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data=spider", "--root=nowhere"], "no images/*_t2_SPACE.mha under nowhere"),
        (["--data=phantom", "--patients=2", "--set=test_patients=2"], "cannot hold out 2 of 2 patients"),
        (
            ["--data=phantom", "--patients=2", "--set=test_patients=1"],
            "components must be a whole number from 1 to",
        ),
    ],
)
def test_a_refusal_leaves_no_new_folder(tmp_path, words, message):
    words = ["study", "--size=smoke", "--threads=1", f"--out={tmp_path / 'deep' / 'out'}", *words]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not list(tmp_path.iterdir())
