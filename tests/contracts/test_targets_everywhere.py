"""Targets of any structure in evaluation, diagnosis, trade-offs, training, and as outputs to be matched."""

import warnings
from functools import partial

import pytest
import torch
from networks.structured import CASES, COUNT, Case, Labels, by_hand, cells, inputs, nearest, numbers
from torch import nn

from advreg import (
    Execution,
    Keys,
    Steepest,
    Threat,
    diagnose,
    evaluate,
    linf,
    ood_attack,
    pgd_attack,
    radius_curve,
)
from advreg.attacks import tradeoff
from advreg.objectives import Within, shared
from advreg.tasks import Member, Task
from advreg.training import AdversarialLoss, Adversary, L_adv_r, L_adv_rs, L_adv_s, Noise

THREAT = Threat(linf, 0.1)
RULE = Steepest(0.4)
PARTS = Execution(micro_batch=3)
each_case = pytest.mark.parametrize("name", CASES)
SOME = (
    "list of dicts",
    "as many boxes as images, marked",
    "table",
    "table, marked",
    "flat rows",
    "flat rows, weights as long as a part",
    "strings",
    "nest",
    "spacing",
    "spacing, marked",
    "class names",
)
some_cases = pytest.mark.parametrize("name", SOME)
in_parts = pytest.mark.parametrize("execution", [None, PARTS], ids=["at once", "in parts"])


def near(one, other):
    torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-9, atol=1e-12)


def attacked(case, x, radius, **options):
    """What an attack finds for each example alone, with its own target."""
    threat = Threat(linf, radius)
    options = {"objective": case.error, "threat": threat, "steps": 3, "rule": RULE, **options}
    return torch.cat(
        [
            pgd_attack(cells(), x[at : at + 1], case.mark(one), index=torch.tensor([at]), **options).x
            for at, one in enumerate(case.alone)
        ]
    )


# Evaluation


@pytest.mark.parametrize(
    ("name", "together"), [(name, True) for name in CASES] + [(name, False) for name in SOME[::3]]
)
def test_radius_curve(name, together):
    case, x = CASES[name](), inputs()
    attack = partial(pgd_attack, objective=case.error, steps=3, rule=RULE)
    radii = [0.0, 0.05, 0.1]
    table = radius_curve(
        cells(), [(x, case.y)], {"": {"error": case.error}}, {"it": attack}, radii, together=together
    )
    for radius in radii:
        expected = by_hand(case, attacked(case, x, radius) if radius else x)
        near(table.where(radius=radius).values(), expected)


@pytest.mark.parametrize("name", [*SOME, "object"])
def test_evaluate(name, tmp_path):
    case, x = CASES[name](), inputs()
    attack = partial(pgd_attack, objective=case.error, threat=THREAT, steps=3, rule=RULE, execution=PARTS)
    batches, metrics = [(x, case.y)], {"": {"error": case.error}}
    clean = evaluate(cells(), batches, metrics, journal=tmp_path / "clean")
    near(clean.values(), by_hand(case, x))
    assert evaluate(cells(), batches, metrics, journal=tmp_path / "clean") == clean
    table = evaluate(cells(), batches, metrics, attack, radius=0.1, device="cpu")
    near(table.values(), by_hand(case, attacked(case, x, 0.1)))


def test_batches_of_several_sizes():
    """The spacing is as long as one of them."""
    weights = torch.tensor([5.0, 0.7, 1.0, 1.0, 3.0], dtype=torch.float64)

    def error(output, target):
        return (output - target["points"]).square().mean(1) @ target["spacing"] / target["spacing"].sum()

    batches, expected = [], []
    for count in (6, 5, 4):
        x, points = numbers(count, 6, seed=count), numbers(count, 4, 5, seed=count)
        batches.append((x, {"points": points, "spacing": weights}))
        alone = [{"points": points[at : at + 1], "spacing": weights} for at in range(count)]
        expected.append(by_hand(Case(None, alone, error), x))
    attack = partial(pgd_attack, objective=error, steps=2, rule=RULE)
    for together in (False, True):
        table = radius_curve(
            cells(), batches, {"": {"error": error}}, {"it": attack}, [0.0, 0.1, 0.2], together=together
        )
        near(table.where(radius=0.0).values(), torch.cat(expected))
        assert (table.where(radius=0.1).values() > table.where(radius=0.0).values()).all()


def test_together_sums_stay_sums():
    """A metric that is right however often its weights come, and one that is not."""
    x, weights = inputs(), torch.tensor([5.0, 0.7, 1.0, 1.0, 3.0], dtype=torch.float64)
    y = {"points": numbers(COUNT, 4, 5), "weights": weights}

    def error(output, target):
        return (output - target["points"]).square().mean((1, 2)) * target["weights"].sum()

    attack = partial(pgd_attack, objective=error, steps=2, rule=RULE)
    tables = [
        radius_curve(cells(), [(x, y)], {"": {"e": error}}, {"it": attack}, [0.05, 0.1], together=together)
        for together in (False, True)
    ]
    near(*(table.values() for table in tables))


