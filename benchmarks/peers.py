"""Attacks of other libraries, bent to a head of a network that returns a dict, whatever the head is for.

`Kind` in `peers_views.py` says what they must know of one: the study's mask and contour, classes of pixels,
key points, depth.

Each is used by its public functions alone, in one of these ways, said in its name:

- *pixels*: the head becomes class logits per pixel, of a single mask `(0, z)`, the target class numbers; the
  library's own cross-entropy or margin over pixels is what it climbs. adv-lib's `alma_prox` divides by a
  third logit, so of two classes it is given one that never wins, `min(0, z) - 1`.
- *own loss*: the library lets a user put in a loss: foolbox by overriding `get_loss_fn`, ART by its
  estimator.
- *damaged?*: the network becomes a classifier of whole images with logits `(0, J(x) - J(clean))`, which is
  right, class 0, until an attack has done damage. Its cross-entropy, `log(1 + exp(J(x) - J(clean)))`, grows
  with J and its gradient has the same sign, so a library that knows labels alone climbs J, example by
  example.

Step sizes are the library's default, scaled to the radius where the default belongs to one (torchattacks
2/255 at 8/255, ART 0.1 at 0.3), and `2.5 radius / steps`, the usual advice. `steps` is such that the passes
allowed are used. Where a library returns the best point that it met, it is asked to. Attacks of minimal
norm know no radius: what they return is clamped into the ball. They aim at 99 % of the pixels of the image,
their default, or of the structure, by `masks=`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch
from peers_views import STUDY, Damaged, Head, Kind, Pixels, seeded
from torch import Tensor, nn

LIBRARIES = {
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "ART": "adversarial-robustness-toolbox",
    "adv-lib": "adv-lib",
}


@dataclass(frozen=True)
class Peer:
    """An attack of another library.

    Attributes:
        library: A key of `LIBRARIES`.
        name: The attack, how it was bent, its loss and its step size; unique with `library` and `head`.
        head: The key of the head.
        run: `(net, x, y, radius, passes) -> x_adv`, under the library's own randomness.
        minimal: Whether it looks for the smallest perturbation, so that its result must be clamped.
    """

    library: str
    name: str
    head: str
    run: Callable[[nn.Module, Tensor, dict[str, Tensor], float, int], Tensor]
    minimal: bool = False

    @property
    def version(self) -> str:
        return version(LIBRARIES[self.library])

    def attack(
        self, net: nn.Module, x: Tensor, y: dict[str, Tensor], radius: float, passes: int, seed: int
    ) -> Tensor:
        """Adversarial inputs after at most that many gradients of the input per example."""
        with seeded(seed):
            found = self.run(net, x, y, radius, passes).detach()
        return (x + (found - x).clamp(-radius, radius)).clamp(0, 1) if self.minimal else found


def peers(kinds: Sequence[Kind] = STUDY) -> tuple[list[Peer], dict[str, str]]:
    """All that can be had here for such heads, and for each library that cannot be imported the reason."""
    found, missing = [], {}
    for library, make in ((n, globals()[f"_{n.replace('-', '_').lower()}"]) for n in LIBRARIES):
        try:
            version(LIBRARIES[library])
            found += make(kinds)
        except (ImportError, PackageNotFoundError) as error:
            missing[library] = f"{type(error).__name__}: {error}"
    return found, missing


def adv_lib() -> types.ModuleType:
    """`adv_lib.attacks`. It imports torchvision and visdom for a perceptual distance and for plots, which no
    attack used here touches; where they are missing, empty modules stand in for them while it is imported."""
    stand_ins = {}
    for name, attribute in (("torchvision", "models"), ("visdom", "Visdom")):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            stand_ins[name] = types.ModuleType(name)
            setattr(stand_ins[name], attribute, types.SimpleNamespace)
    sys.modules.update(stand_ins)
    try:
        importlib.import_module("adv_lib.attacks.segmentation")
        return importlib.import_module("adv_lib.attacks")
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _cases(kinds: Sequence[Kind]) -> Iterator[tuple[str, str, Callable]]:
    return ((kind.key, name, loss) for kind in kinds for name, loss in kind.losses.items())


def _of_pixels(kinds: Sequence[Kind]) -> list[Kind]:
    return [kind for kind in kinds if kind.logits is not None]


def _sizes(default: float) -> Iterator[tuple[str, Callable[[float, int], float]]]:
    """The two step sizes, by name: from radius and steps."""
    yield f"step {default:.3g} radius (default)", lambda radius, steps: default * radius  # noqa: ARG005 - called with both
    yield "step 2.5 radius/steps", lambda radius, steps: 2.5 * radius / steps


def _right(x: Tensor) -> Tensor:
    """Class 0 for each image."""
    return torch.zeros(len(x), dtype=torch.long, device=x.device)


def _torchattacks(kinds: Sequence[Kind]) -> list[Peer]:
    import torchattacks  # noqa: PLC0415 - optional

    def pixels(attack, size, kind, net, x, y, radius, passes):
        run = attack(Pixels(net, kind), eps=radius, alpha=size(radius, passes), steps=passes)
        return run(x, kind.labels(y[kind.key]))

    def damaged(attack, size, head, loss, net, x, y, radius, passes):
        view = Damaged(net, head, loss, x, y)
        return attack(view, eps=radius, alpha=size(radius, passes), steps=passes)(x, _right(x))

    def apgd(head, loss, net, x, y, radius, passes):
        run = torchattacks.APGD(Damaged(net, head, loss, x, y), eps=radius, steps=passes - 1)
        return run.perturb(x, _right(x), best_loss=True)[1]

    found = []
    for name, attack in (("PGD", torchattacks.PGD), ("MI-FGSM", torchattacks.MIFGSM)):
        for step, size in _sizes(0.25):
            text = f"{name}, pixels, cross-entropy, {step}"
            found += [
                Peer("torchattacks", text, kind.key, partial(pixels, attack, size, kind))
                for kind in _of_pixels(kinds)
            ]
            for head, what, loss in _cases(kinds):
                text = f"{name}, damaged?, {what}, {step}"
                if what != "cross-entropy":  # which it knows by itself
                    found.append(Peer("torchattacks", text, head, partial(damaged, attack, size, head, loss)))
    return found + [
        Peer("torchattacks", f"APGD, damaged?, {what}", head, partial(apgd, head, loss))
        for head, what, loss in _cases(kinds)
    ]


def _foolbox(kinds: Sequence[Kind]) -> list[Peer]:
    import eagerpy  # noqa: PLC0415 - optional
    import foolbox  # noqa: PLC0415 - as above
    from foolbox import attacks  # noqa: PLC0415 - as above

    def run(attack, size, head, loss, net, x, y, radius, passes):
        class WithLoss(attack):
            def get_loss_fn(self, model, labels):
                return lambda inputs: eagerpy.astensor(loss(model(inputs).raw, labels.raw).sum())

        model = foolbox.PyTorchModel(Head(net, head).eval(), bounds=(0, 1), device=x.device)
        step = size(1.0, passes)
        made = WithLoss(rel_stepsize=step, steps=passes, random_start=True)
        return made.run(model, x, foolbox.criteria.Misclassification(y[head]), epsilon=radius)

    made = []
    for name, attack, default in (
        ("PGD", attacks.LinfProjectedGradientDescentAttack, 0.01 / 0.3),
        ("Adam-PGD", attacks.LinfAdamProjectedGradientDescentAttack, 0.025),
    ):
        for head, what, loss in _cases(kinds):
            made += [
                Peer(
                    "foolbox",
                    f"{name}, own loss, {what}, {step}",
                    head,
                    partial(run, attack, size, head, loss),
                )
                for step, size in _sizes(default)
            ]
    return made


class _Flat(nn.Module):
    """A loss as ART's regressor calls it: predictions flattened, labels not."""

    def __init__(self, loss: Callable, shape: torch.Size) -> None:
        super().__init__()
        self.loss, self.shape, self.reduction = loss, shape, "sum"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.loss(output.reshape(len(target), *self.shape), target).sum()


