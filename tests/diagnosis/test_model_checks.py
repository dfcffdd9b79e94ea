"""Checks of the model: modes and determinism."""

import torch
from networks.defences import HONEST, Noisy
from torch import nn

from advreg import J_IND_reg, Threat, diagnose, linf

TINY = {"steps": 10, "queries": 30}


def examined(case, seed=0, **options):
    told = {"objective": case.objective, "threat": case.threat, "seed": seed, "steps": 24, "queries": 150}
    return diagnose(case.model, case.x, case.y, **{**told, **options})


def test_train_mode():
    case = HONEST["segmenter, L2"](0)
    case.model.train()
    try:
        found = examined(case, **TINY)
    finally:
        case.model.eval()
    assert found.flagged == ("mode",)
    assert "down.1 (BatchNorm2d)" in found["mode"].message
    assert {check.verdict for check in found.checks[1:]} == {"skipped"}
    x, y = torch.rand(4, 3), torch.zeros(4, 2)
    options = {"objective": J_IND_reg, "threat": Threat(linf, 0.1), **TINY}
    dropping = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    assert {"mode", "determinism"} <= set(diagnose(dropping, x, y, **options).flagged)
    assert dropping.training
    assert diagnose(nn.Linear(3, 2), x, y, **options)["mode"].verdict == "pass"  # nothing in it minds


def test_a_noise_layer_in_one_head_shows():
    case = HONEST["two heads, contour"](0)
    found = examined(case._replace(model=Noisy(case.model, size=1e-2)), **TINY)
    assert found["determinism"].verdict == "flag"
