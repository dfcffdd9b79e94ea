"""The loop of every attack: what is kept when a judge decides, and objectives of several heads or forms."""

import math

import pytest
import torch
from networks import TwoHeads, batch, notes, two_heads

from advreg import (
    Execution,
    J_IND_reg,
    J_IND_seg,
    Keys,
    Steepest,
    Threat,
    dice,
    l2,
    linf,
    negate,
    on,
    pgd_attack,
    point_error,
    weighted,
)
from advreg.attacks import ascend, last_iterate, value_and_gradient
from advreg.execution import Batch
from advreg.objectives import SegPGD, SharpenedDice, Within, cross_entropy, normalised, worst_head
from advreg.rules import Adaptive, Momentum, Shrinking

REG, SEG = on("contour", J_IND_reg), on("mask", J_IND_seg)


HARD = negate(on("mask", dice))


POINTS = on("contour", point_error)


THREAT = Threat(linf, 0.1)


DOUBLE = {"dtype": torch.float64}


OPTIONS = {"objective": SEG, "threat": THREAT, "rule": Steepest(0.7), "steps": 9}


class Counting(TwoHeads):
    """Counts its forward passes, and runs the heads that it is asked for."""

    def __init__(self):
        super().__init__()
        self.load_state_dict(two_heads().state_dict())

    @property
    def passes(self):
        return len(notes(self))

    @property
    def asked(self):
        return set(notes(self))

    def forward(self, x, heads=("contour", "mask")):
        notes(self).append(tuple(heads))
        return {key: value for key, value in super().forward(x).items() if key in heads}


def replay(model, x, y, objective, rule, steps, *, seed=0, restart=0, random_start=True, **options):
    """The points of one run, `(steps + 1, B, *input)`, by the engine alone."""
    start = THREAT.sample(x, Keys(seed, torch.arange(len(x))).fold_in(restart)) if random_start else None
    shape = {"threat": THREAT, "rule": rule, "start": start, "steps": steps, **options}
    run = ascend(value_and_gradient(lambda point: objective(model(point), y)), x, **shape)
    return torch.stack([iterate.x for iterate in run])


def judged(model, points, y, judge):
    with torch.no_grad():
        return torch.stack([judge(model(point), y) for point in points])


@pytest.mark.parametrize("judge", [HARD, POINTS, negate(POINTS)], ids=["dice", "points", "fewer points"])
@pytest.mark.parametrize(
    ("rule", "schedule"), [(Steepest(0.7), None), (Momentum(0.4), Shrinking()), (Adaptive(), Shrinking())]
)
def test_the_worst_in_the_judges_terms_is_kept(judge, rule, schedule):
    model, (x, y) = two_heads(), batch(6)
    points = replay(model, x, y, SEG, rule, 9, schedule=schedule)
    shares = [step / 9 for step in range(10)]
    inside = torch.tensor([schedule is None or schedule(share) == 1 for share in shares])
    assert THREAT.contains(points[-1], x).all()
    values = judged(model, points, y, judge).masked_fill(~inside[:, None], -math.inf)
    clean = judge(model(x), y).detach()
    best, step = values.max(0)
    found = pgd_attack(
        model, x, y, objective=SEG, threat=THREAT, rule=rule, steps=9, schedule=schedule, judge=judge
    )
    kept = best > clean
    assert torch.equal(found.value, torch.maximum(best, clean))
    assert torch.equal(found.gain, found.value - clean)
    assert (found.gain >= 0).all()
    assert torch.equal(found.step, torch.where(kept, step, -1))
    expected = torch.where(kept[:, None, None, None], points[step, torch.arange(6)], x)
    assert torch.equal(found.x, expected)
    torch.testing.assert_close(judge(model(found.x), y).detach(), found.value)


def test_the_judge_and_the_objective_would_have_chosen_otherwise():
    model, (x, y) = two_heads(), batch(6)
    plain = pgd_attack(model, x, y, **OPTIONS)
    for judge in (HARD, POINTS):
        found = pgd_attack(model, x, y, judge=judge, **OPTIONS)
        assert not torch.equal(found.x, plain.x)
        assert (found.value >= judge(model(plain.x), y)).all()
        assert (SEG(model(found.x), y) <= plain.value + 1e-6).all()


def test_keeping_the_last_point_the_judge_only_says_how_bad_it_is():
    model, (x, y) = two_heads(), batch(5)
    plain, found = (pgd_attack(model, x, y, judge=j, keep="last", **OPTIONS) for j in (None, HARD))
    assert torch.equal(found.x, plain.x)
    assert (found.step == 9).all()
    with torch.no_grad():
        value, clean = HARD(model(found.x), y), HARD(model(x), y)
    assert torch.equal(found.value, value)
    assert torch.equal(found.gain, value - clean)


