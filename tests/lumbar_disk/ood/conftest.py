"""Results that were made up, like the paper's."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from advreg.evaluation import Row, Table
from advreg.metrics import rasterise
from lumbar_disk.ood import Tolerance, judge, measure, ood_recipes
from lumbar_disk.ood._recipe import MODELS

PATIENTS, SIZE = 6, 64
DISCS = 5 * PATIENTS
LEVELS = ("L5/S1", "L4/L5", "L3/L4", "L2/L3", "L1/L2")
SOURCES = ("uniform", "lung_ct")
DETECTORS = ("reconstruction", "mahalanobis", "knn")
WITHIN = Tolerance(0.5, 0.98)
SCORES = {"in": 0.04, "none": 0.12, "unaware": 0.03, "aware": 0.02}
PAPERS = {"dice": 0.985, "own": {"P10_std_rec": 0.05, "P10_adv_rs_rec": 0.4}}


def rows(attack, radius, head, metric, values):
    return [
        Row(index, f"p{index // 5}", radius, attack, head, metric, float(value))
        for index, value in enumerate(values)
    ]


def table(
    name,
    change=lambda head, metric, adversary, values: values,
    sources=SOURCES,
    discs=DISCS,
    detectors=DETECTORS,
):
    """A model as the paper found it, changed where a test wants it."""
    rng = np.random.default_rng(len(name))
    rec = name.endswith("_rec")
    found = []

    def add(attack, radius, head, metric, mean, spread):
        values = mean + spread * rng.uniform(-1, 1, discs)
        values = change(head, metric, attack.partition("/")[2] or "in", values)
        found.extend(rows(attack, radius, head, metric, values))

    def scored(attack, radius, kind, names):
        for detector in names:
            add(attack, radius, "detector", detector, SCORES[kind], 0.25 * SCORES[kind])

    if rec:
        scored("in", 0.0, "in", detectors)
    attackers = ("unaware", *(f"aware:{one}" for one in detectors)) if rec else ("reg", "seg")
    for source in sources:
        for adversary in ("none", *attackers):
            attack, radius = f"{source}/{adversary}", 0.0 if adversary == "none" else 20.0
            for head, other in (("contour", "seg"), ("mask", "reg")):
                mean = 0.3 if adversary in ("none", other) else PAPERS["dice"]
                add(attack, radius, head, "dice", mean, 0.01)
            add(attack, radius, "contour", "point_error", 30.0 if adversary in ("none", "seg") else 0.3, 0.25)
            if rec:
                aware = [one for one in detectors if adversary == f"aware:{one}"]
                scored(attack, radius, adversary.partition(":")[0], aware or detectors)
            if adversary == "none":
                add(attack, radius, "nearest disc", "l2", 22.0, 4.0)
            else:
                add(attack, radius, "attack", "step", 300, 50)
                add(attack, radius, "attack", "finished", 0.0, 0.0)
                add(attack, radius, "perturbation", "l2", 12.0, 2.0)
                add(attack, radius, "perturbation", "own", PAPERS["own"].get(name, 0.1), 0.04)
                add(attack, radius, "perturbation", "others", 0.05, 0.04)
    return Table(found)


def examples(name):
    rng = np.random.default_rng(0)
    angle = torch.linspace(0, 2 * torch.pi, 177)[:-1]
    contour = torch.stack([32 + 20 * angle.cos(), 32 + 9 * angle.sin()], dim=-1).expand(3, -1, -1)
    mask = rasterise(contour, (SIZE, SIZE))[:, None].float()
    x_in = (0.3 + 0.4 * mask + 0.1 * torch.from_numpy(rng.random(mask.shape))).float().numpy()
    lung = np.full((3, 1, SIZE, SIZE), 0.1, np.float32)
    lung[..., 10:50, 8:28] = lung[..., 10:50, 36:56] = 0.7
    arrays = {
        "source": "lung_ct",
        "patients": np.array(["p0"] * 3),
        "levels": np.array(LEVELS[:3]),
        "x_in": x_in,
        "contour_in": contour.numpy(),
        "mask_in": (mask - 0.5).numpy(),
        "x_none": lung,
        "contour_none": contour.numpy() * 0.5 + 10,
        "mask_none": (np.roll(mask.numpy(), 12, 2) - 0.5).astype(np.float32),
    }
    for attack in ("unaware", "aware_reconstruction") if name.endswith("_rec") else ("reg", "seg"):
        noise = rng.normal(size=lung.shape) * 0.15 + (0.3 * mask.numpy() if "adv" in name else 0)
        arrays[f"x_{attack}"] = np.clip(lung + noise, 0, 1).astype(np.float32)
        arrays[f"contour_{attack}"] = (contour + (9.0 if attack == "seg" else 0.3)).numpy()
        arrays[f"mask_{attack}"] = (mask - (1.5 if attack == "reg" else 0.5)).numpy()
        if name.endswith("_rec"):
            arrays[f"reconstruction_{attack}"] = arrays["reconstruction_in"] = x_in
    return arrays


def make(folder, manifest, names=MODELS):
    """Write results as the study does."""
    training, attacks = ood_recipes("small")
    counts = {"lung_ct": {"images": 1, "skipped": ["scan <7>.dcm: no pixels | broken"]}}
    about = {
        "command": "lumbar-disk ood --ood <images> --out results/ood",
        "environment": {"python": "3.11", "advreg": "0.1.0", "torch": "2.6.0", "device": "CPU", "threads": 2},
        "recipe": asdict(training) | asdict(replace(attacks, contour_within=0.5, mask_within=0.98)),
        "data": manifest,
        "patients": {"train": 48, "test": PATIENTS},
        "discs": {"train": 240, "test": DISCS},
        "wall_seconds": None,
        "ood": {"sources": {"uniform": {"images": DISCS, "skipped": []}} | counts},
    }
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(about))
    for name in names:
        model = folder / "models" / name
        table(name).save(model / "table.csv")
        np.savez_compressed(model / "examples.npz", **examples(name))
        known = {"name": name, "steps": 1000, "parameters": 123456, "warm_start": None}
        (model / "model.json").write_text(
            json.dumps(known | {"seconds_training": 100.0, "seconds_evaluation": 20.0})
        )
    return folder


def small(name, *change, **options):
    """What the claims need of a model."""
    return table(name, *change, sources=["lung_ct"], detectors=DETECTORS[:1], **options)


def claims_of(tables, sources=("lung_ct",)):
    return judge(measure(tables, sources, WITHIN, radius=20.0, resamples=500))


@pytest.fixture(scope="session")
def made_up(manifest):
    """The ways to make results up: tables and examples of a model, what claims need of it, and a folder."""
    return SimpleNamespace(
        small=small,
        examples=examples,
        claims=claims_of,
        within=WITHIN,
        folder=lambda folder, names=MODELS: make(folder, manifest, names),
    )


@pytest.fixture(scope="session")
def tables():
    return {name: small(name) for name in MODELS}
