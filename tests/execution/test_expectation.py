"""The expectation of a random model is a function like any other."""

import warnings

import pytest
import torch
from networks.defences import BROKEN, MASK, SMALL
from torch import nn

from advreg import diagnose, pgd_attack
from advreg.execution import expectation

TINY = {"steps": 10, "queries": 30}


def examined(case, seed=0, **options):
    told = {"objective": case.objective, "threat": case.threat, "seed": seed, "steps": 24, "queries": 150}
    return diagnose(case.model, case.x, case.y, **{**told, **options})


def test_the_expectation_of_a_random_model_is_deterministic_and_its_diagnosis_says_so():
    case = BROKEN["random noise"](0)
    steady = expectation(case.model, 4)
    state = torch.get_rng_state()
    first, second = steady(case.x), steady(case.x)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["mask"], expectation(case.model, 4, seed=1)(case.x)["mask"])
    with torch.random.fork_rng(), torch.no_grad():
        draws = []
        for draw in range(4):
            torch.manual_seed(draw)
            draws.append(case.model(case.x)["mask"])
    torch.testing.assert_close(first["mask"], torch.stack(draws).mean(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pgd_attack(steady, case.x, case.y, objective=MASK, threat=SMALL, steps=2)
    assert (found.gain > 0).all()
    assert examined(case._replace(model=steady), **TINY)["determinism"].verdict == "pass"


def test_the_mean_over_draws_keeps_what_it_cannot_average():
    outputs = expectation(lambda x: (x + torch.rand(1), x.long(), "name"), 3)(torch.ones(2, 1))
    assert outputs[1].dtype == torch.int64
    assert outputs[2] == "name"
    inner = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).eval()
    assert expectation(inner.train(), 2).eval().model[1].training  # its mode is the caller's business
    with pytest.raises(ValueError, match="draws of 1 or more"):
        expectation(inner, 0)
