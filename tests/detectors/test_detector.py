"""What every detector keeps to, and the attack that knows of one."""

import pytest
import torch
from networks import notes
from networks.watched import KINDS, images, net, spoilt

from advreg import Adamax, J_IND_reg, J_OOD_reg, Threat, l2, negate, on, ood_attack, pgd_attack
from advreg.detectors import (
    DisagreementDetector,
    ReconstructionDetector,
    aware,
    lower_score,
    score_of,
    scores,
)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def test_the_gradient_is_that_of_finite_differences(kind):
    detector = kind(net())
    assert torch.autograd.gradcheck(detector.score, images(2, seed=3).requires_grad_())


def test_the_model_is_as_it_was(kind):
    model = net()
    model.encoder.train()  # a mode of its own
    model.contour.weight.grad = torch.ones_like(model.contour.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    x = images(3).requires_grad_()
    kind(model).score(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in model.parameters())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["contour.weight"]
    assert (model.contour.weight.grad == 1).all()
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["mahalanobis", "neighbour", "dropout"])
def test_no_hook_stays_when_the_model_raises(name):
    model = net().train()
    detector = KINDS[name](model)
    model.train()
    with pytest.raises(RuntimeError):
        detector.score(torch.zeros(2, 3, 6, 6, dtype=torch.float64))
    assert not any(m._forward_hooks for m in model.modules())
    assert all(m.training for m in model.modules())


def test_the_aware_attack_evades_the_detector_and_still_fools_the_model():
    model = net(torch.float32)
    detector = ReconstructionDetector(model)
    x_in, x_out = images(4, dtype=torch.float32), torch.eye(6).expand(4, 1, 6, 6)
    objective = on("contour", J_OOD_reg)
    options = {"threat": Threat(l2, 3.0), "rule": Adamax(0.05), "steps": 60, "keep": "last"}
    unaware = ood_attack(model, x_in, x_out, objective=objective, **options)
    knowing = ood_attack(
        aware(model, detector), x_in, x_out, objective=lower_score(objective, weight=2.0), **options
    )
    with torch.no_grad():
        wanted = model(x_in)
        apart, before, after = (-objective(model(x), wanted) for x in (x_out, unaware.x, knowing.x))
    assert (before < 0.2 * apart).all()
    assert (after < 0.2 * apart).all()
    assert (detector.score(knowing.x) < 0.6 * detector.score(unaware.x)).all()


def test_aware_gives_output_and_score_in_one_pass_of_what_is_read(kind):
    model = net()
    detector, x = kind(model), images(3)
    both = aware(model, detector)
    expected, score = model(x), detector.score(x)
    torch.testing.assert_close(both(x), {"output": expected, "score": score})
    notes(model).clear()
    both(x)
    assert model.runs == (1 if hasattr(detector, "with_output") else 4 if callable(detector.models) else 2)
    notes(model).clear()
    clean = {"threat": Threat(l2, 0.1), "steps": 0, "random_start": False}
    pgd_attack(both, x, {"output": expected}, objective=on("output", on("contour", J_IND_reg)), **clean)
    assert model.runs == 4  # at the clean inputs, twice at one alone, at the start: never by the detector


def test_an_attack_on_an_aware_model_guards_every_module_behind_it():
    model, other = net(), net(seed=1)
    other.train()
    detector = DisagreementDetector([model, other], on("contour", J_IND_reg))
    guarded = {id(m) for m in aware(model, detector).modules()}
    assert {id(m) for m in (*model.modules(), *other.modules())} <= guarded
    assert other.training
    assert not model.training


def test_a_score_without_a_gradient_is_no_aware_attack():
    class Blind:
        def score(self, x):
            return x.detach().flatten(1).mean(1)

    both, x = aware(net(), Blind()), images(2)
    assert both(x)["score"].shape == (2,)
    with pytest.raises(ValueError, match="score of the Blind has no gradient"):
        ood_attack(
            both, x, x, objective=lower_score(on("contour", J_OOD_reg)), threat=Threat(l2, 1.0), steps=1
        )


def test_lower_score_is_the_objective_less_the_weighted_score():
    output, target = torch.ones(2, 3), torch.zeros(2, 3)
    given = {"output": output, "score": torch.tensor([1.0, 2.0])}
    wanted = {"output": target, "score": torch.zeros(2)}
    torch.testing.assert_close(lower_score(J_OOD_reg, 0.5)(given, wanted), torch.tensor([-3.5, -4.0]))
    assert negate(on("score", score_of))(given, wanted).tolist() == [-1.0, -2.0]


def test_scores_are_those_of_the_batches_in_order():
    detector, x = ReconstructionDetector(net()), images(5)
    found = scores(detector, [(x[:3], "target"), x[3:]])
    torch.testing.assert_close(found, detector.score(x).detach())
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ReconstructionDetector(net()).score(spoilt(torch.nan)), "head 'reconstruction'.*example 4"),
        (lambda: ReconstructionDetector(net(), norm="linf"), "'l1' or 'l2'; got 'linf'"),
        (lambda: ReconstructionDetector(net(), head="contour").score(images(2)), "same shape"),
        (
            lambda: ReconstructionDetector(lambda x: {"a": x}).score(images(2)),
            r"no head 'reconstruction'.*'a'",
        ),
        (lambda: scores(ReconstructionDetector(net()), []), "batches must hold inputs; got none"),
        (lambda: lower_score(J_OOD_reg, -1.0), "weight must be 0 or more.*got -1.0"),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        call()
