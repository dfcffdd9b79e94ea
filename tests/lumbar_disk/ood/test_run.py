"""Strange images, the network that reconstructs, and the attacks that pass them off as discs."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lumbar_disk.discs import crops
from lumbar_disk.prepare import Prepared
from PIL import Image
from typer.testing import CliRunner

from advreg import Threat, l2
from advreg.evaluation import Table
from lumbar_disk import models, ood_images, ood_study, phantom, recipes, train
from lumbar_disk.cli import app


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


def test_a_folder_of_folders_is_read_by_name_and_bad_files_are_named(tmp_path, caplog):
    ramp = np.tile(np.arange(100, dtype=np.uint8), (60, 1))
    picture(tmp_path / "lung" / "deep" / "a.png", ramp)
    picture(tmp_path / "lung" / "b.jpg", ramp)
    picture(tmp_path / "colour" / "c.png", np.stack([ramp, ramp, 0 * ramp], axis=2))
    picture(tmp_path / "colour" / "d.tif", (ramp * 300.0).astype(np.uint16))
    picture(tmp_path / "colour" / "flat.png", 0 * ramp)
    (tmp_path / "lung" / "broken.png").write_text("no picture")
    (tmp_path / "lung" / "notes.txt").write_text("left alone")
    colour, lung = ood_images.read(tmp_path, 64)
    assert (colour.name, lung.name) == ("colour", "lung")
    assert lung.images.shape == colour.images.shape == (2, 1, 64, 64)
    for source in (colour, lung):
        assert source.images.amin() == 0
        assert source.images.amax() == 1
    across = lung.images[0, 0].mean(0)
    assert (across.diff() >= 0).all()  # the central square of a ramp, not mirrored or turned
    assert [reason.split(":")[0] for reason in lung.skipped] == ["broken.png"]
    assert "expected varied grey values; got 0 to 0" in colour.skipped[0]
    assert "broken.png" in caplog.text


def test_a_folder_without_readable_images_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        ood_images.read(tmp_path / "nowhere", 64)
    with pytest.raises(ValueError, match="got none"):
        ood_images.read(tmp_path, 64)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"none that can be read: broken\.png"):
        ood_images.read(tmp_path, 64)


def test_noise_and_blocks_belong_to_seed_and_place():
    few, many, other = (
        {source.name: source.images for source in ood_images.made(count, 64, seed)}
        for count, seed in ((2, 0), (4, 0), (2, 1))
    )
    assert torch.equal(few["uniform"], many["uniform"][:2])
    assert not torch.equal(few["uniform"], other["uniform"])
    blocks = few["blocks"][0, 0]
    assert len(blocks.unique()) == 256
    assert torch.equal(blocks[:4, :4], blocks[:1, :1].expand(4, 4))


def test_painting_out_continues_the_surroundings():
    y, x = np.indices((40, 50)).astype(float)
    plane = 0.3 * x - 0.1 * y
    mask = (x - 25) ** 2 + (y - 20) ** 2 < 64
    hole = np.where(mask, 99.0, plane)
    np.testing.assert_allclose(ood_images.paint_out(hole, mask), plane, atol=1e-9)  # planes are harmonic
    corner = (x < 6) & (y < 6)
    filled = ood_images.paint_out(np.where(corner, 99.0, plane), corner)
    assert plane.min() <= filled.min() <= filled.max() <= plane.max()


@pytest.mark.skipif(
    "LUMBAR_DATA" not in os.environ, reason="real images: set LUMBAR_DATA to the folder that holds ood/"
)
def test_the_real_images_are_read():
    sources = ood_images.read(Path(os.environ["LUMBAR_DATA"]) / "ood", 64)
    assert {source.name: len(source.images) for source in sources} == {
        "brain_mr": 8,
        "lung_ct": 24,
        "natural": 13,
    }
    assert not any(source.skipped for source in sources)


def test_the_third_output_is_the_image_and_the_heads_can_be_had_alone():
    net = models.network(4, 64, 0, reconstruction=True).eval()
    x = torch.rand(2, 1, 64, 64)
    whole = net(x)
    assert list(whole) == ["contour", "mask", "reconstruction", "image"]
    assert whole["reconstruction"].shape == x.shape
    assert 0 < whole["reconstruction"].min() < whole["reconstruction"].max() < 1
    assert torch.equal(whole["image"], x)
    for heads in (["contour"], ["mask"], ["reconstruction"]):
        part = net(x, heads=heads)
        assert torch.equal(part[heads[0]], whole[heads[0]])
    assert list(net(x, heads=["contour"])) == ["contour"]
    with pytest.raises(ValueError, match=r"has the heads contour, mask, reconstruction; got \['depth'\]"):
        net(x, heads=["depth"])
    target = {"contour": whole["contour"] + 1, "mask": torch.ones_like(x)}
    extra = train.loss_with_reconstruction(whole, target) - train.loss(whole, target)
    torch.testing.assert_close(extra, (whole["reconstruction"] - x).abs().mean((1, 2, 3)))


def test_likeness_to_a_disc_tells_its_own_from_the_others():
    discs = crops(phantom.patients(2, seed=3), size=64)
    noise = 0.3 * torch.randn(discs.masks.shape, generator=torch.Generator().manual_seed(0))
    own, others = ood_study.disc_likeness(discs.masks + noise, discs.masks)
    assert (own > others).all()
    flipped, _ = ood_study.disc_likeness(-discs.masks - noise, discs.masks)
    torch.testing.assert_close(flipped, own)
    nothing, _ = ood_study.disc_likeness(torch.zeros_like(noise), discs.masks)
    assert (nothing == 0).all()
    random, elsewhere = ood_study.disc_likeness(noise, discs.masks)
    assert abs(float((random - elsewhere).mean())) < 0.1


@pytest.fixture(scope="module")
def trial():
    train_discs, test = (crops(phantom.patients(n, seed=seed), size=64) for n, seed in ((3, 1), (1, 2)))
    recipe = replace(recipes.ood("smoke"), ood_steps=30, eval_batch=3, contour_within=1e-3)
    nets = [models.network(4, 64, 0, reconstruction=flag).eval() for flag in (False, True)]
    data = Prepared(train_discs, test, {})
    return [ood_study.Trial(net, data, recipe, torch.device("cpu")) for net in nets], test


def test_attacks_match_the_outputs_inside_the_ball(trial):
    (plain, _), test = trial
    (uniform,) = [s.images for s in ood_images.made(5, 64, 0) if s.name == "uniform"]
    by_hand = {}
    for adversary in plain.adversaries:
        found = plain.attack(adversary, uniform)
        assert Threat(l2, 20.0).contains(found["x"], uniform).all()
        by_hand[adversary.name] = found["x"]
    before, wanted = plain.answers(uniform)["contour"], plain.answers(test.images)["contour"]
    after = plain.answers(by_hand["reg"])["contour"]
    apart = [(answer - wanted).norm(dim=2).mean() for answer in (before, after)]
    assert apart[1] < 0.5 * apart[0]


def test_the_aware_adversary_lowers_its_own_detectors_score(trial):
    (_, trial), _ = trial
    lung = torch.rand(5, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    adversaries = {adversary.name: adversary for adversary in trial.adversaries}
    assert list(adversaries) == ["unaware", "aware:reconstruction", "aware:mahalanobis", "aware:knn"]
    unaware = trial.attack(adversaries["unaware"], lung)["x"]
    for name, detector in trial.detectors.items():
        found = trial.attack(adversaries[f"aware:{name}"], lung)["x"]
        assert detector.score(found).mean() < detector.score(unaware).mean()


def test_the_table_holds_what_the_report_reads(trial, tmp_path):
    (_, trial), test = trial
    sources = ood_images.made(5, 64, 0)[:2]
    table, shown = trial.run(sources, tmp_path / "journal", progress=False)
    names = {"in"} | {
        f"{source}/{adversary}"
        for source in ("uniform", "blocks")
        for adversary in ("none", "unaware", "aware:reconstruction", "aware:mahalanobis", "aware:knn")
    }
    assert {row.attack for row in table.rows} == names
    assert {row.group for row in table.rows} == set(test.patients)
    step = table.where(attack="blocks/unaware", head="attack", metric="step")
    assert len(step) == 5
    aware = table.where(attack="blocks/aware:knn", head="detector")
    assert {row.metric for row in aware.rows} == {"knn"}
    assert shown["source"] == "uniform"
    assert shown["reconstruction_aware_knn"].shape == (3, 1, 64, 64)
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "journal").iterdir()}
    again, _ = trial.run(sources, tmp_path / "journal", progress=False)
    assert again == table
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "journal").iterdir()} == marks


def test_the_command_ends_with_a_report(tmp_path):
    picture(tmp_path / "ood" / "lung_ct" / "a.png", np.arange(4096, dtype=np.uint8).reshape(64, 64))
    words = [
        "ood",
        "--data=phantom",
        "--patients=4",
        "--size=smoke",
        "--threads=1",
        f"--ood={tmp_path / 'ood'}",
    ]
    words += [f"--out={tmp_path / 'out'}", "--set=test_patients=1", "--set=virtual=40", "--set=ood_steps=2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "report" / "report.html").exists()
    study = json.loads((tmp_path / "out" / "study.json").read_text())
    assert study["ood"]["sources"]["lung_ct"] == {"images": 1, "skipped": []}
    for name in ("P10_std", "P10_std_rec", "P10_adv_rs_rec"):
        assert len(Table.load(tmp_path / "out" / "models" / name / "table.csv")) > 100
    refused = CliRunner().invoke(app, [*words[:-1], "--set=ood_steps=3"])
    assert refused.exit_code == 2
    assert "ood_steps: then 2, now 3" in refused.stderr