def test_of_restarts_the_judges_best_is_kept():
    model, (x, y) = two_heads(), batch(6)
    points = torch.cat([replay(model, x, y, SEG, Steepest(0.7), 9, seed=4, restart=n) for n in range(3)])
    values = judged(model, points, y, POINTS)
    found = pgd_attack(model, x, y, judge=POINTS, restarts=3, seed=4, **OPTIONS)
    best, place = values.max(0)
    clean = POINTS(model(x), y).detach()
    kept = best > clean
    assert len(set((place // 10)[kept].tolist())) > 1  # more than one run had something to give
    assert torch.equal(found.value, torch.maximum(best, clean))
    assert torch.equal(found.x[kept], points[place, torch.arange(6)][kept])
    assert torch.equal(found.step, torch.where(kept, place % 10, -1))


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("stop", [None, Within(HARD, low=0.5)])
def test_a_judge_costs_no_pass_of_its_own(random_start, stop):
    x, y = batch(3)
    counts = []
    for judge in (None, HARD, POINTS):
        model = Counting().eval()
        pgd_attack(model, x, y, judge=judge, stop=stop, random_start=random_start, **OPTIONS)
        counts.append(model.passes)
    assert counts == [3 + 10] * 3  # at the clean inputs, at one of them alone, twice, and at ten points


def test_the_heads_of_objective_judge_and_stop_rule_are_run():
    x, y = batch(3)
    never = Within(on("contour", point_error), low=math.inf)
    for judge, stop, heads in (
        (None, None, ("mask",)),
        (HARD, None, ("mask",)),
        (POINTS, None, ("contour", "mask")),
        (HARD, never, ("contour", "mask")),
    ):
        model = Counting().eval()
        found = pgd_attack(model, x, y, judge=judge, stop=stop, **OPTIONS)
        assert model.asked == {heads}
        assert torch.equal(found.x, pgd_attack(two_heads(), x, y, judge=judge, stop=stop, **OPTIONS).x)


def test_a_judge_needs_no_gradient_and_sees_none():
    model, (x, y) = two_heads(), batch(4)
    seen = []

    def wrong_pixels(output, target):
        seen.append((torch.is_grad_enabled(), output["mask"].requires_grad, len(output["mask"])))
        wrong = (output["mask"] > 0).numpy() != (target["mask"] > 0.5).numpy()
        return torch.from_numpy(wrong.sum((1, 2, 3))).float()

    found = pgd_attack(model, x, y, judge=wrong_pixels, **OPTIONS)
    assert set(seen) == {(False, False, count) for count in (4, 2, 1)}  # cut out twice, and alone
    assert (found.gain > 0).any()
    assert torch.equal(found.value, wrong_pixels({"mask": model(found.x)["mask"].detach()}, y))


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize(
    ("judge", "error", "message"),
    [
        (
            lambda out, y: dice(out["mask"], y["mask"])[:, None],
            TypeError,
            r"a judge must return one.*\(4, 1\)",
        ),
        (lambda out, y: dice(out["mask"], y["mask"]).mean(), TypeError, r"tensor of shape \(4,\)"),
        (lambda out, y: [0.0] * 4, TypeError, "got list"),
        (lambda out, y: torch.tensor([0.0, 1.0, 0.0, 0.0]), ValueError, "depend on the rest of its batch"),
    ],
)
def test_a_judge_that_says_nothing_is_named(judge, error, message, random_start):
    model, (x, y) = two_heads(), batch(4)
    with pytest.raises(error, match=message):
        pgd_attack(model, x, y, judge=judge, random_start=random_start, **OPTIONS)


def test_judged_results_do_not_depend_on_the_batch():
    model, (x, y) = two_heads(**DOUBLE), batch(7, **DOUBLE)
    index = torch.tensor([5, 2, 900, 0, 1, 17, 3])
    options = OPTIONS | {"judge": POINTS, "restarts": 2, "seed": 3}
    both = normalised((1.0, REG), (2.0, on("mask", SegPGD())))
    for objective in (SEG, both):
        asked = options | {"objective": objective}
        whole = pgd_attack(model, x, y, index=index, **asked)
        for part in (torch.tensor([6, 0, 3]), torch.tensor([4])):
            target = {key: head[part] for key, head in y.items()}
            some = pgd_attack(model, x[part], target, index=index[part], **asked)
            torch.testing.assert_close(some.x, whole.x[part], rtol=0, atol=1e-9)
            torch.testing.assert_close(some.value, whole.value[part])
            assert torch.equal(some.step, whole.step[part])


class Recording:
    """An objective that notes which of its forms was asked for, and which was called with a gradient."""

    def __init__(self, share=1.0, asked=None):
        self.share, self.asked = share, [] if asked is None else asked

    def at(self, share):
        return Recording(share, self.asked)

    def __call__(self, output, target):
        if torch.is_grad_enabled():
            self.asked.append(self.share)
        return (1 + self.share) * J_IND_reg(output["contour"], target["contour"])


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: weighted((0.5, negate(negate(f)))), normalised])
def test_each_step_ascends_the_form_of_its_share(wrap):
    model, (x, y) = two_heads(), batch(3)
    recording = Recording()
    objective = wrap((1.0, recording)) if wrap is normalised else wrap(recording)
    options = OPTIONS | {"objective": objective, "restarts": 2, "execution": Execution(micro_batch=3)}
    pgd_attack(model, x, y, judge=HARD, **options)
    assert recording.asked == 2 * [step / 9 for step in range(9)]


@pytest.mark.parametrize("random_start", [True, False])
def test_without_a_judge_the_last_form_is_the_measure(random_start):
    model, (x, y) = two_heads(), batch(6)
    objective = on("mask", SegPGD())
    half = weighted((0.5, on("mask", cross_entropy)))
    points = torch.stack(list(ascend_by_form(model, x, y, random_start)))
    values = judged(model, points, y, half)
    clean = half(model(x), y).detach()
    found = pgd_attack(model, x, y, random_start=random_start, **OPTIONS | {"objective": objective})
    torch.testing.assert_close(found.value, torch.maximum(values.amax(0), clean))
    torch.testing.assert_close(found.value, half(model(found.x), y).detach())
    torch.testing.assert_close(found.gain, found.value - clean, rtol=0, atol=1e-6)
    step = values.argmax(0)
    assert torch.equal(found.x, points[step, torch.arange(6)])


def ascend_by_form(model, x, y, random_start):
    """Steepest ascent of SegPGD, each step along the gradient of its own form, written out."""
    point = THREAT.sample(x, Keys(0, torch.arange(len(x))).fold_in(0)) if random_start else x
    for step in range(10):
        yield point
        point = point.detach().requires_grad_()
        value = SegPGD(share=step / 9)(model(point)["mask"], y["mask"])
        (gradient,) = torch.autograd.grad(value.sum(), point)
        point = THREAT.project(point.detach() + 0.07 * gradient.sign(), x)


def test_a_form_that_is_the_first_changes_all_the_same():
    model, (x, y) = two_heads(), batch(4)
    first, last = on("mask", SegPGD().at(0)), on("mask", SegPGD())
    options = OPTIONS | {"judge": HARD}
    found = [pgd_attack(model, x, y, **options | {"objective": form}) for form in (first, last)]
    assert torch.equal(found[0].x, found[1].x)


def column(model, x, y, function):
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(model(point), y).sum(), point)
    return gradient


