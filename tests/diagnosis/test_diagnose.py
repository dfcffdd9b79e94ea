"""Broken defences are found out by the checks that fit them; honest models pass every check."""

import json
import math
import sys
import types
import warnings

import pytest
import torch
from networks import batch
from networks import two_heads as untrained
from networks.defences import BROKEN, CONTOUR, HONEST, MASK, SMALL, Noisy, discs, two_heads
from torch import nn

from advreg import J_IND_reg, Threat, diagnose, dice, linf, negate, on, pgd_attack
from advreg.diagnosis import Check, Diagnosis, dead_end
from advreg.diagnosis._attack_checks import CHECKS
from advreg.execution import expectation

NAMES = [check.__name__ for check in CHECKS]
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


@pytest.mark.parametrize("seed", [10, 11])
@pytest.mark.parametrize("name", HONEST)
def test_honest_models_pass_every_check(name, seed):
    found = examined(HONEST[name](seed), seed, transfer=HONEST[name](seed + 1).model)
    assert found.passed, str(found)
    assert [check.name for check in found.checks] == NAMES
    assert {check.verdict for check in found.checks} == {"pass"}


def test_the_other_head_of_a_detached_one_is_honest():
    case = BROKEN["detached head"](0)
    assert examined(case._replace(objective=MASK)).passed


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


def test_gradients_that_are_not_finite():
    x, y = torch.rand(4, 3), torch.zeros(4, 3)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def root(output, target):
        return (output - output.detach()).sqrt().sum(1) + output.sum(1)

    found = diagnose(model, x, y, objective=root, threat=Threat(linf, 0.1), **TINY)
    assert found["gradients"].verdict == "flag"
    assert "not finite" in found["gradients"].message
    assert "and the objective" in found["gradients"].message


def test_where_the_gradient_dies():
    x, y = torch.rand(4, 3), torch.zeros(4, 3)
    layers = [nn.Linear(3, 3), nn.Tanh(), nn.Threshold(9.0, 0.0), nn.Linear(3, 3)]
    model = nn.Sequential(*layers)
    assert dead_end(model, x, y, J_IND_reg) == "in 2 (Threshold)"
    assert dead_end(model.forward, x, y, J_IND_reg) == "between the input and the objective"
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(RuntimeError):
        dead_end(model, x[:, :2], y, J_IND_reg)
    assert not any(m._forward_hooks for m in model.modules())


def test_the_judge_decides_in_whose_terms_damage_counts():
    case = HONEST["two heads, mask"](3)
    judge = negate(on("mask", dice))
    found = examined(case, judge=judge)
    gain = found["noise"].evidence["gain of gradient"]
    best = pgd_attack(case.model, case.x, case.y, objective=MASK, threat=SMALL, steps=24, judge=judge)
    assert gain == pytest.approx(best.gain.double().mean().item(), abs=1e-6)
    assert found.passed, str(found)


def test_without_bounds_and_under_a_mask():
    x, contour, mask = discs(8, 5)
    y = {"contour": contour, "mask": mask}
    model = two_heads(0)
    options = {"objective": CONTOUR, "steps": 20, "queries": 60}
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
    assert first.setting["forward passes"] <= 11.5 * 10 + 10 + 2 * 30 + 60


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


EXAMPLE = Diagnosis(
    (
        Check("mode", "pass", {"layers in train mode": 0.0}, "fine"),
        Check("steps", "flag", {"steps": [0.0, 1.0, 10.0], "gain": [0.1, 0.4, 0.3]}, "long " * 40, "do this"),
        Check("radius", "pass", {"radius": [0.5, 1.0], "gain": [0.1, 0.3]}, "rises"),
        Check("noise", "pass", {"gain of gradient": 0.3, "gain of noise": 0.1}, "less", ""),
        Check("gradient_free", "pass", {"gain of square": 0.4, "missed": math.inf}, "more", ""),
        Check("transfer", "skipped", {}, "no other model was given"),
    ),
    {"examples": 4, "radius": 0.1},
)


def test_the_report_says_what_was_seen_and_what_to_do():
    text = str(EXAMPLE)
    assert text.startswith("examples 4, radius 0.1: 1 of 6 checks flagged\n")
    assert "FLAG     steps            long" in text
    assert "-> do this" in text
    assert max(map(len, text.splitlines())) <= 100
    assert EXAMPLE.flagged == ("steps",)
    with pytest.raises(KeyError, match="there are mode, steps"):
        EXAMPLE["depth"]


def test_json_holds_everything(tmp_path):
    path = EXAMPLE.save(tmp_path / "new" / "diagnosis.json")
    assert [p.name for p in path.parent.iterdir()] == ["diagnosis.json"]
    read = json.loads(path.read_text())
    assert read["passed"] is False
    assert [check["name"] for check in read["checks"]] == [check.name for check in EXAMPLE.checks]
    assert read["checks"][1]["evidence"]["gain"] == [0.1, 0.4, 0.3]
    assert read["checks"][4]["evidence"]["missed"] == "inf"


def test_the_figure_shows_curves_and_bars(tmp_path):
    steps, radius, bars = EXAMPLE.plot()
    assert list(steps.lines[0].get_ydata()) == [0.1, 0.4, 0.3]
    assert list(radius.lines[0].get_ydata()) == [0.1, 0.3]
    assert [round(bar.get_width(), 2) for bar in bars.patches] == [0.4, 0.1, 0.3]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["square", "noise", "gradient"]
    EXAMPLE.plot(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    EXAMPLE.plot((steps, radius, bars))
    Diagnosis(EXAMPLE.checks[:1]).plot()
    with pytest.raises(ValueError, match="three axes"):
        EXAMPLE.plot((steps,))


def test_progress_needs_tqdm(monkeypatch):
    model, (x, y) = untrained(), batch(2)
    shown, options = [], {"objective": CONTOUR, "threat": Threat(linf, 0.1), **TINY}

    class Bar:
        def __init__(self, total, unit):
            assert (total, unit) == (len(CHECKS), "check")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def set_postfix(self, check, refresh):
            shown.append(check)

        def update(self):
            pass

    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))
    diagnose(model, x, y, **options, progress=True)
    assert shown == NAMES
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="pip install tqdm"):
        diagnose(model, x, y, **options, progress=True)


def test_a_noise_layer_in_one_head_shows():
    case = HONEST["two heads, contour"](0)
    found = examined(case._replace(model=Noisy(case.model, size=1e-2)), **TINY)
    assert found["determinism"].verdict == "flag"
