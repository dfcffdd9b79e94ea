"""Honest models pass every check, and nothing is left behind."""

import math
import sys
import types

import pytest
import torch
from networks import batch
from networks import two_heads as untrained
from networks.defences import CONTOUR, HONEST, MASK, SMALL

from advreg import J_IND_reg, Threat, diagnose, dice, linf, negate, on, pgd_attack
from advreg.diagnosis._attack_checks import CHECKS

NAMES = [check.__name__ for check in CHECKS]


TINY = {"steps": 10, "queries": 30}


def examined(case, seed=0, **options):
    told = {"objective": case.objective, "threat": case.threat, "seed": seed, "steps": 24, "queries": 150}
    return diagnose(case.model, case.x, case.y, **{**told, **options})


@pytest.mark.parametrize("seed", [10, 11])
@pytest.mark.parametrize("name", HONEST)
def test_honest_models_pass_every_check(name, seed):
    found = examined(HONEST[name](seed), seed, transfer=HONEST[name](21 - seed).model)
    assert found.passed, str(found)
    assert [check.name for check in found.checks] == NAMES
    assert {check.verdict for check in found.checks} == {"pass"}


def test_the_judge_decides_in_whose_terms_damage_counts():
    case = HONEST["two heads, mask"](10)
    judge = negate(on("mask", dice))
    found = examined(case, judge=judge)
    gain = found["noise"].evidence["gain of gradient"]
    best = pgd_attack(case.model, case.x, case.y, objective=MASK, threat=SMALL, steps=24, judge=judge)
    assert gain == pytest.approx(best.gain.double().mean().item(), abs=1e-6)
    assert found.passed, str(found)


def test_nothing_is_left_behind_and_results_repeat():
    model, (x, y) = untrained(), batch(4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    options = {"objective": CONTOUR, "threat": Threat(linf, 0.1), **TINY}
    first = diagnose(model, x, y, **options)
    assert first.to_json() == diagnose(model, x, y, **options).to_json()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    # The cost that the docstring states.
    assert first.setting["forward passes"] <= 11.5 * 10 + 10 + 2 * 30 + 60 + 3 * 20


def test_errors_teach():
    model, (x, y) = untrained(), batch(4)
    with pytest.raises(ValueError, match="finite radius"):
        diagnose(model, x, y, objective=CONTOUR, threat=Threat(linf, math.inf))
    with pytest.raises(ValueError, match="above zero"):
        diagnose(model, x, y, objective=CONTOUR, threat=Threat(linf, 0.0))
    with pytest.raises(ValueError, match="10 steps or more"):
        diagnose(model, x, y, objective=CONTOUR, threat=Threat(linf, 0.1), steps=2)
    with pytest.raises(KeyError, match="no head 'depth'"):
        diagnose(model, x, y, objective=on("depth", J_IND_reg), threat=Threat(linf, 0.1))


def test_progress_needs_tqdm(monkeypatch):
    model, (x, y) = untrained(), batch(2)
    shown, options = [], {"objective": CONTOUR, "threat": Threat(linf, 0.1), **TINY}

    class Bar:
        def __init__(self, total, initial, unit):
            assert (total, initial, unit) == (len(CHECKS), 0, "check")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def set_postfix(self, told, refresh):
            shown.append(told["check"])

        def update(self):
            pass

    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    diagnose(model, x, y, **options, progress=True)
    assert shown == NAMES
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        diagnose(model, x, y, **options, progress=True)
