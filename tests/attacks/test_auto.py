"""The ensemble against its own members run by hand, a known optimum, and a count of passes."""

import copy
import math
from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
import torch
from networks import TwoHeads, batch, notes, two_heads
from torch import nn

from advreg import (
    J_IND_reg,
    J_IND_seg,
    Keys,
    Threat,
    auto_attack,
    contour_dice,
    dice,
    evaluate,
    l2,
    linf,
    negate,
    on,
    pgd_attack,
    point_error,
    radius_curve,
)
from advreg.attacks._auto import runs
from advreg.execution import AssumptionError
from advreg.tasks import Member, Task, masks, outlines, points

THREAT = Threat(linf, 0.1)
MASK, CONTOUR = {"mask": masks()}, {"contour": points()}
BOTH = {"contour": points(), "mask": masks()}
DOUBLE = {"dtype": torch.float64}


class Counting(TwoHeads):
    """Notes the input of each forward pass, and how many examples a gradient of the input follows for."""

    def __init__(self):
        super().__init__()
        self.load_state_dict(two_heads().state_dict())

    def forward(self, x, heads=("contour", "mask")):
        notes(self).append(x.detach().clone())
        if x.requires_grad:
            x.register_hook(self.count)
        return {key: value for key, value in super().forward(x).items() if key in heads}

    def count(self, gradient):
        notes(self).append(len(gradient))

    @property
    def inputs(self):
        return [note for note in notes(self) if not isinstance(note, int)]

    @property
    def gradients(self):
        return sum(note for note in notes(self) if isinstance(note, int))

    @property
    def sizes(self):
        return [len(x) for x in self.inputs]


def case(count=5, **options):
    """Inputs, and targets that the model is right about for the most part."""
    model, (x, y) = two_heads(**options), batch(count, **options)
    with torch.no_grad():
        output = model(x)
    right = (output["mask"] > 0).to(x.dtype)
    right[:, :, ::5, ::3] = y["mask"][:, :, ::5, ::3]
    return model, x, {"contour": output["contour"] + 0.1 * y["contour"], "mask": right}


def some(tree, rows):
    return {key: value[rows] for key, value in tree.items()}


def test_the_budget_is_divided_among_runs():
    assert runs(1) == [1]
    assert runs(7) == [7]
    assert runs(67) == [67]
    assert runs(68) == [34, 34]
    assert runs(100) == [50, 50]
    assert runs(125) == [63, 62]
    assert runs(500) == [125] * 4
    for budget in range(1, 700, 13):
        divided = runs(budget)
        assert sum(divided) == budget
        assert max(divided) - min(divided) <= 1
        assert abs(len(divided) - math.sqrt(budget / 30)) <= max(0.5, 1 - math.sqrt(budget / 30))


def by_hand(model, x, y, key, task, threat, budget, seed):
    """Each run as its own attack on the whole batch, without leaving early; the worst of all."""
    judge = on(key, lambda output, target: task.sign * task.metric(output, target))
    with torch.no_grad():
        worst, best = x.clone(), judge(model(x), y)
    names = ["clean"] * len(x)
    for number, steps in enumerate(runs(budget)):
        member = task.members[number % len(task.members)]
        found = pgd_attack(
            model,
            x,
            y,
            objective=on(key, member.objective),
            threat=threat,
            rule=member.rule,
            schedule=member.schedule,
            steps=steps,
            judge=judge,
            seed=Keys(seed, torch.arange(len(x))).fold_in(number).seed,
        )
        for row in range(len(x)):
            if found.value[row] > best[row]:
                worst[row], best[row], names[row] = found.x[row], found.value[row], member.name
    return worst, task.sign * best, names


