"""The commands: what they write and say, and mistakes in one line."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lumbar_disk.cli import _commands, app
from lumbar_disk.data import SOURCES, Options, load, phantom
from lumbar_disk.virtual import Stored, _augment


def run_demo(*words):
    return CliRunner().invoke(app, ["demo", *map(str, words)])


def test_demo_writes_what_it_says(tmp_path):
    out = tmp_path / "deep" / "out"
    tiny = [
        "--patients=3",
        "--test-patients=1",
        "--size=64",
        "--width=2",
        "--steps=2",
        "--attack-steps=1",
        "--seed=4",
    ]
    result = run_demo(*tiny, "--out", out)
    assert result.exit_code == 0, result.output
    names = {"table.csv", "table.md", "summary.json", "model.pt", "attack.png", "curve.png"}
    assert {path.name for path in out.iterdir()} == names
    flat = result.stdout.replace("\n", "")
    assert all(f"wrote {out / name}" in flat for name in names)
    lines = (out / "table.csv").read_text().splitlines()
    assert lines[0] == "radius,point_error_px,contour_dice,mask_dice"
    assert [line.split(",")[0] for line in lines[1:]] == ["0.0", "0.01", "0.03", "0.07"]
    assert len((out / "table.md").read_text().splitlines()) == 6
    summary = json.loads((out / "summary.json").read_text())
    assert summary["command"].startswith("lumbar-disk demo --patients 3 --test-patients 1 --size 64")
    assert summary["recipe"]["seed"] == 4
    assert set(summary["versions"]) == {"python", "advreg", "torch", "numpy"}
    assert len(summary["data"]["test_patients"]) == 1
    weights = torch.load(out / "model.pt", weights_only=True)
    assert weights["stem.0.weight"].shape == (1, 1, 7, 7)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "spider", "--root", "nowhere"], "no images/*_t2_SPACE.mha under nowhere"),
        (["--data", "spider"], "needs a root: the folder that holds SPIDER"),
        (["--root", "nowhere"], "--root has no meaning with --data phantom"),
        (["--data", "spider", "--root", "nowhere", "--patients", "5"], "--patients has no meaning"),
        (["--patients", "3", "--test-patients", "3"], "cannot hold out 3 of 3 patients"),
        (["--patients", "3", "--test-patients", "1", "--size", "100"], "multiple of 64"),
    ],
)
def test_mistakes_in_demo_end_in_one_clear_line_and_status_2(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = run_demo(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def run_prepare(*words):
    result = CliRunner().invoke(app, ["prepare", *map(str, words)])
    return result, " ".join(result.output.split())


def test_prepare_writes_then_says_up_to_date(tmp_path):
    own(tmp_path / "own")
    out = tmp_path / "deep" / "d.npz"
    words = ["--data=folder", f"--root={tmp_path / 'own'}", f"--out={out}", "--size=32", "--test-patients=1"]
    result, text = run_prepare(*words)
    assert result.exit_code == 0, result.output
    assert f"wrote {out} train 10 discs of 2 patients, test 5 discs of 1 patients" in text
    assert "prepare: 100%" in result.stderr
    assert load(out).manifest["command"].startswith("lumbar-disk prepare --data folder --root")
    result, text = run_prepare(*words)
    assert result.exit_code == 0
    assert f"up to date: {out} train 10 discs" in text
    result, text = run_prepare(*words, "--seed=5")
    assert f"seed: then 0, now 5 wrote {out}" in text


def test_series_may_be_repeated_and_are_in_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = {}

    def spy(options, path, *, command, progress):
        seen.update(options=options, path=path, command=command)
        return {"discs": [], "train_patients": [], "test_patients": [], "split": "", "refused": []}, []

    monkeypatch.setattr(_commands, "prepare_file", spy)
    result, _ = run_prepare("--data=spider", "--root=data", "--series=t1", "--series=t2")
    assert result.exit_code == 0, result.output
    assert seen["options"] == Options("spider", Path("data"), series=("t1", "t2"))
    assert seen["path"] == Path("results/spider.npz")
    assert seen["command"] == "lumbar-disk prepare --data spider --root data --series t1 --series t2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data=folder"], "--data folder needs a root: the folder that holds `images` and `contours`"),
        (["--data=spider", "--root=nowhere"], "no images/*_t2_SPACE.mha under nowhere"),
        (["--data=mat", "--root=nowhere"], "no .mat files under nowhere"),
        (["--data=mat", "--root=nowhere", "--series=t1"], "--series has no meaning with --data mat"),
        (["--data=phantom", "--root=nowhere"], "--root has no meaning with --data phantom"),
        (["--data=phantom", "--patients=2", "--size=16"], "cannot hold out 6 of 2 patients"),
        ([], "Missing option '--data'"),
    ],
)
def test_mistakes_in_prepare_end_in_one_clear_line_and_status_2(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result, text = run_prepare(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in text
    assert message in " ".join(text.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def own(root):
    """Phantoms as a user's own folder."""
    for name in ("images", "contours"):
        (root / name).mkdir(parents=True)
    for index in range(3):
        one = phantom(1, index)
        np.save(root / "images" / f"p{index}.npy", one.image)
        np.savez(root / "contours" / f"p{index}.npz", pixel_mm=one.pixel_mm, **one.outlines)


