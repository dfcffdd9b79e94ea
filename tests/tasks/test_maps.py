"""Tasks of depth and flow: their metrics, their members, layouts and gaps."""

import pytest
import torch
from networks import seeded, uniform
from torch import nn

from advreg import Threat, auto_attack, linf
from advreg.metrics import abs_rel, delta, end_point_error, rmse, sq_rel
from advreg.objectives import at
from advreg.tasks import maps

X = uniform(4, 1, 6, 5)
METRICS = {
    "abs_rel": abs_rel,
    "sq_rel": sq_rel,
    "delta": delta,
    "rmse": rmse,
    "end_point_error": end_point_error,
}


class Dense(nn.Module):
    """A positive map, (B, C, 6, 5)."""

    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, channels, 3, padding=1)
        )

    def forward(self, x):
        return 1 + 3 * (5 * self.layers(x)).sigmoid()


def case(metric):
    channels = 2 if metric == "end_point_error" else 1
    model = seeded(lambda: Dense(channels)).eval()
    return model, (model(X) * (1 + 0.24 * uniform(4, channels, 6, 5))).detach()


@pytest.mark.parametrize("metric", METRICS)
def test_an_attack_is_judged_by_the_metric(metric):
    model, y = case(metric)
    task = maps(metric)
    found = auto_attack(model, X, y, heads={"": task}, threat=Threat(linf, 0.2), budget=60)[""]
    torch.testing.assert_close(found.value, METRICS[metric](model(found.x).detach(), y))
    assert (task.sign * found.value > task.sign * found.clean).all()


@pytest.mark.parametrize("metric", ["abs_rel", "sq_rel", "delta", "rmse"])
def test_layouts_and_forms_of_the_target_are_the_same_attack(metric):
    model, y = case(metric)
    y[:, :, 2] = 0
    there = y > 0
    # Of maps that are judged by ratios, 0 is missing by itself; of the others it must be said.
    valid = None if metric != "rmse" else (lambda target: target > 0)
    options = {"threat": Threat(linf, 0.2), "budget": 30}
    first = auto_attack(model, X, y, heads={"": maps(metric, valid=valid)}, **options)[""]
    torch.testing.assert_close(first.value, METRICS[metric](model(first.x).detach(), y, valid=there))
    gaps = y.masked_fill(~there, torch.nan)
    for target, task in (
        (y[:, 0], maps(metric, valid=valid)),
        (gaps, maps(metric, valid=torch.isfinite)),
        (gaps[:, 0], maps(metric, valid=torch.isfinite)),
        ({"target": gaps, "valid": there[:, 0]}, maps(metric)),
    ):
        found = auto_attack(model, X, target, heads={"": task}, **options)[""]
        torch.testing.assert_close(found.value, first.value)
        torch.testing.assert_close(found.x, first.x)


@pytest.mark.parametrize("metric", METRICS)
def test_members_are_larger_where_the_map_is_worse_and_refuse_other_shapes(metric):
    model, y = case(metric)
    if metric != "end_point_error":
        y = y[:, 0]
    output = model(X).detach()
    for member in maps(metric).members:
        form = at(member.objective, 0.0)
        assert (form(2 * output, y) > form(output, y)).all(), member.name
        with pytest.raises(ValueError, match="nothing is broadcast"):
            form(output, y[:1])
        with pytest.raises(ValueError, match="must be finite"):
            form(output, y.index_fill(0, torch.tensor(1), torch.nan))


def test_the_threshold_is_that_of_the_metric_and_of_its_stand_in():
    task = maps("delta", threshold=1.1)
    output, target = torch.full((1, 2, 2), 1.2), torch.ones(1, 2, 2)
    assert task.metric(output, target) == 0
    assert maps("delta").metric(output, target) == 1
    assert (
        task.members[0].objective(output, target) > 0.5 > maps("delta").members[0].objective(output, target)
    )


def test_options_that_are_refused():
    with pytest.raises(ValueError, match=r"metric must be 'abs_rel', .* or 'end_point_error'; got 'epe'"):
        maps("epe")
    with pytest.raises(ValueError, match="threshold must be above 1"):
        maps("delta", threshold=0.5)
    with pytest.raises(ValueError, match=r"maps must be .*for numbers use values\(\)"):
        maps("rmse").metric(torch.zeros(3, 4), torch.zeros(3, 4))
