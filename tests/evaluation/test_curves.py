"""What is measured: rows, heads, threats, and errors that teach."""

from functools import partial

import numpy as np
import pytest
import torch
from networks import two_heads
from networks.measured import ATTACKS, GROUPS, METRICS, RADII, batches, curve

from advreg import (
    J_IND_reg,
    J_IND_seg,
    Threat,
    dice,
    evaluate,
    l2,
    linf,
    on,
    pgd_attack,
    point_error,
)
from advreg.evaluation import Row
from advreg.execution import frozen


def test_rows_are_what_a_plain_loop_gives():
    model = two_heads()
    expected = []
    for attack, run in ATTACKS.items():
        for radius in RADII:
            for x, y, index in batches():
                if radius:
                    x = run(model, x, y, threat=Threat(linf, radius), seed=3, index=index).x  # noqa: PLW2901 - attacked
                with torch.no_grad():
                    output = model(x)
                error, overlap = point_error(output["contour"], y["contour"]), dice(output["mask"], y["mask"])
                for at, i in enumerate(index.tolist()):
                    place = (i, GROUPS[i], radius, attack)
                    expected += [
                        Row(*place, "contour", "error", error[at].item()),
                        Row(*place, "mask", "dice", overlap[at].item()),
                    ]
    assert curve(model, seed=3).rows == tuple(expected)


def test_every_head_is_measured_under_every_attack():
    table = curve()
    means = {mean[:4]: mean.mean for mean in table.means(resamples=10)}
    for attack, other in (("contour", "mask"), ("mask", "contour")):
        assert means["contour", "contour", "error", 0.05] >= means[attack, "contour", "error", 0.0]
        assert means[attack, "mask", "dice", 0.05] != means[other, "mask", "dice", 0.05]
        assert means[attack, "contour", "error", 0.05] != means[other, "contour", "error", 0.05]
    assert means["mask", "mask", "dice", 0.05] < means["contour", "mask", "dice", 0.05]
    assert means["contour", "contour", "error", 0.05] > means["mask", "contour", "error", 0.05]


def test_evaluate_is_one_point_of_the_curve():
    attack = partial(ATTACKS["mask"], threat=Threat(linf, 0.02))
    table = evaluate(two_heads(), batches(), METRICS, attack, name="mask", radius=0.02, groups=GROUPS)
    assert table == curve().where(attack="mask", radius=0.02)
    untold = evaluate(two_heads(), batches(), METRICS, attack)
    assert {(row.attack, row.group) for row in untold} == {("attack", "")}
    assert all(np.isnan(row.radius) for row in untold)


def test_the_threat_is_the_callers_but_for_its_radius():
    seen = []

    def attack(model, x, y, *, threat, seed, index):
        seen.append((threat.norm, threat.radius, threat.bounds, seed, index.tolist()))
        return pgd_attack(model, x, y, objective=on("mask", J_IND_seg), threat=threat, steps=0, seed=seed)

    curve(attacks={"a": attack}, radii=[0.5, 0.25], threat=Threat(l2, 9.0, bounds=(-1.0, 2.0)), seed=8)
    assert seen[:3] == [
        (l2, 0.5, (-1.0, 2.0), 8, [0, 1, 2, 3]),
        (l2, 0.25, (-1.0, 2.0), 8, [0, 1, 2, 3]),
        (l2, 0.5, (-1.0, 2.0), 8, [4, 5, 6, 7]),
    ]


@pytest.mark.parametrize("sizes", [(14,), (1,) * 14, (5, 5, 4)])
def test_results_do_not_depend_on_the_size_of_batches(sizes):
    class Smooth(torch.nn.Module):
        def forward(self, x):
            return {"contour": torch.tanh(3 * x.flatten(1)[:, :10].unflatten(1, (5, 2)))}

    options = {
        "metrics": {"contour": {"error": point_error}},
        "attacks": {"contour": ATTACKS["contour"]},
    }
    one, other = curve(Smooth(), **options), curve(Smooth(), sizes, **options)
    np.testing.assert_allclose(other.values(), one.values(), rtol=1e-5, atol=1e-6)
    assert [row[:6] for row in one] == [row[:6] for row in other]


X, Y = torch.rand(2, 3), torch.zeros(2, 3)


WHOLE = {"": {"error": J_IND_reg}}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: curve(radii=[0.0, 0.1, 0.1]), ValueError, "distinct radii of 0 or more; got .*0.1, 0.1"),
        (lambda: curve(radii=[-0.1]), ValueError, "distinct radii of 0 or more"),
        (lambda: curve(radii=[float("nan")]), ValueError, "distinct radii of 0 or more"),
        (lambda: curve(radii=[]), ValueError, "distinct radii"),
        (lambda: curve(attacks={}), ValueError, r"got attacks \[\]"),
        (lambda: curve(metrics={}), ValueError, "expected metrics of one head or more"),
        (lambda: curve(batches=[]), ValueError, "a generator is empty when it is used a second time"),
        (lambda: curve(metrics={"edge": {"dice": dice}}), KeyError, "has no head 'edge'"),
        (lambda: evaluate(len, [(X, Y, Y, Y)], WHOLE), ValueError, "batch 0 is a list|batch 0 is a tuple"),
        (lambda: evaluate(len, [(X, Y, torch.ones(2))], WHOLE), ValueError, "index must be int64.*float32"),
        (
            lambda: evaluate(lambda x: x, [(X, Y, [0, 1])] * 2, WHOLE),
            ValueError,
            "one of batch 1 comes again",
        ),
        (lambda: evaluate(len, [(X, Y, [3, 3])], WHOLE), ValueError, r"its index is \[3, 3\]"),
        (
            lambda: evaluate(len, [(X, Y)], WHOLE, groups=["a"]),
            ValueError,
            "got 1 groups, and batch 0 has the indices 0 to 1",
        ),
        (
            lambda: evaluate(len, [(X, Y)], WHOLE, radius=0.1),
            ValueError,
            "clean inputs have no radius; got 0.1",
        ),
        (
            lambda: evaluate(lambda x: x, [(X, Y)], WHOLE, lambda *_, **__: X),
            TypeError,
            "must return an AttackResult.*got Tensor",
        ),
        (
            lambda: evaluate(lambda x: x, [(X, Y)], {"": {"mean": lambda o, t: o.mean()}}),
            TypeError,
            "the metric 'mean' must return one",
        ),
    ],
)
def test_errors_teach(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_model_must_not_mix_examples():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"), frozen(model):
        pass
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        evaluate(model, [(X, Y)], WHOLE)