def test_prepare_and_augment_follow_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(_augment, "LOOKED_AT", 10)
    prepared, out = tmp_path / "discs.npz", tmp_path / "virtual"
    words = [
        "--data",
        "phantom",
        "--patients",
        "4",
        "--test-patients",
        "1",
        "--size",
        "64",
        "--out",
        str(prepared),
    ]
    assert CliRunner().invoke(app, ["prepare", *words]).exit_code == 0
    words = ["augment", "--prepared", str(prepared), "--components", "3", "--count", "9", "--shard", "4"]
    result = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "SSM-P10" in result.output
    assert "82.2 %" in result.output
    assert "and 2 more shards" in result.output
    assert len(Stored(out)) == 9
    summary = json.loads((out / "augment.json").read_text())
    assert summary["stream"]["discs"] == 15  # the training discs alone
    again = CliRunner().invoke(app, [*words, "--seed", "1", "--out", str(out)])
    assert again.exit_code == 2
    assert "seed: then 0, now 1" in again.output
    assert json.loads((out / "augment.json").read_text()) == summary  # nothing was written before the refusal
    missing = CliRunner().invoke(app, ["augment", "--prepared", str(tmp_path / "none.npz")])
    assert missing.exit_code == 2
    assert "lumbar-disk prepare" in missing.output


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
def test_mistakes_in_study_end_in_one_clear_line(whole_study, tiny, words, message):
    result = CliRunner().invoke(app, ["study", *tiny, f"--out={whole_study[0]}", *words])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_ood_ends_with_a_report_and_refuses_another_recipe(whole_ood, tiny):
    assert (whole_ood / "report" / "report.html").exists()
    words = [*tiny, f"--ood={whole_ood.parent / 'pictures'}", f"--out={whole_ood}"]
    before = {path: path.read_bytes() for path in whole_ood.rglob("*") if path.is_file()}
    for word, message in (
        ("--set=ood_steps=3", "ood_steps: then 2, now 3"),
        ("--patients=5", "arrays: then {"),
        ("--set=width=3", "width must be an even number"),
        ("--set=ood_radius=-1", "ood_radius must be a positive number; got -1.0"),
        ("--ood=nowhere", "nowhere is no folder"),
    ):
        refused = CliRunner().invoke(app, ["ood", *words, word])
        assert refused.exit_code == 2
        assert message in refused.stderr
        assert {path: path.read_bytes() for path in whole_ood.rglob("*") if path.is_file()} == before
    unknown = CliRunner().invoke(app, ["ood", *words, "--set=ood_depth=3"])
    assert "Fields: models, size" in unknown.stderr
    assert "mask_within." in " ".join(unknown.stderr.split())


def test_report_tells_the_studies_apart(whole_study, whole_ood, monkeypatch):
    for door in ("reports", "strange"):
        monkeypatch.setattr(
            getattr(_commands, door), "write_report", lambda out, door=door: [f"{door} of {out}"]
        )
    for out, door in ((whole_study[0], "reports"), (whole_ood, "strange")):
        result = CliRunner().invoke(app, ["report", str(out)])
        assert result.exit_code == 0, result.output
        assert result.stdout == f"wrote {door} of {out}\n"


