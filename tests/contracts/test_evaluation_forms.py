"""Whatever is given to an evaluation, it runs and is right, or an error says what to write."""

import math
import sys
import types
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from advreg import J_IND_reg, evaluate, pgd_attack, radius_curve
from advreg.attacks import AttackResult
from advreg.evaluation import Row, Table, bootstrap

X = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
Y = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
WHOLE = {"": {"error": J_IND_reg}}
ATTACK = partial(pgd_attack, objective=J_IND_reg, steps=2)
ERROR = J_IND_reg(X, Y).double().tolist()


def measured(batches=((X, Y),), metrics=WHOLE, attack=None, **options):
    return evaluate(nn.Identity(), list(batches), metrics, attack, **options)


RUNS = {
    "an empty batch at the end": lambda: measured([(X, Y), (X[:0], Y[:0])]),
    "an empty batch first": lambda: measured([(X[:0], Y[:0]), (X, Y)]),
    "an empty batch between": lambda: measured([(X[:2], Y[:2]), (X[:0], Y[:0], []), (X[2:], Y[2:])]),
    "a batch that is a list": lambda: measured([[X, Y]]),
    "batches from a generator": lambda: evaluate(nn.Identity(), ((X, Y) for _ in range(1)), WHOLE),
    "places as numpy's int64": lambda: measured([(X, Y, np.arange(4))]),
    "places as numpy's int32": lambda: measured([(X, Y, np.arange(4, dtype=np.int32))]),
    "places as numpy's uint8": lambda: measured([(X, Y, np.arange(4, dtype=np.uint8))]),
    "places as a list of numpy's integers": lambda: measured([(X, Y, [*np.arange(4)])]),
    "places as torch's int32": lambda: measured([(X, Y, torch.arange(4, dtype=torch.int32))]),
    "groups of numpy's strings": lambda: measured(groups=np.array(["a", "a", "b", "b"])),
    "groups that are numbers": lambda: measured(groups=np.array([7, 7, 8, 8])),
    "targets that are numpy's": lambda: measured(
        [(X, Y.numpy())], {"": {"error": lambda output, target: J_IND_reg(output, torch.from_numpy(target))}}
    ),
    "a device by name": lambda: measured(device="cpu"),
    "a device": lambda: measured(device=torch.device("cpu")),
    "an attack that returns whatever has an x": lambda: measured(
        attack=lambda model, x, y, **options: types.SimpleNamespace(x=x)
    ),
}


@pytest.mark.parametrize("how", RUNS)
def test_what_runs_is_right(how):
    table = RUNS[how]()
    assert [row.value for row in table] == ERROR
    assert [row.index for row in table] == [0, 1, 2, 3]
    assert all(type(row.index) is int and type(row.group) is str for row in table)
    if "groups" in how:
        assert len({row.group for row in table}) == 2
        assert len(table.means(resamples=10)) == 1


@pytest.mark.parametrize("together", [False, True])
def test_an_empty_batch_under_attack_and_in_a_journal(tmp_path, together):
    attacks, radii = {"a": ATTACK}, [0.0, 0.1, 0.2]
    run = partial(radius_curve, nn.Identity(), metrics=WHOLE, attacks=attacks, radii=radii, together=together)
    expected = run([(X, Y)])
    batches = [(X[:0], Y[:0]), (X, Y), (X[:0], Y[:0])]
    assert run(batches) == expected
    assert run(batches, journal=tmp_path) == expected
    assert run(batches, journal=tmp_path) == expected


