"""The attacks that pass strange images off as discs, and the work that a study does with them."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from advreg import Threat, l2
from advreg.evaluation import Table
from lumbar_disk.data import Prepared, crops, phantoms
from lumbar_disk.network import untrained
from lumbar_disk.ood import OODRecipe, Source, Trial, disc_likeness, made_images, ood_work


def test_likeness_to_a_disc_tells_its_own_from_the_others():
    discs = crops(phantoms(2, seed=3), size=64)
    noise = 0.3 * torch.randn(discs.masks.shape, generator=torch.Generator().manual_seed(0))
    own, others = disc_likeness(discs.masks + noise, discs.masks)
    assert (own > others).all()
    flipped, _ = disc_likeness(-discs.masks - noise, discs.masks)
    torch.testing.assert_close(flipped, own)
    nothing, _ = disc_likeness(torch.zeros_like(noise), discs.masks)
    assert (nothing == 0).all()
    random, elsewhere = disc_likeness(noise, discs.masks)
    assert abs(float((random - elsewhere).mean())) < 0.1


@pytest.fixture(scope="module")
def trial():
    train_discs, test = (crops(phantoms(n, seed=seed), size=64) for n, seed in ((3, 1), (1, 2)))
    recipe = OODRecipe(ood_radius=20.0, ood_steps=45, contour_within=1e-3)
    nets = [untrained(4, 64, 0, reconstruction=flag).eval() for flag in (False, True)]
    data = Prepared(train_discs, test, {})
    return [Trial(net, data, recipe, torch.device("cpu"), batch=3, seed=0) for net in nets], test


def test_attacks_match_the_outputs_inside_the_ball(trial):
    (plain, _), test = trial
    (uniform,) = [s.images for s in made_images(5, 64, 0) if s.name == "uniform"]
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
    lung = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    adversaries = {adversary.name: adversary for adversary in trial.adversaries}
    assert list(adversaries) == ["unaware", "walk", "aware:reconstruction", "aware:mahalanobis", "aware:knn"]
    unaware = trial.attack(adversaries["unaware"], lung)["x"]
    for name, detector in trial.detectors.items():
        found = trial.attack(adversaries[f"aware:{name}"], lung)["x"]
        assert detector.score(found).mean() < detector.score(unaware).mean()


def test_the_table_holds_what_the_report_reads(trial, tmp_path):
    (_, slow), test = trial
    recipe = replace(slow.recipe, ood_steps=3)
    quick = Trial(slow.net, Prepared(test, test, {}), recipe, slow.device, batch=3, seed=0)
    sources = made_images(5, 64, 0)[:2]
    table, shown = quick.run(sources, tmp_path / "journal", progress=False)
    names = {"in"} | {
        f"{source}/{adversary}"
        for source in ("uniform", "blocks")
        for adversary in ("none", "unaware", "walk", "aware:reconstruction", "aware:mahalanobis", "aware:knn")
    }
    assert {row.attack for row in table.rows} == names
    assert {row.group for row in table.rows} == set(test.patients)
    nearest = table.where(attack="blocks/none", head="nearest disc").values()
    far = sources[1].images[:, None] - test.images
    np.testing.assert_allclose(nearest, far.flatten(2).norm(dim=2).amin(1), rtol=1e-5)
    step = table.where(attack="blocks/unaware", head="attack", metric="step")
    assert len(step) == 5
    aware = table.where(attack="blocks/aware:knn", head="detector")
    assert {row.metric for row in aware.rows} == {"knn"}
    assert shown["source"] == "uniform"
    assert shown["reconstruction_aware_knn"].shape == (3, 1, 64, 64)
    marks = {path: path.stat().st_mtime_ns for path in (tmp_path / "journal").iterdir()}
    again, _ = quick.run(sources, tmp_path / "journal", progress=False)
    assert again == table
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "journal").iterdir()} == marks


def test_the_work_tells_what_decides_its_numbers():
    sources = (Source("lung_ct", torch.full((3, 1, 2, 2), 0.25), ("broken.png: no picture",)),)
    work = ood_work(OODRecipe(ood_steps=7), sources)
    assert work.settings["ood_steps"] == 7
    known = work.identity["sources"]["lung_ct"]
    assert known["images"] == 3
    assert known["sha256"] == hashlib.sha256(sources[0].images.numpy().tobytes()).hexdigest()
    assert work.about == {
        "ood": {"sources": {"lung_ct": {"images": 3, "skipped": ["broken.png: no picture"]}}}
    }


def test_images_of_the_same_sum_are_told_apart():
    first = torch.zeros(1, 1, 2, 2)
    first[0, 0, 0, 1] = 0.5
    works = [
        ood_work(OODRecipe(), (Source("lung_ct", images),)) for images in (first, first.mT, first.clone())
    ]
    assert works[0].identity != works[1].identity
    assert works[0].identity == works[2].identity


def test_a_damaged_piece_of_the_journal_is_an_error_that_names_it(trial, tmp_path):
    (plain, _), _ = trial
    quick = Trial(
        plain.net, Prepared(plain.test, plain.test, {}), plain.recipe, plain.device, batch=3, seed=0
    )
    (tmp_path / "uniform-reg.pt").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"uniform-reg.pt is damaged.*Delete it, and run the same command again"
    ):
        quick.run(made_images(5, 64, 0)[:1], tmp_path, progress=False)


def test_a_study_with_this_work_is_recorded_with_its_settings(whole_ood):
    study = json.loads((whole_ood / "study.json").read_text())
    assert study["ood"]["sources"]["lung_ct"] == {"images": 1, "skipped": []}
    assert study["recipe"]["ood_steps"] == study["identity"]["ood_steps"] == 2
    assert study["recipe"]["models"] == ["P10_std", "P10_std_rec", "P10_adv_rs_rec"]
    for name in study["recipe"]["models"]:
        assert len(Table.load(whole_ood / "models" / name / "table.csv")) > 100
