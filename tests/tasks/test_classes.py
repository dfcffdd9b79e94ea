"""Tasks of classes and labels: what they judge by, and an attack on each."""

import pytest
import torch
from networks import seeded, uniform
from torch import nn

from advreg import Threat, auto_attack, linf, pgd_attack
from advreg.metrics import accuracy, label_accuracy, label_f1
from advreg.objectives import at
from advreg.tasks import classes, labels

THREAT = Threat(linf, 0.1)
X = uniform(8, 12)


def net(outputs):
    """Scores (B, outputs) of a mean of 0 over the inputs, so that all classes come."""
    model = seeded(lambda: nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, outputs))).eval()
    with torch.no_grad():
        model[2].bias -= model(X).mean(0)
    return model


def attacked(task, model, y, budget=60):
    return auto_attack(model, X, y, heads={"": task}, threat=THREAT, budget=budget)[""]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_classes_are_attacked_until_they_are_wrong(count):
    model = net(count)
    y = model(X).argmax(1)
    found = attacked(classes(), model, y)
    assert found.clean.tolist() == [1] * 8
    assert torch.equal(found.value, accuracy(model(found.x), y))
    assert found.value.mean() < 1
    assert (found.passes[found.value == 0] < 60).all()
    assert (found.passes[found.value == 1] == 60).all()


@pytest.mark.parametrize("count", [2, 5])
def test_every_member_of_classes_climbs(count):
    model = net(count)
    y = model(X).argmax(1)
    for member in classes().members:
        found = pgd_attack(
            model, X, y, objective=member.objective, threat=THREAT, rule=member.rule,
            schedule=member.schedule, steps=10, random_start=False,
        )  # fmt: skip
        assert (found.gain > 0).all(), member.name


@pytest.mark.parametrize(("score", "metric"), [("accuracy", label_accuracy), ("f1", label_f1)])
def test_labels_with_gaps_in_each_form_of_the_target(score, metric):
    model = net(6)
    truth = (model(X) > 0).float()
    there = torch.rand(8, 6, generator=torch.Generator().manual_seed(3)) > 0.3
    gaps = truth.masked_fill(~there, torch.nan)
    first = attacked(labels(score=score, valid=torch.isfinite), model, gaps)
    assert first.clean.tolist() == [1] * 8
    torch.testing.assert_close(first.value, metric(model(first.x), truth, valid=there))
    assert (first.value < 1).any()
    for task, y in (
        (labels(score=score), {"target": gaps, "valid": there}),
        (labels(score=score), {"target": gaps, "valid": there.int()}),
        (labels(score=score, valid=lambda target: target >= 0), truth.masked_fill(~there, -1).long()),
    ):
        found = attacked(task, model, y)
        assert torch.equal(found.x, first.x)
        assert torch.equal(found.value, first.value)


def test_members_of_labels_are_worse_where_labels_are():
    output, target = torch.tensor([[3.0, -2.0, 1.0]]), torch.tensor([[1, 0, 0]])
    worse = torch.tensor([[0.1, 1.0, 1.0]])
    for score in ("accuracy", "f1"):
        for member in labels(score=score).members:
            if "masked" not in member.name:
                for share in (0.0, 0.5, 1.0):
                    form = at(member.objective, share)
                    assert form(worse, target) > form(output, target), member.name
    first = labels().members[0].objective
    assert at(first, 0.0)(output, target) != at(first, 1.0)(output, target)


def test_options_that_are_refused():
    with pytest.raises(ValueError, match="score must be 'accuracy' or 'f1'; got 'recall'"):
        labels(score="recall")
    with pytest.raises(TypeError, match=r"valid must be a function of the target.*got a tensor: put it into"):
        labels(valid=torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeError, match="valid must be a function"):
        labels(valid=True)
    with pytest.raises(
        TypeError, match=r"'valid' must be bool or whole numbers; got torch.float32: pass flags"
    ):
        labels().metric(torch.zeros(1, 2), {"target": torch.zeros(1, 2), "valid": torch.ones(1, 2)})
    with pytest.raises(KeyError, match=r"must have 'target', and may have 'valid'; got \['labels'\]"):
        labels().metric(torch.zeros(1, 2), {"labels": torch.zeros(1, 2)})