TEACHES = {
    "no example at all": (lambda: measured([(X[:0], Y[:0])]), ValueError, "there are no examples in these"),
    "x as a numpy array": (
        lambda: measured([(X.numpy(), Y)]),
        TypeError,
        r"x of a batch must be a tensor .*batch 0 is a numpy.ndarray: write torch.from_numpy\(x\)",
    ),
    "x as a list": (lambda: measured([([*X], Y)]), TypeError, r"is a list: write torch.stack\(x\)"),
    "x as a text": (lambda: measured([("a", Y)]), TypeError, "is a str: let the data set return tensors"),
    "x as a number": (lambda: measured([(torch.tensor(1.0), Y)]), TypeError, "x of a batch must be a tensor"),
    "one batch in place of batches": (
        lambda: evaluate(nn.Identity(), (X, Y), WHOLE),
        ValueError,
        r"batch 0 is a Tensor: .*of one batch write \[\(x, y\)\]",
    ),
    "a tensor in place of batches": (
        lambda: evaluate(nn.Identity(), X, WHOLE),
        TypeError,
        r"batches must be a list of \(x, y\), or a DataLoader; got a Tensor",
    ),
    "no batches": (lambda: evaluate(nn.Identity(), None, WHOLE), TypeError, "got a NoneType"),
    "a batch of four": (lambda: measured([(X, Y, Y, Y)]), ValueError, "batch 0 is a tuple of 4"),
    "places that are fractions": (
        lambda: measured([(X, Y, np.arange(4.0))]),
        ValueError,
        "index must be int64 .* has torch.float64",
    ),
    "places that are flags": (
        lambda: measured([(X, Y, [True, False, True, True])]),
        ValueError,
        "index must be int64.* has torch.bool",
    ),
    "places that are names": (
        lambda: measured([(X, Y, ["a", "b", "c", "d"])]),
        ValueError,
        r"index must be int64.*batch 0 has list",
    ),
    "too few places": (lambda: measured([(X, Y, [0, 1])]), ValueError, r"of shape \(2,\)"),
    "groups as one text": (lambda: measured(groups="abcd"), TypeError, "groups must be a list of names"),
    "groups as a generator": (
        lambda: measured(groups=(str(i) for i in range(4))),
        TypeError,
        "groups must be a list of names.*got a generator",
    ),
    "too few groups": (lambda: measured(groups=["a"]), ValueError, "got 1 groups.* indices 0 to 3"),
    "a device that there is not": (
        lambda: measured(device="gpu"),
        ValueError,
        'device must be one that torch has here, such as "cpu" or "cuda"; got \'gpu\'',
    ),
    "a device of another kind": (lambda: measured(device=[1]), ValueError, "device must be one"),
    "metrics without heads": (
        lambda: measured(metrics={"error": J_IND_reg}),
        TypeError,
        r"for 'error' came a function instead of a mapping: write .*\"\": .* for the whole output",
    ),
    "a metric alone": (
        lambda: measured(metrics=J_IND_reg),
        TypeError,
        r"metrics must be {head: {name: function}}",
    ),
    "metrics in a list": (lambda: measured(metrics={"": [J_IND_reg]}), TypeError, "for '' came a list"),
    "a metric by name": (
        lambda: measured(metrics={"": {"error": "J_IND_reg"}}),
        TypeError,
        "the metric 'error' of head '' must be a function",
    ),
    "a metric that is None": (
        lambda: measured(metrics={"": {"error": None}}),
        TypeError,
        "the metric 'error' of head '' must be a function .*got None",
    ),
    "no metrics": (lambda: measured(metrics={"": {}}), ValueError, "expected metrics of one head or more"),
    "a head that there is not": (
        lambda: measured(metrics={"edge": {"error": J_IND_reg}}),
        KeyError,
        "the output has no head 'edge'; it is a Tensor without heads",
    ),
    "radii as a text": (
        lambda: radius_curve(nn.Identity(), [(X, Y)], WHOLE, {"a": ATTACK}, "0.1"),
        TypeError,
        r"radii must be numbers, such as \[0, 0.01, 0.03\]; got '0.1'",
    ),
    "one radius": (
        lambda: radius_curve(nn.Identity(), [(X, Y)], WHOLE, {"a": ATTACK}, 0.1),
        TypeError,
        "radii must be numbers.*got 0.1",
    ),
    "radii that are texts": (
        lambda: radius_curve(nn.Identity(), [(X, Y)], WHOLE, {"a": ATTACK}, ["small"]),
        TypeError,
        "radii must be numbers",
    ),
    "an attack without a name": (
        lambda: radius_curve(nn.Identity(), [(X, Y)], WHOLE, ATTACK, [0.1]),
        TypeError,
        "attacks must be by name.*got a partial",
    ),
    "an attack that is none": (
        lambda: radius_curve(nn.Identity(), [(X, Y)], WHOLE, {"a": "pgd"}, [0.1]),
        TypeError,
        "the attack 'a' must be a function .*got a str",
    ),
    "attack= that is none": (lambda: measured(attack=3), TypeError, "attack must be a function.*got a int"),
    "an attack that returns a tensor": (
        lambda: measured(attack=lambda model, x, y, **options: x),
        TypeError,
        r"must return an AttackResult.*got Tensor: return what pgd_attack returns, .*SimpleNamespace\(x=x\)",
    ),
    "an attack that returns a tuple": (
        lambda: measured(attack=lambda model, x, y, **options: (x, y)),
        TypeError,
        "must return an AttackResult.*got tuple: return what pgd_attack returns",
    ),
    "an attack that loses an example": (
        lambda: measured(attack=lambda model, x, y, **options: AttackResult(x[1:], *[torch.zeros(3)] * 4)),
        TypeError,
        r"with x of shape \(4, 3\); got \(3, 3\)",
    ),
    "a metric that is not per example": (
        lambda: measured(metrics={"": {"mean": lambda output, target: output.mean()}}),
        TypeError,
        "the metric 'mean' must return one number per example",
    ),
}