# Diagnosis


@pytest.mark.parametrize(
    ("name", "execution"),
    [
        ("list of dicts", None),
        *((name, PARTS) for name in ("table", "spacing", "spacing, marked")),
    ],
    ids=str,
)
def test_diagnose(name, execution):
    case, x = CASES[name](), inputs()
    options = {"objective": case.error, "threat": THREAT, "seed": 0}
    found = diagnose(cells(), x, case.y, steps=10, queries=30, execution=execution, **options)
    alone = [
        pgd_attack(cells(), x[at : at + 1], case.mark(one), steps=10, index=torch.tensor([at]), **options).x
        for at, one in enumerate(case.alone)
    ]
    gain = by_hand(case, torch.cat(alone)) - by_hand(case, x)
    assert found["gradient_free"].evidence["gain of gradient"] == pytest.approx(float(gain.mean()), rel=1e-6)
    assert all(check.verdict != "skipped" for check in found.checks if check.name != "transfer")


# Trade-off


class Twice(nn.Module):
    """Two heads of cells."""

    def __init__(self):
        super().__init__()
        self.net = cells()

    def forward(self, x):
        code = self.net(x)
        return {"a": code, "b": -code.flip(1)}


@some_cases
def test_tradeoff(name):
    case, x, net, beside = CASES[name](), inputs(), Twice(), numbers(COUNT, 4, 5, seed=9)
    other = Case(beside, list(beside.split(1)), lambda o, t: (o - t).abs().mean((1, 2)))
    tasks = {
        key: Task(one.error, "higher", (Member("signs", one.error, RULE),))
        for key, one in (("a", case), ("b", other))
    }
    front = tradeoff(
        net,
        x,
        {"a": case.y, "b": beside},
        heads=tasks,
        threat=THREAT,
        points=3,
        steps=2,
        execution=PARTS,
    )
    for at, (key, one) in enumerate((("a", case), ("b", other))):
        near(front.clean[:, at], by_hand(one, x, lambda x, key=key: net(x)[key]))
        for found, values in zip(front.x, front.values, strict=True):
            near(values[:, at], by_hand(one, found, lambda x, key=key: net(x)[key]))


# Training


@each_case
def test_adversaries(name):
    case, x = CASES[name](), inputs()
    adversary = Adversary(case.error, THREAT, RULE, 3, execution=PARTS)
    found = adversary(cells(), x, case.y, Keys(0, torch.arange(COUNT)))
    alone = [
        adversary(cells(), x[at : at + 1], case.mark(one), Keys(0, torch.tensor([at])))
        for at, one in enumerate(case.alone)
    ]
    near(found, torch.cat(alone))


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
@some_cases
def test_training_losses(name, together):
    case, x = CASES[name](), inputs()
    attack = Adversary(case.error, THREAT, RULE, 2, execution=PARTS)
    terms = {"attack": (0.3, attack), "noise": (0.2, Noise(THREAT))}
    total, parts = AdversarialLoss(case.error, terms, together=together)(cells(), x, case.y, seed=3)
    keys = Keys(3, torch.arange(COUNT))
    found = [attack(cells(), x, case.y, keys.fold_in(0)), THREAT.sample(x, keys.fold_in(1))]
    expected = [float(by_hand(case, each).mean()) for each in (x, *found)]
    near([float(part) for part in parts.values()], expected)
    near(float(total.detach()), 0.5 * expected[0] + 0.3 * expected[1] + 0.2 * expected[2])


@pytest.mark.parametrize("name", ["list of dicts", "table", "flat rows", "strings", "spacing, marked"])
def test_the_papers_losses(name):
    case, x = CASES[name](), inputs()
    options = {"threat": THREAT, "rule": RULE, "steps": 2, "execution": PARTS}
    expected = float(by_hand(case, x).mean())
    for loss in (
        L_adv_r(case.error, reg=case.error, **options),
        L_adv_s(case.error, seg=case.error, **options),
        L_adv_rs(case.error, reg=case.error, seg=case.error, **options),
    ):
        _, parts = loss(cells(), x, case.y, seed=0)
        near(float(parts["clean"]), expected)
        assert all(float(part) > expected for part in list(parts.values())[1:])


# Outputs of any structure, training among them


