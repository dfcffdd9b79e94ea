"""Broken defences are found out by the checks that fit them."""

import pytest
import torch
from networks.defences import BROKEN, CONTOUR, MASK, discs, two_heads
from torch import nn

from advreg import Threat, diagnose, linf

# At least these; other checks may flag as well.
FITTING = {
    "rounded input": {"gradients", "steps", "gradient_free", "noise"},
    "saturated sigmoid": {"gradients", "gradient_free", "noise"},
    "random noise": {"determinism"},
    "median filter": {"gradients", "steps", "radius", "unbounded", "gradient_free", "noise"},
    "misleading gradient": {"gradients", "gradient_free", "unbounded"},
    "detached head": {"gradients", "steps", "radius", "unbounded", "gradient_free", "noise"},
}


PLACES = {
    "rounded input": "between the input and model.encoder.0 (Conv2d)",
    "median filter": "in 0 (Median)",
    "detached head": "mask (Conv2d) being the last, and the objective",
}


TINY = {"steps": 10, "queries": 30}


def examined(case, seed=0, **options):
    told = {"objective": case.objective, "threat": case.threat, "seed": seed, "steps": 24, "queries": 150}
    return diagnose(case.model, case.x, case.y, **{**told, **options})


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_defences_are_flagged_by_the_checks_that_fit(name, seed):
    case = BROKEN[name](seed)
    found = examined(case, seed, transfer=two_heads(seed))
    assert set(found.flagged) >= FITTING[name], str(found)
    assert not found.passed
    assert PLACES.get(name, "") in found["gradients"].message
    if "gradient_free" in FITTING[name]:
        assert found["transfer"].verdict == "flag"
    assert all(check.remedy for check in found.checks if check.verdict == "flag")


def test_the_other_head_of_a_detached_one_is_honest():
    case = BROKEN["detached head"](0)
    assert examined(case._replace(objective=MASK)).passed


def test_gradients_that_are_not_finite():
    x, y = torch.rand(4, 3), torch.zeros(4, 3)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def root(output, target):
        return (output - output.detach()).sqrt().sum(1) + output.sum(1)

    found = diagnose(model, x, y, objective=root, threat=Threat(linf, 0.1), **TINY)
    assert found["gradients"].verdict == "flag"
    assert "not finite" in found["gradients"].message
    assert "and the objective" in found["gradients"].message


def test_without_bounds_and_under_a_mask():
    x, contour, mask = discs(8, 5)
    y = {"contour": contour, "mask": mask}
    model = two_heads(0)
    options = {"objective": CONTOUR, **TINY}
    found = diagnose(model, x, y, threat=Threat(linf, 0.08, bounds=None), **options)
    assert found["unbounded"].verdict == "pass", str(found)
    half = torch.zeros(16, 16, dtype=torch.bool)
    half[4:12] = True
    masked = diagnose(model, x, y, threat=Threat(linf, 0.08, mask=half), **options)
    assert masked["gradients"].verdict == masked["unbounded"].verdict == "pass", str(masked)
    alone = diagnose(
        model, x[:1], {k: v[:1] for k, v in y.items()}, threat=Threat(linf, 0.08, bounds=None), **options
    )
    assert alone["unbounded"].verdict == "skipped"
