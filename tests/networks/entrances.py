"""Every way into the library that runs a model, with one signature: `(model, x, y, f, execution, threat)`.

The model has heads "a" and "b", `(B, 3)`, from `(B, 6)`; `f` is what is ascended or measured of one head.
"""

from functools import partial

import torch
from torch import nn

from advreg import (
    Execution,
    Keys,
    Steepest,
    auto_attack,
    diagnose,
    evaluate,
    on,
    ood_attack,
    pgd_attack,
    radius_curve,
)
from advreg.attacks import power_start, random_noise, score_attack, square_attack, tradeoff
from advreg.detectors import DisagreementDetector, MahalanobisDetector, scores
from advreg.execution import evaluating, running
from advreg.objectives import Within
from advreg.rules import Adaptive, Shrinking
from advreg.tasks import Member, Task
from advreg.training import Adversary


def measured(metric):
    return {"a": {"error": metric}, "b": {"error": metric}}


def task(f):
    return Task(f, "higher", (Member("plain", f), Member("normalised", f, Adaptive(), Shrinking())))


def adversarial(model, x, y, f, execution, threat):
    adversary = Adversary(on("a", f), threat, Steepest(0.5), 4, execution=execution)
    with evaluating(model):
        return adversary(model, x, y, Keys(0, torch.arange(len(x))))


def detected(model, x, y, f, execution, threat):
    del y, execution, threat
    detector = DisagreementDetector(model, on("a", f), samples=2)
    fitted = MahalanobisDetector(model, "inner.norm").fit([x.repeat(5, 1)])
    return scores(detector, [x]), scores(fitted, [x])


ENTRANCES = {
    "pgd_attack": lambda m, x, y, f, e, t: pgd_attack(
        m, x, y, objective=on("a", f), threat=t, steps=3, restarts=2, execution=e
    ),
    "ood_attack": lambda m, x, y, f, e, t: ood_attack(
        m,
        x,
        x.flip(0),
        objective=on("a", f),
        threat=t,
        steps=3,
        execution=e,
        match={"a": Within(on("a", f), high=0.1)},
    ),
    "auto_attack": lambda m, x, y, f, e, t: auto_attack(
        m, x, y, heads={"a": task(f), "b": task(f)}, threat=t, budget=70, execution=e
    ),
    "tradeoff": lambda m, x, y, f, e, t: tradeoff(
        m, x, y, heads={"a": task(f), "b": task(f)}, threat=t, points=3, steps=2, execution=e
    ),
    "square_attack": lambda m, x, y, f, e, t: square_attack(
        m, x, y, objective=on("a", f), threat=t, queries=5, execution=e
    ),
    "score_attack": lambda m, x, y, f, e, t: score_attack(
        m, x, y, objective=on("a", f), threat=t, steps=2, draws=2, execution=e
    ),
    "random_noise": lambda m, x, y, f, e, t: random_noise(
        m, x, y, objective=on("a", f), threat=t, draws=3, execution=e
    ),
    "power_start": lambda m, x, y, f, e, t: power_start(m, x, threat=t, head="a"),
    "diagnose": lambda m, x, y, f, e, t: diagnose(
        m, x, y, objective=on("a", f), threat=t, steps=10, queries=30, execution=e
    ),
    "Adversary": adversarial,
    "evaluate": lambda m, x, y, f, e, t: evaluate(
        m,
        [(x, y)],
        measured(f),
        attack=partial(pgd_attack, objective=on("a", f), threat=t, steps=2, execution=e),
    ),
    "radius_curve": lambda m, x, y, f, e, t: radius_curve(
        m,
        [(x, y)],
        measured(f),
        {"it": partial(pgd_attack, objective=on("a", f), steps=2, execution=e)},
        [0.0, 0.1],
    ),
    "detectors": detected,
    "running": lambda m, x, y, f, e, t: run(m, x, y, f, e),
}
EXECUTIONS = {
    "as it is": Execution(),
    "bfloat16, in parts": Execution("bfloat16", micro_batch=3),
    "checkpoints, channels last": Execution(checkpoint=(nn.BatchNorm1d,), channels_last=True, prune=False),
}


def run(model, x, y, f, execution):
    with running(model, ["a"], x, execution) as network:
        with network.quick() as quick:
            f(quick(x)["a"], y["a"])
        f(network.exact(x)["a"], y["a"])