def _art(kinds: Sequence[Kind]) -> list[Peer]:
    from art.attacks.evasion import (  # noqa: PLC0415 - optional
        AutoProjectedGradientDescent,
        ProjectedGradientDescent,
    )
    from art.estimators.classification import PyTorchClassifier  # noqa: PLC0415 - as above
    from art.estimators.regression import PyTorchRegressor  # noqa: PLC0415 - as above

    def options(x):
        device = "gpu" if x.is_cuda else "cpu"
        return {"input_shape": tuple(x.shape[1:]), "clip_values": (0.0, 1.0), "device_type": device}

    def generated(attack, x, labels):
        return torch.from_numpy(attack.generate(x.cpu().numpy(), labels.cpu().numpy())).to(x.device)

    def common(x, radius, step, passes):
        return {
            "eps": radius, "eps_step": step, "max_iter": passes, "batch_size": len(x), "verbose": False,
        }  # fmt: skip

    def regressor(size, head, loss, net, x, y, radius, passes):
        with torch.no_grad():
            shape = Head(net, head)(x[:1]).shape[1:]
        estimator = PyTorchRegressor(Head(net, head), _Flat(loss, shape), **options(x))
        step = size(radius, passes)
        return generated(ProjectedGradientDescent(estimator, **common(x, radius, step, passes)), x, y[head])

    def classifier(size, head, loss, net, x, y, radius, passes):
        view = Damaged(net, head, loss, x, y)
        estimator = PyTorchClassifier(view, nn.CrossEntropyLoss(), nb_classes=2, **options(x))
        made = common(x, radius, size(radius, passes), passes)
        return generated(ProjectedGradientDescent(estimator, num_random_init=1, **made), x, _right(x))

    def auto(factor, head, loss, net, x, y, radius, passes):
        view = Damaged(net, head, loss, x, y)
        estimator = PyTorchClassifier(view, nn.CrossEntropyLoss(), nb_classes=2, **options(x))
        made = common(x, radius, factor * radius, passes)
        return generated(AutoProjectedGradientDescent(estimator, nb_random_init=1, **made), x, _right(x))

    found = []
    for head, what, loss in _cases(kinds):
        for step, size in _sizes(1 / 3):
            text = f"PGD, own loss, {what}, {step}"
            found.append(Peer("ART", text, head, partial(regressor, size, head, loss)))
            text = f"PGD, damaged?, {what}, {step}"
            found.append(Peer("ART", text, head, partial(classifier, size, head, loss)))
        for text, factor in (("step 0.333 radius (default)", 1 / 3), ("step 2 radius, as published", 2.0)):
            name = f"AutoPGD, damaged?, {what}, {text}"
            found.append(Peer("ART", name, head, partial(auto, factor, head, loss)))
    return found