@pytest.mark.parametrize("how", TEACHES)
def test_what_does_not_run_teaches(how):
    call, error, message = TEACHES[how]
    with pytest.raises(error, match=message):
        call()


def test_a_bar_without_tqdm_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    calls = []
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm, or progress=False"):
        measured(metrics={"": {"counted": lambda output, target: calls.append(1)}}, progress=True)
    assert calls == []


# Values that are infinite or NaN


def with_values(values, metric="distance"):
    return Table(Row(at, "", 0.1, "a", "mask", metric, value) for at, value in enumerate(values))


def test_infinite_values_are_replaced_by_the_worst_that_is_stated_and_counted():
    table = with_values([1.0, 3.0, math.inf, -math.inf])
    (mean,) = table.means(infinite=20.0)
    assert mean._fields[-2:] == ("count", "replaced")
    assert (mean.mean, mean.count, mean.replaced) == (11.0, 4, 2)
    assert (mean.mean, mean.low, mean.high) == bootstrap([1.0, 3.0, 20.0, 20.0], [0, 1, 2, 3])
    assert math.isinf(table.values()[2])
    # A failure never improves a mean: without it, 2.0.
    assert mean.mean > with_values([1.0, 3.0]).means()[0].mean
    (finite,) = with_values([1.0, 3.0]).means(infinite=20.0)
    assert (finite.mean, finite.replaced) == (2.0, 0)
    assert "replaced" not in with_values([1.0, 3.0]).means()[0]._fields
    with pytest.raises(ValueError, match=r"2 are infinite, Row\(index=2, .*means\(infinite=362.0\)"):
        table.means()


@pytest.mark.parametrize("worst", [math.inf, math.nan, "diagonal"])
def test_the_worst_value_is_a_finite_number(worst):
    with pytest.raises(ValueError, match=r"infinite must be a finite number, the worst value of the metric"):
        with_values([1.0]).means(infinite=worst)


def test_one_worst_value_does_not_stand_for_several_metrics():
    table = with_values([1.0, math.inf]) + with_values([math.inf, 2.0], "surface")
    with pytest.raises(
        ValueError, match=r"metrics distance, surface are infinite.*where\(metric='distance'\)"
    ):
        table.means(infinite=20.0)
    assert table.where(metric="surface").means(infinite=20.0)[0].mean == 11.0


@pytest.mark.parametrize("options", [{}, {"infinite": 20.0}])
def test_nan_has_no_mean(options):
    table = with_values([1.0, math.nan, math.inf, math.nan])
    with pytest.raises(
        ValueError, match=r"2 are NaN, Row\(index=1, .*, Row\(index=3, .*network that answers NaN"
    ):
        table.means(**options)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_stays_so_in_the_table_and_the_journal(tmp_path, value):
    def spoilt(output, target):
        found = J_IND_reg(output, target)
        found[1] = value
        return found

    curve = partial(
        radius_curve,
        nn.Identity(),
        [(X, Y)],
        {"": {"e": spoilt}},
        {"a": ATTACK},
        [0.0, 0.1],
        journal=tmp_path,
    )
    first = curve()
    for table in (first, curve(), evaluate(nn.Identity(), [(X, Y)], {"": {"e": spoilt}})):
        values = [row.value for row in table if row.index == 1]
        np.testing.assert_array_equal(values, [value] * len(values))
        assert all(math.isfinite(row.value) for row in table if row.index != 1)
        with pytest.raises(ValueError, match=r"Row\(index=1, "):
            table.means()
    assert first == curve()