@pytest.mark.parametrize("threat", [THREAT, Threat(l2, 0.8)])
@pytest.mark.parametrize(("key", "budget"), [("mask", 7), ("mask", 100), ("contour", 1), ("contour", 130)])
def test_it_is_the_worst_of_its_members_and_of_the_clean_input(key, budget, threat):
    model, x, y = case()
    task = BOTH[key]
    result = auto_attack(model, x, y, heads={key: task}, threat=threat, budget=budget, seed=5)[key]
    worst, value, names = by_hand(model, x, y, key, task, threat, budget, 5)
    assert (result.value * task.sign < math.inf).all()
    assert torch.equal(result.value, value)
    assert torch.equal(result.x, worst)
    assert result.found_by() == names
    assert (result.passes == budget).all()


def test_members_take_turns_and_begin_again_from_another_start():
    _, x, y = case()
    model = Counting().eval()
    task = Task(point_error, "higher", (Member("one", point_error), Member("two", J_IND_reg)))
    result = auto_attack(model, x, y, heads={"contour": task}, threat=THREAT, budget=320)["contour"]
    assert result.names == ("one", "two")
    worst, value, names = by_hand(two_heads(), x, y, "contour", task, THREAT, 320, 0)  # four runs of 80
    assert torch.equal(result.value, value)
    assert torch.equal(result.x, worst)
    assert result.found_by() == names
    looks = 1 + 2  # the clean inputs, and the last of them alone, twice
    starts = [model.inputs[looks + (looks + 81) * number + looks] for number in range(4)]
    assert all(not torch.equal(a, b) for a, b in combinations(starts, 2))
    assert all(THREAT.contains(start, x).all() for start in starts)


@pytest.mark.parametrize("budget", [1, 7, 100])
@pytest.mark.parametrize(
    "threat",
    [THREAT, Threat(l2, 0.5), Threat(linf, torch.tensor([0.0, 0.01, 0.05, 0.1, 0.3]))],
    ids=["linf", "l2", "per example"],
)
def test_results_are_inside_and_their_numbers_are_those_of_their_inputs(threat, budget):
    model, x, y = case()
    result = auto_attack(model, x, y, heads=BOTH, threat=threat, budget=budget)
    for key, metric in (("contour", point_error), ("mask", dice)):
        worst, task = result[key], BOTH[key]
        assert threat.contains(worst.x, x).all()
        with torch.no_grad():
            value, clean = metric(model(worst.x)[key], y[key]), metric(model(x)[key], y[key])
        torch.testing.assert_close(worst.value, value)
        torch.testing.assert_close(worst.clean, clean)
        assert (task.sign * worst.value >= task.sign * worst.clean).all()
        assert (task.sign * worst.value > task.sign * worst.clean).any()
        assert (worst.passes <= budget).all()
        moved = (worst.x != x).flatten(1).any(1)
        assert torch.equal(moved, worst.member >= 0)
        assert worst.member.max() < len(runs(budget))
        assert not worst.x.requires_grad
    if isinstance(threat.radius, torch.Tensor):
        assert torch.equal(result["contour"].x[0], x[0])
        assert result["contour"].found_by()[0] == "clean"
        assert result["contour"].value[0] == result["contour"].clean[0]


def test_a_known_optimum_in_a_cube():
    """|w x + b - y| over a cube is largest at the corner that its sign points to."""
    g = torch.Generator().manual_seed(0)
    model, x = nn.Linear(12, 1), 0.3 + 0.4 * torch.rand(6, 12, generator=g)
    model.weight.data.copy_(torch.randn(1, 12, generator=g))
    away = torch.tensor([1.0, -1, 1, -1, 1, -1])[:, None]
    with torch.no_grad():
        y = model(x) - 0.5 * away
    task = Task(lambda output, target: (output - target).abs().sum(1), "higher")
    result = auto_attack(model, x, y, heads={"": task}, threat=THREAT, budget=20)
    corner = x + 0.1 * away * model.weight.detach().sign()
    torch.testing.assert_close(result.x, corner, rtol=0, atol=1e-5)
    torch.testing.assert_close(result[""].value, 0.5 + 0.1 * model.weight.detach().abs().sum().expand(6))
    lower = Task(lambda output, target: -(output - target).abs().sum(1), "lower")
    other = auto_attack(model, x, y, heads={"": lower}, threat=THREAT, budget=20)
    assert torch.equal(other.x, result.x)
    assert torch.equal(other[""].value, -result[""].value)