def _adv_lib(kinds: Sequence[Kind]) -> list[Peer]:
    attacks = adv_lib()
    dense = attacks.segmentation

    def pgd(size, head, loss, net, x, y, radius, passes):
        view, step = Damaged(net, head, loss, x, y), size(1.0, passes)
        return attacks.pgd_linf(view, x, _right(x), radius, steps=passes, relative_step_size=step)

    def apgd(head, loss, net, x, y, radius, passes):  # best_loss=True forgets n_iter: see peers_tried.py
        view = Damaged(net, head, loss, x, y)
        return attacks.apgd(view, x, _right(x), radius, float("inf"), n_iter=passes - 1, loss_function="ce")

    def minimal(attack, budget, kind, part, options, net, x, y, radius, passes):  # noqa: ARG001 - no radius
        labels = kind.labels(y[kind.key])
        made = {budget: passes, "masks": labels > 0 if part else None, **options}
        alma = attack is dense.alma_prox
        if alma and part:  # it fails where 1 % of a structure is no pixel
            made["constraint_masking"] = False
        with torch.compiler.set_stance("force_eager"):  # its proximal step; the numbers are the same
            return attack(Pixels(net, kind, third=alma), x, labels, **made)

    found = []
    for head, what, loss in _cases(kinds):
        for step, size in _sizes(0.01 / 0.3):
            text = f"pgd_linf, damaged?, {what}, {step}"
            found.append(Peer("adv-lib", text, head, partial(pgd, size, head, loss)))
        found.append(Peer("adv-lib", f"apgd, damaged?, {what}", head, partial(apgd, head, loss)))
    for name, attack, budget, options in (
        ("alma_prox", dense.alma_prox, "num_steps", {}),
        ("asma", dense.asma, "num_steps", {}),
        ("dag, step 0.5 (default)", dense.dag, "max_iter", {}),
        ("dag, step 0.003", dense.dag, "max_iter", {"γ": 0.003}),
        ("pdpgd", dense.pdpgd, "num_steps", {"norm": float("inf")}),
        ("pdgd", dense.pdgd, "num_steps", {}),
    ):
        for kind in _of_pixels(kinds):
            for which, part in (("all pixels (default)", False), (f"pixels of {kind.structure}", True)):
                run = partial(minimal, attack, budget, kind, part, options)
                text = f"{name}, minimal norm, {which}"
                found.append(Peer("adv-lib", text, kind.key, run, minimal=True))
    return found
