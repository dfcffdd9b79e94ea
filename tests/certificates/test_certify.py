"""Certificates against closed forms, their coverage by simulation, and what they share with evaluations."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest, norm
from tests.networks import TwoHeads, seeded, uniform

from advreg import Keys, Threat, auto_attack, dice, l2, point_error, radius_curve
from advreg.certificates import (
    Certificate,
    certified_curve,
    certify,
    draws,
    largest_radius,
    over_draws,
    under_noise,
)
from advreg.certificates._bounds import above, below, looks
from advreg.certificates._noise import GRID, with_noise
from advreg.evaluation import Table
from advreg.tasks import Task, masks

VALUE = {worse: Task(lambda output, target: output, worse) for worse in ("lower", "higher")}


def linear(entries=12):
    """A linear model, whose worst case within an L2 radius is known, and its weights."""
    weights = uniform(entries) - 0.4
    return (lambda x: x @ weights), weights


@pytest.mark.parametrize("worse", ["lower", "higher"])
def test_of_a_linear_model_the_bound_holds_and_is_tight_to_the_binomial_error(worse):
    model, weights = linear()
    x, n, sigma, confidence = uniform(20, 12), 1500, 0.5, 0.999
    sign = 1 if worse == "higher" else -1
    found = certify(
        model,
        x,
        x,
        {"": {"f": VALUE[worse]}},
        sigma=sigma,
        radii=[0, 0.25, 0.5],
        samples=n,
        confidence=confidence,
    )
    for radius in (0.0, 0.25, 0.5):
        worst = (model(x) + sign * radius * weights.norm()).double().numpy()
        beyond = sign * (found.where(radius=radius).values() - worst)
        # two more errors of an empirical quantile of the normal distribution than the confidence asks for
        chance = norm.cdf(-radius / sigma)
        low = chance - (norm.ppf(confidence) + 4) * math.sqrt(chance * (1 - chance) / n)
        slack = sigma * float(weights.norm()) * (norm.ppf(chance) - norm.ppf(low))
        assert (beyond >= 0).mean() >= 0.95, radius
        assert (beyond <= slack).all(), radius


@pytest.mark.parametrize("tolerance", [None, 0.3])
@pytest.mark.parametrize("worse", ["lower", "higher"])
def test_over_ten_thousand_examples_bounds_fail_no_more_often_than_stated(worse, tolerance):
    model, weights = linear(2)
    x, confidence, radii = uniform(10_000, 2), 0.95, [0.0, 0.2]
    task, sign = VALUE[worse], 1 if worse == "higher" else -1
    found = certify(
        model,
        x,
        x,
        {"": {"f": task}},
        sigma=0.25,
        radii=radii,
        samples=200,
        confidence=confidence,
        tolerance=tolerance,
    )
    for radius in radii:
        worst = (model(x) + sign * radius * weights.norm()).double().numpy()
        failed = int((sign * (found.where(radius=radius).values() - worst) < 0).sum())
        assert failed <= binom.ppf(1 - 1e-6, len(x), 1 - confidence), radius
        if tolerance is None:  # nor much more rarely: the bound is exact, and would otherwise be loose
            assert failed >= binom.ppf(1e-6, len(x), 0.02), radius


def test_all_bounds_at_once_fail_with_the_chance_that_is_stated_for_one():
    model, weights = linear(2)
    tries, examples = 400, 10
    x = uniform(examples, 2).repeat(tries, 1)
    options = {"sigma": 0.25, "radii": [0.2], "samples": 200, "confidence": 0.9}
    found = certify(model, x, x, {"": {"f": VALUE["lower"]}}, jointly=examples, **options)
    worst = (model(x) - 0.2 * weights.norm()).double().numpy()
    any_failed = (found.values() > worst).reshape(tries, examples).any(1).sum()
    assert any_failed <= binom.ppf(1 - 1e-6, tries, 0.1)
    assert "of all bounds of 10 examples at once" in found.statement


@pytest.mark.parametrize("n", [1, 7, 100, 1000])
@pytest.mark.parametrize("chance", [0.01, 0.16, 0.5])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_order_statistics_are_the_best_that_the_confidence_allows(n, chance, alpha):
    k = below(n, chance, alpha)
    assert k == 0 or binom.cdf(k - 1, n, chance) <= alpha
    assert binom.cdf(k, n, chance) > alpha
    j = above(n, chance, alpha)
    assert j > n or binom.sf(j - 1, n, chance) <= alpha
    assert k <= j


def test_beyond_the_largest_radius_the_worst_number_stands():
    model, _ = linear()
    x = uniform(2, 12)
    far = largest_radius(100, 0.25)
    task = Task(lambda output, target: output, "lower", worst=-7.0)
    found = certify(model, x, x, {"": {"f": task}}, sigma=0.25, radii=[far - 1e-6, far + 1e-6], samples=100)
    inside, outside = found.where(radius=far - 1e-6).values(), found.where(radius=far + 1e-6).values()
    assert (inside > -7).all()
    assert (outside == -7).all()


def test_looks_share_the_chance_to_fail():
    several = looks(1000, 0.01, adaptive=True)
    assert [look.samples for look in several] == [125, 250, 500, 1000]
    assert sum(look.alpha for look in several) == pytest.approx(0.01)
    assert [tuple(look) for look in looks(1000, 0.01, adaptive=False)] == [(1000, 0.01)]


def test_sampling_stops_where_bounds_can_no_longer_move():
    passes = []

    def model(x):
        passes.append(len(x))
        return torch.where(x[:, 0] > 100, x[:, 1], 0.0)  # the first kind is certain, the second is not

    x = torch.tensor([[0.0, 0.5], [200.0, 0.5]])
    options = {"sigma": 0.25, "radii": [0.1], "samples": 1600, "tolerance": 0.05}
    certify(model, x, x, {"": {"f": VALUE["lower"]}}, **options)
    assert 1700 < sum(passes) < 1720  # 100 of the first, 1600 of the second, and the look at the clean inputs


def study():
    """A network with two heads, and a batch."""
    net = seeded(TwoHeads).eval()
    x = uniform(6, 1, 8, 8)
    with torch.no_grad():
        out = net(x)
    return net, x, {"contour": out["contour"] + 0.2, "mask": (out["mask"] > 0).float()}


METRICS = {"mask": {"dice": masks()}, "contour": {"error": Task(point_error, "higher")}}


def test_no_attack_finds_what_is_guaranteed_not_to_be():
    net, x, y = study()
    radii, sigma = [0.1, 0.3], 0.25
    bounds = certify(net, x, y, METRICS, sigma=sigma, radii=radii, samples=300)
    noisy = draws(net, sigma, 15, seed=1)
    judge = draws(net, sigma, 301, seed=2)  # on other draws than the attack's
    for radius in radii:
        for head, (name, task) in {
            head: next(iter(tasks.items())) for head, tasks in METRICS.items()
        }.items():
            threat = Threat(l2, radius, bounds=None)
            found = auto_attack(noisy, x, y, heads={head: under_noise(task)}, threat=threat, budget=30)
            with torch.no_grad():
                value = over_draws(task.metric)(judge(found[head].x)[head], y[head]).double().numpy()
            held = bounds.where(radius=radius, head=head, metric=name).values()
            assert (task.sign * value <= task.sign * held).all()


def test_a_certificate_stands_beside_attacks_in_one_table(tmp_path):
    net, x, y = study()
    bounds = certify(net, x, y, METRICS, sigma=0.25, radii=[0.0, 0.1], samples=100)
    assert isinstance(bounds, Certificate)
    assert {row.bound for row in bounds} == {"guaranteed"}
    attacks = {"none": lambda model, x, y, **told: type("Found", (), {"x": x})}
    metrics = {"mask": {"dice": dice}}
    found = radius_curve(net, [(x, y)], metrics, attacks, [0.0, 0.1], threat=Threat(l2, 0.0))
    both = found + bounds
    assert type(both) is Table
    assert (
        both.where(bound="guaranteed", head="mask").values().tolist()
        == bounds.where(head="mask").values().tolist()
    )
    assert Table.load(both.save(tmp_path / "both.csv")) == both
    assert [
        mean.bound for mean in both.means(by=["bound", "metric"], infinite=9.0) if mean.metric == "dice"
    ] == [
        "found",
        "guaranteed",
    ]
    assert "bound: guaranteed" in repr(bounds)
    assert repr(bounds).endswith("here 8 r")


def test_a_file_without_the_column_holds_what_was_found(tmp_path):
    path = tmp_path / "old.csv"
    path.write_text('"index","group","radius","attack","head","metric","value"\n0,"",0.1,"a","","m",0.5\n')
    assert [row.bound for row in Table.load(path)] == ["found"]
    path.write_text(
        '"index","group","radius","attack","head","metric","value","bound"\n0,"",0.1,"a","","m",0.5,"x"\n'
    )
    with pytest.raises(ValueError, match="'found' or 'guaranteed'; got 'x'"):
        Table.load(path)


def test_an_example_has_the_same_bounds_in_any_batch_and_shard(tmp_path):
    net, x, y = study()
    options = {"sigma": 0.25, "radii": [0.1, 0.2], "samples": 130, "tolerance": 0.01}
    whole = certify(net, x, y, METRICS, **options)
    split = [(x[i : i + 2], {k: v[i : i + 2] for k, v in y.items()}) for i in (0, 2, 4)]
    curve = certified_curve(net, split, METRICS, **options)
    np.testing.assert_allclose(curve.values(), whole.values(), rtol=1e-5, atol=1e-6)
    assert curve.statement.endswith("sqrt(entries of an input)")
    journal = tmp_path / "journal"
    for shard in ((0, 2), (1, 2)):
        certified_curve(net, split, METRICS, journal=journal, shard=shard, **options)
    assert certified_curve(net, split, METRICS, journal=journal, **options) == curve
    with pytest.raises(ValueError, match="radii"):
        certified_curve(net, split, METRICS, journal=journal, **{**options, "radii": [0.1]})


def test_rounding_leaks_nothing_of_the_input():
    """A model that reads the last bits of the sum sees the same of inputs that are alike in the theory."""
    x = torch.full((1, 1000), 0.3, dtype=torch.float64)
    normal = Keys(0, torch.arange(1)).fine_normal(x[:1])
    noisy = with_noise(x, normal, 0.25)
    steps = noisy / GRID
    assert (steps == steps.round()).all()
    apart = 12345 * GRID
    assert (with_noise(x + apart, normal, 0.25) - noisy == apart).all()  # exactly, in every bit


def test_fine_normal_numbers_are_normal_and_belong_to_the_example():
    numbers = Keys(3, torch.arange(50)).fine_normal(torch.zeros(50, 2001))
    assert numbers.dtype == torch.float64
    assert kstest(numbers.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(float((numbers[:, :1000] * numbers[:, 1000:2000]).mean())) < 0.02
    alone = Keys(3, torch.tensor([7])).fine_normal(torch.zeros(1, 2001))
    assert torch.equal(numbers[7], alone[0])
    assert not torch.equal(
        numbers[7], Keys(3, torch.tensor([7])).fold_in(1).fine_normal(torch.zeros(1, 2001))[0]
    )


def test_a_metric_that_is_nan_under_noise_is_refused():
    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match="metric 'f' is NaN under noise for example"):
        certify(lambda x: x[:, 0].sub(1).sqrt(), x, x, {"": {"f": VALUE["lower"]}}, sigma=0.1, radii=[0.1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sigma": 0.0}, ValueError, "sigma must be the deviation"),
        ({"radii": []}, ValueError, "distinct, finite L2 radii"),
        ({"radii": [0.1, 0.1]}, ValueError, "distinct, finite L2 radii"),
        ({"radii": [-1]}, ValueError, "distinct, finite L2 radii"),
        ({"samples": 0}, ValueError, "samples=0"),
        ({"confidence": 1.0}, ValueError, r"confidence=1\.0"),
        (
            {"metrics": {"mask": {"dice": dice}}},
            TypeError,
            "must be a task, which says which way it is worse; got dice",
        ),
        ({"metrics": {"mask": masks()}}, TypeError, "metrics must be {head: {name: task}}"),
        ({"metrics": {}}, TypeError, "metrics must be {head: {name: task}}"),
        ({"x": torch.full((6, 1, 8, 8), math.nan)}, ValueError, "finite"),
    ],
)
def test_mistakes_are_named(change, error, message):
    net, x, y = study()
    given = {"x": x, "y": y, "metrics": METRICS, "sigma": 0.25, "radii": [0.1], "samples": 20, **change}
    with pytest.raises(error, match=message):
        certify(net, **given)


def test_a_task_whose_worst_number_is_not_the_worst_is_refused():
    x, task = uniform(2, 3), Task(lambda output, target: output, "lower", worst=0.0)
    with pytest.raises(
        ValueError, match=r"says that nothing is worse than 0; got -.*give it its worst number"
    ):
        certify(lambda x: x[:, 0] - 5, x, x, {"": {"f": task}}, sigma=0.1, radii=[0.1], samples=50)


def test_an_attack_with_an_attribute_called_bounds_is_still_an_attack():
    class Attack:
        bounds = (0, 1)

        def __call__(self, model, x, y, **told):
            return type("Found", (), {"x": x})

    net, x, y = study()
    table = radius_curve(
        net, [(x, y)], {"mask": {"dice": dice}}, {"own": Attack()}, [0.1], threat=Threat(l2, 0.0)
    )
    assert {row.bound for row in table} == {"found"}