def test_it_is_repeated_bit_for_bit_and_another_seed_is_another_attack():
    model, x, y = case()
    options = {"heads": BOTH, "threat": THREAT, "budget": 10}
    first, again, other = (auto_attack(model, x, y, seed=seed, **options) for seed in (1, 1, 2))
    for key in BOTH:
        assert torch.equal(first[key].x, again[key].x)
        assert torch.equal(first[key].value, again[key].value)
        assert not torch.equal(first[key].x, other[key].x)


def test_it_does_not_depend_on_the_batch():
    model, x, y = case(7, **DOUBLE)
    index, radius = torch.tensor([5, 2, 900, 0, 1, 17, 3]), torch.linspace(0.02, 0.4, 7, **DOUBLE)
    options = {"heads": BOTH, "budget": 50, "seed": 3}
    whole = auto_attack(model, x, y, threat=Threat(linf, radius), index=index, **options)
    for rows in (torch.tensor([6, 0, 3]), torch.tensor([4]), torch.tensor([1, 2, 5])):
        threat = Threat(linf, radius[rows])
        part = auto_attack(model, x[rows], some(y, rows), threat=threat, index=index[rows], **options)
        for key in BOTH:
            torch.testing.assert_close(part[key].x, whole[key].x[rows], rtol=0, atol=1e-9)
            torch.testing.assert_close(part[key].value, whole[key].value[rows])
            assert torch.equal(part[key].member, whole[key].member[rows])
            assert torch.equal(part[key].passes, whole[key].passes[rows])


def test_heads_are_attacked_one_by_one():
    model, x, y = case()
    options = {"threat": THREAT, "budget": 45}
    together = auto_attack(model, x, y, heads=BOTH, **options)
    assert list(together.heads) == ["contour", "mask"]
    for key, task in BOTH.items():
        alone = auto_attack(model, x, y, heads={key: task}, **options)
        assert torch.equal(alone.x, together[key].x)
        assert torch.equal(alone[key].passes, together[key].passes)
    assert not torch.equal(together["contour"].x, together["mask"].x)
    with pytest.raises(AttributeError, match=r"\['contour', 'mask'\] has its own worst inputs: take result"):
        _ = together.x
    with pytest.raises(KeyError):
        together["other"]


def test_those_that_are_as_bad_as_can_be_leave_and_spend_no_more():
    _, x, y = case(6)
    model, budget = Counting().eval(), 192  # three runs of 64
    logits = two_heads()(x)["mask"].detach()
    easy = logits.masked_fill(logits < 0.05, 9).flatten(1).topk(5, largest=False).values[:, -1:, None, None]
    y["mask"] = ((logits >= 0.05) & (logits <= easy)).float()  # five pixels that are only just right
    y["mask"][3] = (logits[3] <= 0).float()  # wrong everywhere: nothing to do
    radius = torch.tensor([0.0, 0.15, 0.1, 0.15, 0.1, 0.1])
    worst = auto_attack(model, x, y, heads=MASK, threat=Threat(linf, radius), budget=budget)["mask"]
    done = worst.value == 0
    assert done.tolist() == [False, True, False, True, True, True]
    assert torch.equal(dice(two_heads()(worst.x)["mask"], y["mask"]), worst.value)
    assert (worst.passes[~done] == budget).all()
    assert (worst.passes[done] < budget).all()
    assert worst.passes[3] == 0
    assert worst.found_by()[3] == "clean"
    assert torch.equal(worst.x[3], x[3])
    assert worst.passes[5] > 64 > worst.passes[4] > 0  # one in the second run, one in the first
    assert worst.found_by()[5] == worst.names[1]
    # Where one finishes, its gradient is still taken along with those of the others.
    assert model.gradients == int(worst.passes.sum()) + 3
    left = torch.where(done, worst.passes, math.inf)
    left[3] = -1
    expected = [6, 1, 1]
    for begin in (0, 64, 128):
        steps = [int((left >= begin + step).sum()) for step in range(65)]
        expected += [steps[0], 1, 1, *steps]  # the clean inputs of those that begin, and one alone, twice
    assert model.sizes == expected


