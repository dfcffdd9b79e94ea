"""Targets of any structure: values, gains and inputs are those of each example with its target alone."""

import pytest
import torch
from networks.structured import CASES, COUNT, by_hand, cells, inputs

from advreg import Execution, Steepest, Threat, auto_attack, linf, negate, pgd_attack
from advreg._core.fingerprint import describe
from advreg.attacks import random_noise, score_attack, square_attack
from advreg.rules import Shrinking
from advreg.tasks import Member, Task

THREAT = Threat(linf, 0.1)
PARTS = Execution(micro_batch=3)
OPTIONS = {"threat": THREAT, "steps": 3, "rule": Steepest(0.4)}
WAYS = {
    "restarts in parts": {"restarts": 2, "execution": PARTS},
    "to the last, in a schedule": {
        "keep": "last",
        "execution": Execution(micro_batch=1),
        "schedule": Shrinking(),
    },
}
SOME = ("list of dicts", "table", "flat rows", "flat rows, weights as long as a part", "nest", "spacing")
each_case = pytest.mark.parametrize("name", CASES)


def near(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def assert_right(case, found, x, *, best=True):
    """Value and gain are those of the inputs that came back, which moved, no farther than they may."""
    near(found.value, by_hand(case, found.x))
    near(found.gain, found.value - by_hand(case, x))
    assert not best or (found.gain >= 0).all()
    assert (found.x != x).flatten(1).any(1).all()
    assert THREAT.contains(found.x, x).all()


def alone(case, attack, x, **options):
    """The inputs that are found for each example alone, with its own target."""
    return torch.cat(
        [
            attack(cells(), x[at : at + 1], case.mark(one), index=torch.tensor([at]), **options).x
            for at, one in enumerate(case.alone)
        ]
    )


@pytest.mark.parametrize("way", WAYS)
@each_case
def test_an_attack(name, way):
    case, x = CASES[name](), inputs()
    options = {"objective": case.error, **OPTIONS, **WAYS[way]}
    found = pgd_attack(cells(), x, case.y, **options)
    assert_right(case, found, x, best="keep" not in WAYS[way])
    if "restarts" in WAYS[way]:
        near(found.x, alone(case, pgd_attack, x, **options))


@each_case
def test_examples_that_are_finished_leave(name):
    case, x = CASES[name](), inputs()
    options = {"objective": case.error, "execution": PARTS, "restarts": 2, **OPTIONS}
    before, after = by_hand(case, x), pgd_attack(cells(), x, case.y, **options).value
    # Some are finished at the start, some on the way, some never.
    limit = float(torch.cat([before, after]).quantile(0.55))

    def stop(output, target):
        return case.error(output, target) > limit

    found = pgd_attack(cells(), x, case.y, stop=stop, **options)
    near(found.value, by_hand(case, found.x))
    near(found.gain, found.value - before)
    assert torch.equal(found.finished, found.value > limit)
    assert found.finished.any()


@each_case
def test_a_judge(name):
    case, x = CASES[name](), inputs()
    found = pgd_attack(
        cells(),
        x,
        case.y,
        objective=negate(case.error),
        judge=lambda output, target: 3 * case.error(output, target),
        execution=PARTS,
        **OPTIONS,
    )
    near(found.value, 3 * by_hand(case, found.x))
    near(found.gain, found.value - 3 * by_hand(case, x))


@pytest.mark.parametrize("name", SOME)
def test_the_automatic_attack(name):
    case, x = CASES[name](), inputs()
    limit = float(by_hand(case, x).quantile(0.7))  # than which nothing is worse, so that examples leave
    members = (
        Member("signs", case.error, Steepest(0.4)),
        Member("shrinking", case.error, schedule=Shrinking()),
    )
    task = Task(case.error, "higher", members, worst=limit)
    found = auto_attack(cells(), x, case.y, heads={"": task}, threat=THREAT, budget=80, execution=PARTS)[""]
    near(found.value, by_hand(case, found.x))
    near(found.clean, by_hand(case, x))
    assert (found.value >= found.clean).all()
    assert len(found.passes.unique()) > 1  # some left early


SEARCHES = {
    "square_attack": (square_attack, {"queries": 6}),
    "score_attack": (score_attack, {"steps": 2, "draws": 2}),
    "random_noise": (random_noise, {"draws": 4}),
}


@pytest.mark.parametrize(
    ("name", "search"),
    [(name, "square_attack") for name in CASES]
    + [(name, search) for name in SOME for search in ("score_attack", "random_noise")],
)
def test_attacks_without_gradients(name, search):
    case, x = CASES[name](), inputs()
    attack, options = SEARCHES[search]
    options = {
        "objective": case.error,
        "threat": THREAT,
        "execution": PARTS,
        **options,
    }
    found = attack(cells(), x, case.y, **options)
    near(found.value, by_hand(case, found.x))
    near(found.gain, found.value - by_hand(case, x))


@each_case
def test_the_callers_target_stays_as_it_is(name):
    case, x = CASES[name](), inputs()
    pgd_attack(cells(), x, case.y, objective=case.error, execution=PARTS, **OPTIONS)
    assert describe(case.y) == describe(CASES[name]().y)


def test_the_batch_has_examples_enough_to_be_cut():
    assert PARTS.micro_batch < COUNT
