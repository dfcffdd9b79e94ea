import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from advreg import contour_dice, dice, point_error
from lumbar_disk import demo, figures, recipes
from lumbar_disk.cli import app

TINY = replace(
    recipes.phantom_recipe(),
    patients=3,
    test_patients=1,
    size=64,
    width=4,
    steps=60,
    attack_steps=3,
    batch=4,
    lr=0.01,
    seed=1,
)


@pytest.fixture(scope="module")
def attacked():
    data = demo.load(TINY)
    net = demo.trained(data.train, TINY)
    return net, data, demo.attack(net, data.test, TINY)


def test_data_are_split_by_patient_and_accounted_for():
    data = demo.load(TINY)
    assert set(data.train.patients) == set(data.manifest["train_patients"])
    assert set(data.test.patients) == set(data.manifest["test_patients"])
    assert not set(data.train.patients) & set(data.test.patients)
    assert {disc["source"] for disc in data.manifest["discs"]} == {"phantom 0", "phantom 1", "phantom 2"}


def test_attacks_stay_inside_the_threat_and_harm_the_head_they_attack(attacked):
    _, data, found = attacked
    assert set(found) == {(radius, head) for radius in TINY.radii for head in ("contour", "mask")}
    for (radius, _), worst in found.items():
        assert (worst.x - data.test.images).abs().max() <= radius + 1e-6
        assert 0 <= worst.x.min() <= worst.x.max() <= 1
    target = data.test.target()
    for head, objective in demo.OBJECTIVES.items():
        harm = [objective(found[radius, head].output, target) for radius in TINY.radii]
        for attacked_ in harm[1:]:  # the clean image counts among the candidates
            assert torch.all(attacked_ >= harm[0] - 1e-3 * harm[0].abs())
        assert harm[-1].mean() > harm[0].mean()


def test_the_outputs_are_the_networks_for_the_adversarial_images(attacked):
    net, _, found = attacked
    worst = found[0.03, "mask"]
    with torch.no_grad():
        again = net(worst.x)
    for key, output in again.items():
        torch.testing.assert_close(worst.output[key], output, rtol=1e-4, atol=1e-3)


def test_the_table_measures_each_head_under_its_own_attack(attacked):
    _, data, found = attacked
    rows = demo.table(found, data.test, TINY.radii)
    contour, mask = found[0.07, "contour"].output["contour"], found[0.07, "mask"].output["mask"]
    assert [row["radius"] for row in rows] == list(TINY.radii)
    assert rows[-1]["point_error_px"] == pytest.approx(point_error(contour, data.test.contours).mean().item())
    expected = contour_dice(contour, data.test.contours, size=(64, 64)).mean().item()
    assert rows[-1]["contour_dice"] == pytest.approx(expected)
    assert rows[-1]["mask_dice"] == pytest.approx(dice(mask, data.test.masks).mean().item())


def test_the_figure_shows_every_radius_of_every_disc_with_its_dice(attacked):
    _, data, found = attacked
    by_radius = {radius: {head: found[radius, head] for head in demo.OBJECTIVES} for radius in TINY.radii}
    figure = figures.attack_figure(by_radius, data.test, count=2)
    titles = [axes.get_title() for block in figure.subfigs for axes in block.axes]
    assert len(titles) == 2 * 4 * len(TINY.radii)
    assert titles.count("clean") == titles.count("Linf 0.03") == 2
    assert sum("contour, Dice 0." in title for title in titles) == 2 * len(TINY.radii)
    with_nothing_found = {
        radius: {head: demo.Attacked(one.x, {**one.output, "mask": one.output["mask"] * 0 - 1})}
        for (radius, head), one in found.items()
        if head == "mask"
    }
    for radius, heads in with_nothing_found.items():
        heads["contour"] = found[radius, "contour"]
    assert figures.attack_figure(with_nothing_found, data.test, count=1)  # an empty mask has no boundary


def run(*words):
    return CliRunner().invoke(app, ["demo", *map(str, words)])


def test_the_command_writes_what_it_says(tmp_path):
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
    result = run(*tiny, "--out", out)
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
def test_mistakes_end_in_one_clear_line_and_status_2(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "lumbar_disk", "--help"], capture_output=True, text=True, check=True
    )
    assert "demo" in done.stdout