def test_nobody_left_means_no_run():
    _, x, y = case(3)
    model = Counting().eval()
    y["mask"] = (two_heads()(x)["mask"] <= 0).float()
    worst = auto_attack(model, x, y, heads=MASK, threat=THREAT, budget=500)["mask"]
    assert model.sizes == [3, 1, 1]
    assert worst.passes.tolist() == [0, 0, 0]
    assert worst.value.tolist() == [0, 0, 0]


@pytest.mark.parametrize("budget", [1, 20, 70])
def test_what_it_costs(budget):
    _, x, y = case(4)
    model = Counting().eval()
    auto_attack(model, x, y, heads=CONTOUR, threat=THREAT, budget=budget)
    assert model.gradients == 4 * budget
    looks = 4 + 1 + 1
    assert sum(model.sizes) == 4 * (budget + len(runs(budget))) + looks * (len(runs(budget)) + 1)


def test_inside_evaluate_and_radius_curve(tmp_path):
    model, x, y = case(6)
    attack = partial(auto_attack, heads={"mask": masks()}, budget=20)
    index = torch.tensor([3, 1, 4, 0, 5, 2])
    batches = [(x[rows], some(y, rows), index[rows]) for rows in (slice(0, 4), slice(4, 6))]
    metrics = {"mask": {"dice": dice}, "contour": {"error": point_error}}
    one = partial(attack, threat=THREAT)
    table = evaluate(model, batches, metrics, one, radius=0.1, seed=7, journal=tmp_path)
    found = auto_attack(model, x, y, heads=MASK, threat=THREAT, budget=20, seed=7, index=index)
    with torch.no_grad():
        error = point_error(model(found.x)["contour"], y["contour"])
    for head, metric, expected in (("mask", "dice", found["mask"].value), ("contour", "error", error)):
        rows = [row for row in table.rows if (row.head, row.metric) == (head, metric)]
        assert [row.index for row in rows] == index.tolist()
        torch.testing.assert_close(torch.tensor([row.value for row in rows]), expected, rtol=0, atol=1e-6)
    again = partial(auto_attack, heads={"mask": masks()}, budget=20, threat=THREAT)
    resumed = evaluate(model, batches, metrics, again, radius=0.1, seed=7, journal=tmp_path)
    assert resumed.rows == table.rows
    with pytest.raises(ValueError, match="journal"):
        evaluate(model, batches, metrics, partial(again, budget=21), radius=0.1, seed=7, journal=tmp_path)
    curve = radius_curve(model, batches, {"mask": {"dice": dice}}, {"auto": attack}, [0.0, 0.05, 0.1], seed=7)
    means = [mean.mean for mean in curve.means()]
    assert means[0] > means[1] > means[2]
    assert means[2] == pytest.approx(found["mask"].value.mean().item(), abs=1e-6)
    both = {"radii": [0.0, 0.05, 0.1], "seed": 7, "together": True}
    together = radius_curve(model, batches, {"mask": {"dice": dice}}, {"auto": attack}, **both)
    assert [mean.mean for mean in together.means()] == pytest.approx(means, abs=1e-5)


def test_evaluate_refuses_the_worst_of_two_heads():
    model, x, y = case(2)
    attack = partial(auto_attack, heads=BOTH, budget=1, threat=THREAT)
    with pytest.raises((AttributeError, TypeError), match=r"heads \['contour', 'mask'\]|AttackResult"):
        evaluate(model, [(x, y)], {"mask": {"dice": dice}}, attack, radius=0.1)