def test_a_full_disk_ends_in_one_sentence(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "d.npz"
    result, text = run_prepare(
        "--data=phantom", "--patients=3", "--test-patients=1", "--size=32", f"--out={out}"
    )
    assert result.exit_code == 2
    assert f"lumbar-disk: {out} cannot be written: No space left on device." in text
    assert "make room" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("study.json", b"", "study.json is damaged, or is not what it should be: "),
        ("study.json", b"[]", "expected an object of JSON; got list. Restore it, or run the study again"),
        (
            "models/P10_std/model.json",
            b"{}",
            "model.json is damaged, or is not what it should be: it has no steps",
        ),
        ("models/P10_std/examples.npz", b"", "examples.npz is damaged"),
        ("models/P10_std/table.csv", b"a,b\n", "table.csv, after line 0: expected index"),
    ],
)
def test_a_report_of_a_damaged_file_ends_in_one_sentence(whole_study, tmp_path, name, content, message):
    out = tmp_path / "out"
    shutil.copytree(whole_study[0], out)
    (out / name).write_bytes(content)
    result = CliRunner().invoke(app, ["report", str(out)])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert str(out) in result.stderr


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_refuses_the_options_of_others(monkeypatch, name):
    def reached(*args, **options):
        raise ValueError("reached")

    monkeypatch.setattr(_commands, "prepare_file", reached)
    for option, value in (
        ("root", "nowhere"),
        ("series", "t1"),
        ("slices", "3"),
        ("overview", "table.csv"),
        ("patients", "5"),
    ):
        foreign = option not in SOURCES[name].options and not (option == "root" and SOURCES[name].layout)
        result = CliRunner().invoke(app, ["prepare", f"--data={name}", f"--{option}={value}"])
        assert result.exit_code == 2
        text = " ".join(result.output.replace("│", " ").split())
        expected = f"--{option} has no meaning with --data {name}" if foreign else "lumbar-disk: reached"
        assert expected in text


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["prepare", "--data=spider", "--test-patients=1"], "--test-patients"),
        (["demo", "--data=spider", "--test-patients=1"], "--test-patients"),
        (["study", "--size=smoke", "--set=test_patients=1"], "--set test_patients"),
        (["ood", "--size=smoke", "--set=test_patients=1", "--ood=."], "--set test_patients"),
    ],
)
def test_a_number_of_test_patients_is_refused_where_a_table_decides(tmp_path, monkeypatch, words, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "1_t2_SPACE.mha").touch()
    (tmp_path / "data" / "overview.csv").write_text("new_file_name,subset\n1_t2_SPACE,training\n")
    result = CliRunner().invoke(app, [*words, "--root=data"])
    assert result.exit_code == 2, result.output
    text = " ".join(result.output.replace("│", " ").split())
    assert f"{refused} has no meaning where the split is given, here by overview.csv; leave it out." in text
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_slices_and_a_table_elsewhere_reach_the_data(tmp_path, monkeypatch):
    seen = []

    def spy(options, *args, **more):
        seen.append(options)
        raise ValueError("reached")

    monkeypatch.setattr(_commands, "prepare_file", spy)
    monkeypatch.setattr(_commands.models, "begun", spy)
    for command in ("prepare", "study"):
        words = [command, "--data=spider", "--root=data", "--slices=3", "--overview=far/table.csv"]
        assert "reached" in CliRunner().invoke(app, [*words, f"--out={tmp_path / 'out'}"]).output
    assert [(one.slices, one.overview) for one in seen] == [(3, Path("far/table.csv"))] * 2


def test_an_unknown_source_is_refused_by_name():
    result = CliRunner().invoke(app, ["prepare", "--data=dicom"])
    assert result.exit_code == 2
    assert "'dicom' is not one of spider, folder, mat, ssmspine, phantom" in " ".join(
        result.output.replace("│", " ").split()
    )


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "lumbar_disk", "--help"], capture_output=True, text=True, check=True
    )
    assert "demo" in done.stdout


def test_without_the_extra_the_command_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; import lumbar_disk.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "lumbar-disk needs typer: pip install 'advreg[lumbar]'\n"