class Outputs(nn.Module):
    """Cells in another form."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = cells(), form
        self.scale = nn.Parameter(torch.tensor([1.0, 0.5], dtype=torch.float64))

    def forward(self, x):
        return self.form(self.net(x), self.scale)


def kept(cells):
    """The cells of each image with a score above zero, one at least."""
    return [one[one[:, 4] > one[:, 4].detach().amax().sub(1e-9).clamp(max=0)] for one in cells]


def of_lists(output, target):
    return torch.stack([-nearest(one, own) for one, own in zip(output, target, strict=True)])


def of_dicts(output, target):
    return of_lists([one["boxes"] for one in output], [one["boxes"] for one in target])


def of_heads(output, target):
    return -(output[0] - target[0]).square().mean((1, 2)) - (output[1] - target[1]).abs().mean(1)


def of_arrays(output, target):
    return -(output["cells"] - target["cells"]).square().mean((1, 2))


def rows_of(code):
    """One table of all images, their number first."""
    some = kept(code)
    count = torch.tensor([len(one) for one in some])
    return torch.cat([torch.arange(len(some)).repeat_interleave(count)[:, None], torch.cat(some)], 1)


def of_tables(output, target):
    count = int(torch.cat([output[:, 0], target[:, 0]]).max()) + 1
    return of_lists(*([each[each[:, 0] == at, 1:] for at in range(count)] for each in (output, target)))


FORMS = {
    "list of tensors": (lambda code, _: kept(code), of_lists),
    "tuple of tensors": (lambda code, _: tuple(kept(code)), of_lists),
    "list of dicts": (lambda code, _: [{"boxes": one, "name": "x"} for one in kept(code)], of_dicts),
    "as many boxes as examples": (lambda code, _: [one[[0, 1, 2, 3, 0]] for one in code], of_lists),
    "list of heads": (lambda code, _: [code, code[:, 0]], of_heads),
    "tuple of heads": (lambda code, _: (code, code[:, 0]), of_heads),
    "a number beside": (lambda code, scale: {"cells": code, "scale": scale[0]}, of_arrays),
    "two numbers beside": (
        lambda code, scale: {"cells": code, "scale": scale},
        lambda o, t: of_arrays(o, t) * o["scale"].square().sum(),
    ),
    "a dataclass": (
        lambda code, _: Labels(code, {"first": code[:, 0]}),
        lambda o, t: of_heads((o.points, o.extra["first"]), (t.points, t.extra["first"])),
    ),
}


def paired(net, objective, x, x_in):
    """The objective of each pair alone."""
    with torch.no_grad():
        return torch.cat([objective(net(x[at : at + 1]), net(x_in[at : at + 1])) for at in range(len(x))])


@in_parts
@pytest.mark.parametrize("form", FORMS)
def test_outputs_are_matched(form, execution):
    make, objective = FORMS[form]
    net, x_in, x_out = Outputs(make).eval(), inputs(), inputs().flip(0)
    before = paired(net, objective, x_out, x_in)
    limit = float(before.quantile(0.375))  # between two values, since pairs of opposite places are alike
    found = ood_attack(
        net,
        x_in,
        x_out,
        objective=objective,
        threat=Threat(linf, 0.2),
        rule=RULE,
        steps=3,
        restarts=2,
        match={"close": Within(objective, low=limit)},
        execution=execution,
    )
    expected = paired(net, objective, found.x, x_in)
    near(found.value, expected)
    near(found.gain, expected - before)
    near(found.closeness["close"], expected)
    assert torch.equal(found.matched["close"], expected >= limit)
    assert torch.equal(found.finished, expected >= limit)


TRAINED = {**FORMS, "a table": (lambda code, _: rows_of(code), of_tables)}


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("form", TRAINED)
def test_outputs_are_trained(form, count):
    """Clean and changed inputs share a pass, whose outputs are cut."""
    make, objective = TRAINED[form]
    net, x = Outputs(make).eval(), inputs(count)
    target = net(x.flip(0) + 0.1)

    def loss(output, target):
        return -objective(output, target)

    terms = {"noise": (0.5, Noise(THREAT))}
    together, apart = (AdversarialLoss(loss, terms, together=kind) for kind in (True, False))
    near(together(net, x, target, seed=0)[1]["clean"], loss(net(x), target).mean().detach())
    near(*(each(net, x, target, seed=0)[0] for each in (together, apart)))


def test_shared_parts_of_outputs_need_no_luck():
    """Learned weights of two tasks, of which one batch of one example and its copy are as many."""
    net, x, y = Outputs(lambda code, scale: {"cells": code, "scale": scale}), inputs(1), numbers(1, 4, 5)

    def loss(output, target):
        both = torch.stack(
            [(output["cells"] - target).square().mean((1, 2)), (output["cells"] - target).abs().mean((1, 2))],
            1,
        )
        return (both * output["scale"]).sum(1)

    terms = {"noise": (0.5, Noise(THREAT))}
    parts = [AdversarialLoss(loss, terms, together=kind)(net, x, y, seed=0)[1] for kind in (True, False)]
    near(parts[1]["clean"], loss(net(x), y).mean().detach())
    for name in ("clean", "noise"):
        near(parts[0][name], parts[1][name])


def test_marks_do_not_warn():
    case, x = CASES["spacing, marked"](), inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgd_attack(
            cells(),
            x,
            {"target": case.y, "more": shared([1, 2])},
            objective=lambda o, t: case.error(o, t["target"]),
            threat=THREAT,
            steps=2,
        )