def test_a_model_that_is_its_head():
    model, x, y = case()
    plain = auto_attack(
        lambda point: model(point)["mask"], x, y["mask"], heads={"": masks()}, threat=THREAT, budget=70
    )
    named = auto_attack(model, x, y, heads=MASK, threat=THREAT, budget=70)
    assert torch.equal(plain.x, named.x)
    assert torch.equal(plain[""].value, named["mask"].value)


@pytest.mark.parametrize("kind", ["tuple", "list"])
def test_heads_by_place_the_first_included(kind):
    model, x, y = case()
    y = tuple(y.values()) if kind == "tuple" else list(y.values())
    result = auto_attack(two_heads(kind), x, y, heads={0: points(), 1: masks()}, threat=THREAT, budget=20)
    named = auto_attack(model, x, {"contour": y[0], "mask": y[1]}, heads=BOTH, threat=THREAT, budget=20)
    for place, key in enumerate(BOTH):
        assert torch.equal(result[place].x, named[key].x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("norm", [linf, l2])
def test_other_precisions(norm, dtype):
    model, x, y = case(3, dtype=dtype)
    threat = Threat(norm, 0.2)
    result = auto_attack(model, x, y, heads=BOTH, threat=threat, budget=70)
    for key, metric in (("contour", point_error), ("mask", dice)):
        assert result[key].x.dtype == dtype
        assert threat.contains(result[key].x, x).all()
        value = metric(model(result[key].x)[key], y[key]).detach()
        assert (result[key].value.to(value.dtype) == value).all()
        assert (result[key].value != result[key].clean).all()


class Square(nn.Module):
    """A contour in pixels, from an image (B, 1, 8, 8)."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.move = nn.Linear(64, 8)

    def forward(self, x):
        corners = torch.tensor([[1.2, 1.3], [5.8, 1.1], [6.1, 5.9], [1.1, 6.2]])
        return corners.to(x) + 4 * self.move(x.flatten(1)).unflatten(1, (4, 2)).tanh()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outlines_in_the_precision_of_the_input(dtype):
    model, (x, _) = Square().to(dtype).eval(), batch(3, dtype=dtype)
    y = torch.tensor([[1.2, 1.3], [5.8, 1.1], [6.1, 5.9], [1.1, 6.2]], dtype=dtype).expand(3, 4, 2)
    result = auto_attack(model, x, y, heads={"": outlines((8, 8))}, threat=THREAT, budget=70)[""]
    value = contour_dice(model(result.x).detach(), y, size=(8, 8))
    torch.testing.assert_close(result.value, value.to(result.value.dtype))
    assert (result.value < result.clean).all()


def test_a_metric_may_count():
    """Whole numbers, without a gradient, from 0 to 64."""

    def wrong(output, target):
        return ((output > 0) != (target > 0.5)).flatten(1).sum(1)

    model, x, y = case(4)
    task = Task(wrong, "higher", (Member("soft Dice", J_IND_seg),), worst=64)
    result = auto_attack(model, x, y, heads={"mask": task}, threat=THREAT, budget=20)["mask"]
    assert torch.equal(result.value.long(), wrong(model(result.x)["mask"], y["mask"]))
    assert (result.value > result.clean).all()


def test_the_model_and_the_inputs_are_left_as_they_were():
    model, x, y = case()
    model.contour.bias.requires_grad_(False)
    model.mask.weight.grad = torch.ones_like(model.mask.weight)
    before, state, inputs = (
        copy.deepcopy(model.state_dict()),
        torch.get_rng_state(),
        (x.clone(), y["mask"].clone()),
    )
    auto_attack(model, x, y, heads=BOTH, threat=THREAT, budget=5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.contour.bias.requires_grad
    assert model.mask.bias.requires_grad
    assert torch.equal(model.mask.weight.grad, torch.ones_like(model.mask.weight))
    assert model.contour.weight.grad is None
    assert torch.equal(inputs[0], x)
    assert torch.equal(inputs[1], y["mask"])
    assert not model.training


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_no_grad_and_from_inputs_that_require_one(mode):
    model, x, y = case()
    options = {"heads": MASK, "threat": THREAT, "budget": 45}
    plain = auto_attack(model, x, y, **options)
    with mode():
        quiet = auto_attack(model, x, y, **options)
    assert torch.equal(quiet.x, plain.x)
    tracked = auto_attack(model, x.clone().requires_grad_(), y, **options)
    assert torch.equal(tracked.x, plain.x)
    assert not tracked.x.requires_grad


def lopsided(output, target):
    return dice(output, target)[:, None]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"heads": {}}, ValueError, 'expected a task for one head or more, {"mask": masks\\(\\)}; got none'),
        ({"budget": 0}, ValueError, "budget must be 1 pass or more; got 0"),
        ({"budget": -3}, ValueError, "got -3"),
        ({"heads": {"masks": masks()}}, KeyError, r"no head 'masks'; .*\['contour', 'mask'\]"),
        ({"heads": {"mask": Task(lopsided, "lower")}}, TypeError, r"the metric of head 'mask'.*\(5, 1\)"),
        ({"heads": {"mask": Task(lopsided, "higher")}}, TypeError, r"tensor of shape \(5,\)"),
        ({"heads": {"": masks()}}, TypeError, "tensors; got dict and dict"),
        ({"threat": Threat(linf, math.inf)}, ValueError, "needs a finite radius; got inf"),
        ({"index": torch.arange(3)}, ValueError, "3 keys cannot serve a batch of 5"),
        ({"heads": {"mask": Task(dice, "lower")}}, ValueError, "no gradient"),
    ],
)
def test_errors(options, error, message):
    model, x, y = case()
    with pytest.raises(error, match=message):
        auto_attack(model, x, y, **{"heads": MASK, "threat": THREAT, "budget": 3} | options)


def test_inputs_outside_the_bounds_are_refused():
    model, x, y = case()
    with pytest.raises(ValueError, match=r"bounds \[0, 1\]"):
        auto_attack(model, 3 * x, y, heads=MASK, threat=THREAT, budget=3)
    with pytest.raises(TypeError, match="floating point"):
        auto_attack(model, x.byte(), y, heads=MASK, threat=THREAT, budget=3)


def test_examples_that_interact_are_named_by_the_metric_of_their_head():
    model, x, y = case()
    mixed = lambda x: {"mask": model(x)["mask"] + x.mean(0)}  # noqa: E731 - as short as it is
    with pytest.raises(AssumptionError, match=r"interact; the metric of head 'mask' of example \d is"):
        auto_attack(mixed, x, y, heads=MASK, threat=THREAT, budget=3)


def test_the_metric_may_be_negated_by_hand():
    model, x, y = case()
    members = masks().members
    lower, higher = Task(dice, "lower", members, 0.0), Task(negate(dice), "higher", members, 0.0)
    options = {"threat": Threat(linf, 0.4), "budget": 45}
    first, second = (
        auto_attack(model, x, y, heads={"mask": task}, **options)["mask"] for task in (lower, higher)
    )
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.value, -second.value)
    assert torch.equal(first.passes, second.passes)


def test_members_that_never_ran_are_named():
    model, x, y = case()
    names = tuple(member.name for member in points().members)
    for budget, reached in ((20, 1), (100, 2), (500, 4), (30 * 36, 6)):
        tried = min(reached, 6)
        task = replace(points(), members=tuple(replace(m, objective=J_IND_reg) for m in points().members))
        worst = auto_attack(model, x, y, heads={"contour": task}, threat=THREAT, budget=budget)["contour"]
        assert worst.not_tried == names[tried:]
        assert set(worst.found_by()) <= {"clean", *names[:tried]}
    y["mask"] = (two_heads()(x)["mask"] <= 0).float()  # as bad as can be: nobody's turn comes
    done = auto_attack(model, x, y, heads=MASK, threat=THREAT, budget=500)["mask"]
    assert done.not_tried == done.names
