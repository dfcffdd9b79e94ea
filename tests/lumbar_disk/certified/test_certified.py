"""Certificates of the study: found beside guaranteed, disc by disc, and the page that shows both."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from advreg.evaluation import Table
from lumbar_disk.certified import (
    CertifiedRecipe,
    Trial,
    is_certified,
    spread,
    write_report,
)
from lumbar_disk.cli import app
from lumbar_disk.data import crops, phantoms
from lumbar_disk.network import untrained
from lumbar_disk.study import StudyRecipe, edited, sigma_of

MODELS = ("P10_std", "P10_noise_0.25")
RADII = (0.1, 0.9)  # the second beyond the reach of so few samples
FILES = {"report.html", "report.md", "bounds.csv", "figure1.png", "figure2.png"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny):
    """The folder of a tiny run of two models, with its report."""
    out = tmp_path_factory.mktemp("certified") / "out"
    models = [f"--models={name}" for name in MODELS]
    found = CliRunner().invoke(app, ["certify", *tiny, *models, "--set=cert_radii=0.1,0.9", f"--out={out}"])
    assert found.exit_code == 0, found.output
    return out


def test_each_disc_is_found_and_guaranteed_at_each_radius(whole):
    for name in MODELS:
        table = Table.load(whole / "models" / name / "table.csv")
        for head, metric, attack, sign in (
            ("mask", "dice", "auto mask_dice", 1),
            ("contour", "point_error", "auto point_error", -1),
        ):
            rows = table.where(head=head, metric=metric)
            assert {row.radius for row in rows} == {0.0, *RADII}
            for radius in RADII:
                found = rows.where(radius=radius, attack=attack, bound="found")
                held = rows.where(radius=radius, attack="smoothing", bound="guaranteed")
                assert [row.index for row in found] == [row.index for row in held]
                assert (sign * (found.values() - held.values()) >= 0).all()
            critical = table.where(head=head, attack="critical radius")
            low, high = (critical.where(bound=bound).values() for bound in ("guaranteed", "found"))
            assert len(low) == len(found)
            assert (low <= high).all()
        assert not (whole / "models" / name / "journal").exists()


def test_the_page_says_what_the_table_says(whole, page_of):
    assert is_certified(whole)
    page = page_of(whole / "report")
    assert not page.open
    assert {path.name for path in (whole / "report").iterdir()} == FILES
    text = (whole / "report" / "report.md").read_text()
    tables = [Table.load(whole / "models" / name / "table.csv") for name in MODELS]
    held = [row for table in tables for row in table.where(attack="smoothing") if row.radius]
    says = sum(0 < row.value < math.inf for row in held)  # beyond the reach of the noise nothing is compared
    assert 0 < says < len(held)
    assert f"**0 of {says}** comparisons" in text
    assert "{" not in text.split("## Run times")[0]
    table = Table.load(whole / "models" / "P10_std" / "table.csv")
    with (whole / "report" / "bounds.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "P10_std"]
    for row in rows:
        head, metric = ("mask", "dice") if "Dice" in row["measure"] else ("contour", "point_error")
        some = table.where(head=head, metric=metric, radius=float(row["radius"]), bound="guaranteed")
        whole_bound = ((some.values() > 0) & (some.values() < math.inf)).all()
        assert float(row["guaranteed"]) == pytest.approx(some.values().mean() if whole_bound else math.inf)
        assert row["violations"] == "0"
    for tag, found in page.attributes:
        assert tag != "img" or found["alt"]


def test_the_command_report_knows_which_page_a_folder_needs(whole):
    (whole / "report" / "figure1.png").unlink()
    found = CliRunner().invoke(app, ["report", str(whole)])
    assert found.exit_code == 0, found.output
    assert {path.name for path in (whole / "report").iterdir()} == FILES


def test_a_page_of_no_model_says_so_and_another_study_is_refused(whole, tmp_path):
    about = json.loads((whole / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(about))
    assert {path.name for path in write_report(tmp_path)} == FILES - {"figure1.png", "figure2.png"}
    assert "Not drawn" in (tmp_path / "report" / "report.md").read_text()
    del about["certified"]
    (tmp_path / "study.json").write_text(json.dumps(about))
    assert not is_certified(tmp_path)
    with pytest.raises(ValueError, match="expected a study of certificates; make one with `lumbar-disk cert"):
        write_report(tmp_path)


@pytest.fixture(scope="module")
def trial():
    discs = spread(crops(phantoms(2, seed=3), size=64), 1)
    recipe = CertifiedRecipe(
        (0.2,), cert_samples=30, cert_draws=2, cert_passes=3, cert_critical=4, cert_judged=5, cert_dice=0.05
    )
    return Trial(untrained(2, 64, 0).eval(), 0.25, discs, recipe, 0)


def test_critical_radii_that_are_finished_are_not_made_again(trial, tmp_path):
    first = trial.critical(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 2
    assert trial.critical(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    next(iter(files)).unlink()
    np.testing.assert_array_equal(trial.critical(tmp_path).values(), first.values())


def test_discs_are_taken_from_everywhere_in_a_patients_list():
    discs = crops(phantoms(2, seed=3), size=64)
    own = [place for place, patient in enumerate(discs.patients) if patient == discs.patients[0]]
    assert len(own) > 2
    one = spread(discs, 1)
    assert len(one) == 2
    assert torch.equal(one.images[0], discs.images[own[len(own) // 2]])
    assert len(spread(discs, 100)) == len(discs)


def test_models_under_noise_have_a_sigma_and_as_many_steps_as_the_first():
    recipe = StudyRecipe(models=("P3_noise_0.5",), std_epochs=7, epochs=2, batches=3)
    assert sigma_of("P3_noise_0.5") == 0.5
    assert sigma_of("P3_adv_rs_rec") is None
    assert recipe.steps("P3_noise_0.5") == 21
    assert recipe.steps("P3_rand") == 6
    with pytest.raises(ValueError, match="no such model: P3_noise_7"):
        StudyRecipe(models=("P3_noise_7",))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cert_samples=0", "cert_samples must be at least 1; got 0"),
        ("cert_radii=0.5,0.2", "cert_radii must be numbers above 0 that rise"),
        ("cert_radii=0,0.2", "cert_radii must be numbers above 0 that rise"),
        ("cert_confidence=1", r"cert_confidence must lie between 0 and 1; got 1\.0"),
        ("cert_error=-1", r"cert_error must be a positive number; got -1\.0"),
    ],
)
def test_a_recipe_that_could_only_fail_later_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        edited(CertifiedRecipe(), [setting])
