"""The study's folder: killed and begun again, shared by runs and by processes, and never mixed."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from advreg import Keys
from advreg.evaluation import Table
from advreg.training import Adversary, Noise, PureNoise
from lumbar_disk import models, recipes
from lumbar_disk.cli import app

TINY = [
    "--data=phantom", "--patients=4", "--size=smoke", "--threads=1", "--checkpoint-every=0",
    "--set=test_patients=1", "--set=eval_batch=3", "--set=virtual=40",
]  # fmt: skip
MODELS = ("P10_std", "P10_adv_rs")


def command(out, *words):
    return [sys.executable, "-m", "lumbar_disk", "study", *TINY, f"--out={out}", *words]


def start(out, *words):
    words = words or ("--no-report",)
    return subprocess.Popen(command(out, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    return stdout, stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    stdout, _ = finished(start(out, "--report"))
    return out, stdout


def weights(out, name):
    return torch.load(out / "models" / name / "weights.pt", weights_only=True)["net"]


def same(out, other):
    for name in MODELS:
        mine, theirs = weights(out, name), weights(other, name)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name
        tables = [(folder / "models" / name / "table.csv").read_bytes() for folder in (out, other)]
        assert tables[0] == tables[1]


def test_the_command_leaves_models_tables_and_a_report(whole):
    out, stdout = whole
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


def test_killed_at_any_moment_it_ends_bit_for_bit_as_if_it_had_not_been(whole, tmp_path):
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
        process = start(out)
        deadline = time.monotonic() + 120
        while not moment.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills == len(moments)
    finished(start(out))
    same(out, whole[0])


def test_two_runs_share_a_folder_and_make_each_model_once(whole, tmp_path):
    out = tmp_path / "shared"
    runs = [finished(run) for run in [start(out), start(out)]]
    same(out, whole[0])
    for name in MODELS:
        assert sum(f"{name}:" in stderr for _, stderr in runs) == 1


def test_a_finished_study_is_left_alone(whole):
    out, _ = whole
    before = {path: path.stat().st_mtime_ns for path in out.glob("models/*/*")}
    finished(start(out))
    assert {path: path.stat().st_mtime_ns for path in out.glob("models/*/*")} == before


def test_torchrun_shares_each_model(whole, tmp_path):
    out = tmp_path / "torchrun"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*torchrun, *command(out, "--no-report")[1:]],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plain, alone = weights(out, "P10_std"), weights(whole[0], "P10_std")
    for key, value in plain.items():
        torch.testing.assert_close(value, alone[key], rtol=1e-5, atol=1e-5)

    def apart(one, other):
        return sum(float((one[key] - other[key]).square().sum()) for key in one) ** 0.5

    # The attacks follow signs, which rounding can turn: near each other, against how far the training went.
    robust, robust_alone = weights(out, "P10_adv_rs"), weights(whole[0], "P10_adv_rs")
    assert apart(robust, robust_alone) < 0.2 * apart(robust_alone, alone)
    tables = [Table.load(folder / "models" / "P10_std" / "table.csv") for folder in (out, whole[0])]
    assert [row[:6] for row in tables[0].rows] == [row[:6] for row in tables[1].rows]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "width=4"], "width: then 2, now 4"),
        (["--set", "test_patients=2"], "another recipe or other data: test_patients: then 1, now 2"),
        (["--set", "breadth=4"], "got 'breadth=4'. Fields: models, size"),
        (["--set", "width=wide"], "width: expected a value like 2; got 'wide'"),
        (["--models", "P4_std"], "no such model: P4_std. Choose from P3_std"),
        (["--set", "radii=0.1,0.2"], "radii must rise from 0"),
        (["--root", "nowhere"], "--root has no meaning with --data phantom"),
        (["--device", "tpu"], "--device must be cpu, cuda or cuda:NUMBER; got tpu"),
    ],
)
def test_mistakes_end_in_one_clear_line(whole, words, message):
    result = CliRunner().invoke(app, ["study", *TINY, f"--out={whole[0]}", *words])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_the_recipes_name_the_papers_models():
    assert len(recipes.FIFTEEN) == 15
    assert recipes.paper().models[:15] == recipes.FIFTEEN
    assert recipes.paper().steps("P3_std") * recipes.paper().batch == 640_000
    assert recipes.small().radii == (0.0, 0.01, 0.03, 0.05, 0.07, 0.1, 0.2)


def test_each_kind_of_model_has_its_loss():
    recipe = replace(recipes.paper(), epochs=10)
    terms = {kind: models.criterion(recipe, f"P3_{kind}", 4).terms for kind in (*recipes.KINDS, "rand_pure")}
    assert not terms["std"]
    assert {kind: list(terms[kind]) for kind in ("adv_r", "adv_s", "adv_rs", "rand")} == {
        "adv_r": ["reg"], "adv_s": ["seg"], "adv_rs": ["reg", "seg"], "rand": ["rand"],
    }  # fmt: skip
    for kind in ("adv_r", "adv_s", "adv_rs"):
        for _, adversary in terms[kind].values():
            assert isinstance(adversary, Adversary)
            assert adversary.threat.radius == pytest.approx(0.035)
            assert (adversary.steps, adversary.rule.size, adversary.rule.relative) == (20, 0.01, False)
    assert isinstance(terms["rand"]["rand"][1], Noise)
    pure = terms["rand_pure"]["rand"][1]
    assert isinstance(pure, PureNoise)
    assert pure(None, torch.ones(1, 1, 4, 4), None, Keys(0, torch.arange(1))).max() <= 0.035
