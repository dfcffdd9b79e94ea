"""What happens where other libraries' attacks are called as they are: tried, not asserted.

Each attack is called as its documentation shows, with every form of output that a network with a contour
and a mask can offer: as it is (a dict), one head of it, and the mask as class logits per pixel. What is
reported is the error, or, where there is none, what became of the metric, next to what a random point of
the ball does.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peers import LIBRARIES, adv_lib
from peers_views import STUDY, Counting, Damaged, Head, Pixels, seeded
from torch import Tensor, nn

from advreg import Keys, Threat, dice, linf, point_error

STEPS = 20
METRICS: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "mask": ("Dice", dice),
    "contour": ("point error", point_error),
}


def _torchattacks(x: Tensor, radius: float) -> Iterator[tuple[str, Callable]]:
    import torchattacks  # noqa: PLC0415 - optional

    yield "PGD", lambda net, y: torchattacks.PGD(net, eps=radius, steps=STEPS)(x, y)
    yield "APGD", lambda net, y: torchattacks.APGD(net, eps=radius, steps=STEPS)(x, y)


def _foolbox(x: Tensor, radius: float) -> Iterator[tuple[str, Callable]]:
    import foolbox  # noqa: PLC0415 - optional

    def pgd(net, y):
        attack = foolbox.attacks.LinfPGD(steps=STEPS)
        return attack(foolbox.PyTorchModel(net.eval(), bounds=(0, 1)), x, y, epsilons=radius)[1]

    yield "LinfPGD", pgd


def _art(x: Tensor, radius: float) -> Iterator[tuple[str, Callable]]:
    from art.attacks.evasion import (  # noqa: PLC0415 - optional
        AutoProjectedGradientDescent,
        ProjectedGradientDescent,
    )
    from art.estimators.classification import PyTorchClassifier  # noqa: PLC0415 - as above
    from art.estimators.regression import PyTorchRegressor  # noqa: PLC0415 - as above

    options = {"input_shape": tuple(x.shape[1:]), "clip_values": (0.0, 1.0), "device_type": "cpu"}

    def run(attack, estimator, y, **more):
        made = attack(estimator, eps=radius, eps_step=radius / 3, max_iter=STEPS, verbose=False, **more)
        return torch.from_numpy(made.generate(x.numpy(), y.numpy()))

    def classifier(net):
        return PyTorchClassifier(net, nn.CrossEntropyLoss(), nb_classes=2, **options)

    def regressor(net):
        return PyTorchRegressor(net, nn.MSELoss(), **options)

    pgd = ProjectedGradientDescent
    yield "PGD, classifier", lambda net, y: run(pgd, classifier(net), y)
    yield "PGD, regressor", lambda net, y: run(pgd, regressor(net), y)
    yield "PGD, regressor, random start", lambda net, y: run(pgd, regressor(net), y, num_random_init=1)
    yield "AutoPGD, classifier", lambda net, y: run(AutoProjectedGradientDescent, classifier(net), y)
    yield "AutoPGD, regressor", lambda net, y: run(AutoProjectedGradientDescent, regressor(net), y)


def _adv_lib(x: Tensor, radius: float) -> Iterator[tuple[str, Callable]]:
    attacks = adv_lib()
    dense = attacks.segmentation
    yield "pgd_linf", lambda net, y: attacks.pgd_linf(net, x, y, radius, steps=STEPS)
    yield "apgd", lambda net, y: attacks.apgd(net, x, y, radius, float("inf"), n_iter=STEPS)
    yield "alma_prox", lambda net, y: dense.alma_prox(net, x, y, num_steps=STEPS)
    yield "asma", lambda net, y: dense.asma(net, x, y, num_steps=STEPS)
    yield "dag", lambda net, y: dense.dag(net, x, y, max_iter=STEPS)
    yield "pdpgd", lambda net, y: dense.pdpgd(net, x, y, float("inf"), num_steps=STEPS)


def tried(net: nn.Module, x: Tensor, y: dict[str, Tensor], radius: float) -> list[dict[str, Any]]:
    """What came of every call: `library, attack, output, head, error` (None where it ran), `came`."""
    numbers = y["mask"][:, 0].long()
    forms = (
        ("the dict", "mask", lambda: net, numbers),
        ("mask, one logit", "mask", lambda: Head(net, "mask"), y["mask"]),
        ("mask, logits (0, z) per pixel", "mask", lambda: Pixels(net, STUDY[0]), numbers),
        ("contour", "contour", lambda: Head(net, "contour"), y["contour"]),
        ("contour, flattened", "contour", lambda: nn.Sequential(Head(net, "contour"), nn.Flatten()),
         y["contour"].flatten(1)),
    )  # fmt: skip
    rows = []
    for library in LIBRARIES:
        try:
            attacks = list(globals()[f"_{library.replace('-', '_').lower()}"](x, radius))
        except ImportError as error:
            rows.append({"library": library, "attack": "import", "output": "", "head": ""} | _failed(error))
            continue
        for attack, run in attacks:
            for output, head, made, target in forms:
                row = {"library": library, "attack": attack, "output": output, "head": head}
                rows.append(row | _outcome(run, made(), target, (net, x, y, head, radius)))
    return [*rows, *_besides(net, x, y, radius)]


def _outcome(run: Callable, form: nn.Module, target: Tensor, setting: tuple) -> dict[str, Any]:
    net, x, y, head, radius = setting
    try:
        with seeded(0), warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
            warnings.simplefilter("ignore")
            found = run(form, target)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the result
        return _failed(error)
    name, metric = METRICS[head]
    threat = Threat(linf, radius)
    points = {
        "clean": x,
        "attacked": x + (found.detach() - x).clamp(-radius, radius),
        "a random point": threat.sample(x, Keys(0, torch.arange(len(x)))),
    }
    with torch.no_grad():
        means = {what: metric(net(point)[head], y[head]).mean().item() for what, point in points.items()}
    return {"error": None, "came": f"{name} " + ", ".join(f"{w} {m:.3f}" for w, m in means.items())}


def _failed(error: Exception) -> dict[str, Any]:
    lines = str(error).strip().splitlines() or [""]
    return {"error": type(error).__name__, "came": lines[0][:160]}


def _besides(net: nn.Module, x: Tensor, y: dict[str, Tensor], radius: float) -> list[dict[str, Any]]:
    """What else was looked for: auto-attack itself, and adv-lib's search for the best loss."""
    rows = []
    try:
        importlib.import_module("autoattack")
    except ImportError as error:
        row = {"library": "auto-attack", "attack": "import autoattack", "output": "", "head": ""}
        rows.append(row | _failed(error))
    try:
        attacks = adv_lib()
    except ImportError:
        return rows
    counting = Counting(net)
    view = Damaged(counting, "mask", METRICS["mask"][1], x, y)
    view.loss = lambda output, target: (output - target).square().flatten(1).mean(1)
    with seeded(0):
        zeros = torch.zeros(len(x), dtype=torch.long)
        options = {"n_iter": STEPS, "loss_function": "ce", "best_loss": True}
        attacks.apgd(view, x, zeros, radius, float("inf"), **options)
    came = f"{counting.gradients / len(x):.0f} gradients of the input per example for n_iter={STEPS}"
    row = {"library": "adv-lib", "attack": "apgd(best_loss=True)", "output": "damaged?", "head": "mask"}
    return [*rows, row | {"error": None, "came": came}]