def unit(gradient):
    return gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 0.5), (1.0, -2.0), (0.0, 1.0)])
def test_a_step_of_normalised_goes_along_the_sum_of_unit_gradients(weights):
    model, (x, y) = two_heads(**DOUBLE), batch(4, **DOUBLE)
    x = 0.3 + 0.4 * x
    both = normalised((weights[0], REG), (weights[1], SEG))
    found = pgd_attack(
        model,
        x,
        y,
        objective=both,
        threat=Threat(l2, 0.2),
        rule=Steepest(0.5),
        steps=1,
        random_start=False,
        keep="last",
    )
    way = weights[0] * unit(column(model, x, y, REG)) + weights[1] * unit(column(model, x, y, SEG))
    torch.testing.assert_close(found.x, x + 0.1 * unit(way), rtol=0, atol=1e-12)
    with torch.no_grad():
        values = both(model(found.x), y)
    torch.testing.assert_close(found.value, values @ values.new_tensor(weights))


def test_the_unit_of_a_head_does_not_matter():
    model, (x, y) = two_heads(**DOUBLE), batch(4, **DOUBLE)
    options = OPTIONS | {"keep": "last"}
    metres, millimetres = (
        pgd_attack(
            model, x, y, **options | {"objective": normalised((2.0, weighted((unit, REG))), (1.0, SEG))}
        )
        for unit in (1.0, 1000.0)
    )
    torch.testing.assert_close(metres.x, millimetres.x, rtol=0, atol=1e-12)
    plain, scaled = (
        pgd_attack(model, x, y, **options | {"objective": weighted((2.0 * unit, REG), (1.0, SEG))})
        for unit in (1.0, 1000.0)
    )
    assert not torch.allclose(plain.x, scaled.x, atol=1e-3)  # so that the above says something


