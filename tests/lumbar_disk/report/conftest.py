"""Results that were made up: the published means plus chance, and drawn discs."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from advreg.evaluation import Row, Table
from advreg.metrics import rasterise
from lumbar_disk.report import PAPER_RADII, published
from lumbar_disk.study import MEASURES, small_recipe

PATIENTS, SIZE = 6, 64


def make(folder, manifest, names, worse):
    """Write results as the study does: the published means, spread over patients and discs.

    With `worse`, what `auto_attack` found too: so much worse under attack, in pixels a hundred times that.
    """
    about = {
        "command": "lumbar-disk study --size small --out results/<small>",
        "environment": {"python": "3.11", "advreg": "0.1.0", "torch": "2.6.0", "device": "CPU", "threads": 2},
        "recipe": asdict(small_recipe()),
        "data": manifest,
        "patients": {"train": 48, "test": PATIENTS},
        "discs": {"train": 240, "test": 5 * PATIENTS},
        "wall_seconds": None,
    }
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(about))
    for place, name in enumerate(names):
        model = folder / "models" / name
        rng = np.random.default_rng(place)
        evaluated(name, rng, worse).save(model / "table.csv")
        np.savez_compressed(model / "examples.npz", **examples(name, rng))
        start = None if name.endswith("std") else name.split("_", maxsplit=1)[0] + "_std"
        known = {"name": name, "steps": 1000, "parameters": 123456, "warm_start": start}
        seconds = {"seconds_training": 100.0 + place, "seconds_evaluation": 20.0}
        (model / "model.json").write_text(json.dumps(known | seconds))
    return folder


def evaluated(name, rng, worse):
    rows = []
    for measure, one in MEASURES.items():
        patients, discs = rng.normal(size=PATIENTS), rng.normal(size=5 * PATIENTS)
        for radius in PAPER_RADII:
            mean = published(measure, name, radius)
            spread = 0.2 * mean * SIZE / 128 if one.unit else 0.2 * mean * (1 - mean)
            for index in range(5 * PATIENTS):
                value = mean * (SIZE / 128 if one.unit else 1)
                value += spread * (patients[index // 5] + discs[index])
                group = f"p{index // 5}"
                rows.append(Row(index, group, radius, one.head, one.head, one.metric, float(value)))
                if worse is not None:
                    apart = (100 * worse if one.unit else -worse) * (radius > 0)
                    rows.append(rows[-1]._replace(attack=f"auto {measure}", value=float(value + apart)))
    return Table(rows)


def examples(name, rng):
    angle = torch.linspace(0, 2 * torch.pi, 177)[:-1]
    contour = torch.stack([32 + 20 * angle.cos(), 32 + 9 * angle.sin()], dim=-1).expand(2, -1, -1)
    masks = rasterise(contour, (SIZE, SIZE))[:, None].float()
    images = (0.3 + 0.4 * masks + 0.1 * torch.from_numpy(rng.random(masks.shape))).float()
    arrays = {
        "places": np.array([7, 22]),
        "patients": np.array(["p1", "p4"]),
        "levels": np.array(["L3/L4", "L3/L4"]),
        "radii": np.array(PAPER_RADII),
        "images": images.numpy(),
        "contours": contour.numpy(),
        "masks": masks.numpy(),
    }
    radii = torch.tensor(PAPER_RADII).reshape(-1, 1, 1, 1)
    for head in ("contour", "mask"):
        noise = torch.from_numpy(rng.choice([-1.0, 1.0], size=(len(PAPER_RADII), 2, 1, SIZE, SIZE))).float()
        arrays[f"x_{head}"] = (images + radii[..., None] * noise).clamp(0, 1).numpy()
        found = contour + (0 if "adv" in name else 100) * radii * torch.tensor([1.0, -0.5])
        arrays[f"contour_{head}"] = found.numpy()
        faded = torch.tensor([2 * published("mask_dice", name, radius) - 0.5 for radius in PAPER_RADII])
        arrays[f"mask_{head}"] = (masks * faded.reshape(-1, 1, 1, 1, 1) - 0.2).numpy()
    return arrays


@pytest.fixture(scope="session")
def make_study(manifest):
    """Write a folder of results for the models named."""
    return lambda folder, names, worse=None: make(folder, manifest, names, worse)