def flat(output, target):
    return 0 * output["mask"].flatten(1).sum(1)


@pytest.mark.parametrize("other", [(1.0, flat), (0.0, SEG)], ids=["no gradient", "no weight"])
def test_a_head_that_is_silent_leaves_the_other_alone(other):
    model, (x, y) = two_heads(**DOUBLE), batch(4, **DOUBLE)
    alone = pgd_attack(model, x, y, **OPTIONS | {"objective": REG})
    found = pgd_attack(model, x, y, **OPTIONS | {"objective": normalised((1.0, REG), other)})
    torch.testing.assert_close(found.x, alone.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.value, alone.value)
    torch.testing.assert_close(found.gain, alone.gain)


def test_no_gradient_at_all_is_said_of_normalised_too():
    model, (x, y) = two_heads(), batch(2)
    with pytest.warns(UserWarning, match="gradient is zero at every step for example"):
        pgd_attack(model, x, y, **OPTIONS | {"objective": normalised((1.0, flat), (1.0, flat))})


def test_the_worst_head_helps_the_weakest():
    model, (x, y) = two_heads(**DOUBLE), batch(5, **DOUBLE)
    x = 0.3 + 0.4 * x
    clean = torch.stack([REG(model(x), y), SEG(model(x), y)], 1).detach()
    scale = (
        clean[:, 1] / clean[:, 0]
    ).median().item() * 1.001  # so that each head is the weaker one somewhere
    either = worst_head((scale, REG), (1.0, SEG))
    weaker = (scale * clean[:, 0] > clean[:, 1])[:, None, None, None]
    assert weaker.any()
    assert not weaker.all()
    found = pgd_attack(
        model,
        x,
        y,
        objective=either,
        threat=Threat(l2, 0.2),
        rule=Steepest(0.1),
        steps=1,
        random_start=False,
        keep="last",
    )
    way = torch.where(weaker, unit(column(model, x, y, REG)), unit(column(model, x, y, SEG)))
    torch.testing.assert_close(found.x, x + 0.02 * way, rtol=0, atol=1e-12)
    longer = pgd_attack(model, x, y, **OPTIONS | {"objective": either, "rule": Steepest(0.2)})
    values = torch.stack([scale * REG(model(longer.x), y), SEG(model(longer.x), y)], 1).detach()
    torch.testing.assert_close(longer.value, values.amax(1))
    assert (longer.gain > 0).all()


@pytest.mark.parametrize("objective", [SegPGD().at(0), SharpenedDice(share=0.0)], ids=["SegPGD", "Dice"])
def test_an_objective_given_in_its_first_form_is_reported_in_its_last(objective):
    model, (x, y) = two_heads(), batch(4)
    found = pgd_attack(model, x, y, objective=on("mask", objective), threat=Threat(linf, 0.1), steps=5)
    last = on("mask", objective.at(1.0))
    with torch.no_grad():
        torch.testing.assert_close(found.value, last(model(found.x), y))
        torch.testing.assert_close(found.gain, found.value - last(model(x), y))


def test_examples_may_leave_under_inference_mode():
    model, (x, y) = two_heads(), batch(5)
    stop = Within(on("mask", dice), high=0.3)
    options = {"objective": on("mask", J_IND_seg), "threat": Threat(linf, 0.3), "steps": 4, "stop": stop}
    expected = pgd_attack(model, x, y, **options)
    assert 0 < expected.finished.sum() < 5
    with torch.inference_mode():
        found = pgd_attack(model, x, y, **options)
    assert torch.equal(found.x, expected.x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("rule", [Steepest(0.7), Adaptive()])
def test_the_last_iterate_is_that_of_the_attack_in_any_mode(mode, rule):
    model, (x, y) = two_heads(), batch(3)
    start = THREAT.sample(x, Keys(0, torch.arange(3)))
    options = {"objective": SEG, "rule": rule, "steps": 5}
    found = pgd_attack(model, x, y, threat=THREAT, start=start, random_start=False, keep="last", **options)
    with mode():
        inside = Batch(x.clone(), y, THREAT, start.clone())
        last = last_iterate(model, inside, **options)
        from_centre = last_iterate(model, inside._replace(start=None), **options)
    assert torch.equal(last, found.x)
    assert not last.requires_grad
    assert torch.equal(last_iterate(model, inside, **{**options, "steps": 0}), THREAT.project(start, x))
    assert not torch.equal(from_centre, last)
