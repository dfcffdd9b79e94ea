"""Losses of adversarial training: any terms, and the paper's `L_adv_rs`, `L_adv_r`, `L_adv_s`, `L_rand`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advreg._core.checks import check_function, one_per_example
from advreg._core.keys import Keys
from advreg._core.targets import (
    Kind,
    Nest,
    Structure,
    alternatives,
    count_of,
    cut,
    inputs_structure,
    joined,
    structure_of,
)
from advreg._core.targets import bare as without_marks
from advreg._core.trees import children, map_tensors, rebuilt
from advreg._core.types import Input, Model, Output, PerExample, Target
from advreg.execution import Execution, evaluating
from advreg.rules import Rule, Steepest
from advreg.threats import Threat, Threats, linf
from advreg.training._perturb import Adversary, GaussianNoise, Noise, Perturb, PureNoise


@dataclass(frozen=True)
class AdversarialLoss:
    """`clean * L(x) + sum of weight * L(x')` over the terms, for any training loop.

    What changes `x` into `x'` is any `Perturb`: an attack, random noise, or a function of your own. Calling
    it with `(model, x, y)` returns the loss, a scalar to call `backward` on, and its parts: the mean of `L`
    for the clean inputs and for each term, unweighted and detached, by name. Model and random state are left
    as they were, but for one number drawn where no seed is given.

    What can be shared is: attacks run in eval mode with parameters frozen, on the part of the network that
    their objective reads (see `advreg.execution.pruned`), and clean and changed inputs share one training
    pass. Under DistributedDataParallel attacks run on the module inside, so gradients are synchronised once,
    by your `backward`. Autocast and memory formats are the caller's, and hold in here as well.

    Args:
        loss: The task's loss, `(output, target) -> (B,)`.
        terms: What is added, by name: a weight, and what changes the inputs.
        clean: The weight of the clean inputs' loss; at 0 they are not run, and no part.
        together: Whether clean and changed inputs go through the network in one pass. False takes a pass
            each, which needs less memory at once; a BatchNorm then sees them apart.

    Raises:
        TypeError: A loss that does not return `(B,)`; a term that does not return a tensor like `x`.
        ValueError: As for `pgd_attack`; weights below zero, or not finite.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, linf
        >>> model = torch.nn.Linear(3, 2)
        >>> attack = Adversary(J_IND_reg, Threat(linf, 0.1), rule=Steepest(0.25), steps=10)
        >>> terms = {"noise": (0.2, Noise(Threat(linf, 0.1))), "attack": (0.3, attack)}
        >>> loss = AdversarialLoss(J_IND_reg, terms)
        >>> total, parts = loss(model, torch.rand(4, 3), torch.zeros(4, 2))
        >>> total.backward()
        >>> list(parts), bool(parts["attack"] > parts["clean"])
        (['clean', 'noise', 'attack'], True)

    Source:
        Chen et al., section 2.4; Madry et al., arXiv:1706.06083.
    """

    loss: PerExample
    terms: Mapping[str, tuple[float, Perturb]]
    clean: float = 0.5
    together: bool = True

    def __post_init__(self) -> None:
        check_function("loss", self.loss)
        weights = {"clean": self.clean, **{name: weight for name, (weight, _) in self.terms.items()}}
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name!r} must be zero or more, and finite; got {weight}")

    def __call__(
        self, model: Model, x: Input, y: Target, *, seed: int | None = None, index: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts.

        Args:
            model: The model in training.
            x: Clean inputs, `(B, *input)`; of a model of several inputs as for `pgd_attack`.
            y: The target.
            seed: With `index`, decides all chance in here: pass the step's number for a training that can be
                repeated. By default it is drawn from torch's global generator.
            index: Each example's place in the batch, the whole one where processes share it; int64 `(B,)`.
        """
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        count = count_of(x)
        keys = Keys(seed, torch.arange(count) if index is None else index)
        plain, bare = without_marks(x), _unwrapped(model)
        inputs = [plain] if self.clean else []
        with evaluating(bare):
            for number, (name, (_, perturb)) in enumerate(self.terms.items()):
                changed = perturb(bare, x, y, keys.fold_in(number))
                inputs.append(_like(changed, plain, name))
        goal = without_marks(y)
        outputs = (
            _apart(model(_together(x, inputs, count)), y, self.loss, len(inputs), count)
            if self.together
            else map(model, (map_tensors(Tensor.clone, each) for each in inputs))
        )
        means = [one_per_example(self.loss(output, goal), count, "a loss").mean() for output in outputs]
        weights = {"clean": self.clean} if self.clean else {}
        weights |= {name: weight for name, (weight, _) in self.terms.items()}
        total = torch.stack([w * mean for w, mean in zip(weights.values(), means, strict=True)]).sum()
        return total, dict(zip(weights, (mean.detach() for mean in means), strict=True))


def L_adv_rs(
    loss: PerExample,
    *,
    reg: PerExample,
    seg: PerExample,
    threat: Threats = Threat(linf, 0.07),
    rule: Rule[Any] = Steepest(0.01, relative=False),
    steps: int = 20,
    execution: Execution | None = None,
) -> AdversarialLoss:
    """`0.5 L(x) + 0.25 L(x_reg) + 0.25 L(x_seg)`: each head is attacked, and both learn from both attacks.

    Args:
        loss: The task's loss L, `(output, target) -> (B,)`.
        reg: What the attack on the regression head maximises; the paper's is `on("contour", J_IND_reg)`.
        seg: What the attack on the mask head maximises; the paper's is `on("mask", J_IND_seg)`.
        threat: Where the attacks may move; see `radius_ramp`.
        rule: How they step.
        steps: How often.
        execution: How the model is run in the attacks; see `advreg.Execution`.

    Returns:
        An `AdversarialLoss` with the terms "reg" and "seg".

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, J_IND_seg, on, weighted
        >>> model = lambda x: {"contour": 9 * x.mean((2, 3)), "mask": 4 * x - 2}
        >>> reg, seg = on("contour", J_IND_reg), on("mask", J_IND_seg)
        >>> loss = L_adv_rs(weighted((1.0, reg), (1.0, seg)), reg=reg, seg=seg, steps=5)
        >>> x = torch.rand(2, 1, 8, 8)
        >>> list(loss(model, x, {"contour": 9 * x.mean((2, 3)), "mask": (x > 0.5).float()})[1])
        ['clean', 'reg', 'seg']

    Source:
        Chen et al., Eq 8. Its released code ascends the training loss of the attacked head: pass that as
        `reg` and `seg` to do so.
    """
    attacks = {
        name: Adversary(objective, threat, rule, steps, execution=execution)
        for name, objective in (("reg", reg), ("seg", seg))
    }
    return AdversarialLoss(loss, {name: (0.25, attack) for name, attack in attacks.items()})


def L_adv_r(
    loss: PerExample,
    *,
    reg: PerExample,
    threat: Threats = Threat(linf, 0.07),
    rule: Rule[Any] = Steepest(0.01, relative=False),
    steps: int = 20,
    execution: Execution | None = None,
) -> AdversarialLoss:
    """`0.5 L(x) + 0.5 L(x_reg)`: the regression head alone is attacked. Arguments as for `L_adv_rs`.

    Source:
        Chen et al., Eq 9.
    """
    return AdversarialLoss(loss, {"reg": (0.5, Adversary(reg, threat, rule, steps, execution=execution))})


def L_adv_s(
    loss: PerExample,
    *,
    seg: PerExample,
    threat: Threats = Threat(linf, 0.07),
    rule: Rule[Any] = Steepest(0.01, relative=False),
    steps: int = 20,
    execution: Execution | None = None,
) -> AdversarialLoss:
    """`0.5 L(x) + 0.5 L(x_seg)`: the mask head alone is attacked. Arguments as for `L_adv_rs`.

    Source:
        Chen et al., Eq 10.
    """
    return AdversarialLoss(loss, {"seg": (0.5, Adversary(seg, threat, rule, steps, execution=execution))})


def L_rand(loss: PerExample, *, threat: Threats = Threat(linf, 0.07), pure: bool = False) -> AdversarialLoss:
    """`0.5 L(x) + 0.5 L(x_rand)`: noise in place of an attack.

    Args:
        loss: The task's loss L, `(output, target) -> (B,)`.
        threat: Where noise may lead.
        pure: False, the paper's text: `Noise`. True, its released code: `PureNoise`.

    Source:
        Chen et al., Eq 11.
    """
    if not pure:
        return AdversarialLoss(loss, {"rand": (0.5, Noise(threat))})
    if not isinstance(threat, Threat):
        raise TypeError(
            f"pure noise stands in the place of one image; got threats of {list(threat)}: leave pure=False"
        )
    return AdversarialLoss(loss, {"rand": (0.5, PureNoise(threat.radius))})


def L_noise(loss: PerExample, *, sigma: float, clean: float = 0.0, varied: bool = False) -> AdversarialLoss:
    """`L(x + noise)`: training for a smoothed predictor, whose certificates need a network that knows noise.

    Args:
        loss: The task's loss L, `(output, target) -> (B,)`.
        sigma: Deviation of the Gaussian noise, that of `advreg.certificates.certify`.
        clean: The share of the clean inputs' loss, 0 to 1; above 0 they cost a pass.
        varied: Whether each example gets noise of another size, up to sigma, for several sigmas at once.

    Raises:
        ValueError: A share outside [0, 1]; as for `GaussianNoise`.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg
        >>> loss = L_noise(J_IND_reg, sigma=0.25)
        >>> list(loss(torch.nn.Linear(3, 2), torch.rand(4, 3), torch.zeros(4, 2))[1])
        ['noise']

    Source:
        Cohen et al., arXiv:1902.02918, section 3.3.
    """
    if not 0 <= clean <= 1:
        raise ValueError(f"clean must be a share, 0 to 1; got {clean}")
    return AdversarialLoss(loss, {"noise": (1 - clean, GaussianNoise(sigma, varied))}, clean=clean)


def _unwrapped(model: Model) -> Model:
    """The module inside a data-parallel wrapper."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    return model.module if isinstance(model, wrappers) else model


def _like(changed: Any, x: Input, name: str) -> Input:
    """Changed inputs as constants, of the dtype of the clean ones."""
    if isinstance(x, Tensor):
        if not isinstance(changed, Tensor) or changed.shape != x.shape:
            came = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise TypeError(
                f"the term {name!r} must return inputs like x, a tensor of shape {tuple(x.shape)}; "
                f"got {came}: of an attack's result return .x"
            )
        return changed.detach().to(x.dtype)
    held, own = children(x), children(changed)
    if held is None or own is None:
        return changed
    if list(held) != list(own):
        raise TypeError(
            f"the term {name!r} must return inputs like x, which holds {list(held)}; got {list(own)}: of an "
            "attack's result return .x"
        )
    return rebuilt(x, {key: _like(own[key], value, name) for key, value in held.items()})


def _together(x: Input, inputs: list[Input], count: int) -> Input:
    """Several batches of inputs like `x`, which may be marked, as one."""
    return joined(inputs, [count] * len(inputs), inputs_structure(x, count))


def _apart(output: Output, y: Target, loss: PerExample, count: int, size: int) -> list[Output]:
    """The outputs of `count` batches of `size` that went through the network as one.

    Where an output might belong to the batch as a whole, such as learned weights of tasks that are as many,
    the losses decide: together they are what they are apart.

    Raises:
        ValueError: No way to cut the outputs gives the losses of the whole.
    """
    many = count * size
    places = [slice(first, first + size) for first in range(0, many, size)]
    structure = structure_of(output, many)
    if not _plain(output, structure, many, size):
        structure = _told_apart(output, structure, y, loss, places)
    return [cut(output, structure, place, many) for place in places]


@torch.no_grad()
def _told_apart(
    output: Output, structure: Structure, y: Target, loss: PerExample, places: list[slice]
) -> Structure:
    """The structure of an output by which the losses of its parts are those of the whole."""
    size, many, goal = places[0].stop, places[-1].stop, without_marks(y)
    still, own = map_tensors(Tensor.detach, output), structure_of(y, size)
    for target in [own, *alternatives(y, own, size)]:
        with suppress(Exception):  # a target that is repeated by a wrong structure may raise anything
            several = cut(goal, target, torch.arange(size).repeat(len(places)), size)
            whole = one_per_example(loss(still, several), many, "a loss")
            for other in [structure, *alternatives(output, structure, many)]:
                if _gives(loss, still, goal, other, places, whole):
                    return other
    one_per_example(loss(cut(still, structure, places[0], many), goal), size, "a loss")  # what it says itself
    raise ValueError(
        "the outputs of clean and changed inputs, which went through the network as one batch, cannot be "
        "told apart: pass together=False, a pass for each"
    )


def _plain(output: Output, structure: Structure, count: int, size: int) -> bool:
    """Whether all in an output of `count` examples, in batches of `size`, is clearly theirs or shared."""
    if isinstance(structure, Nest):
        held = children(output) or {}
        return all(_plain(value, structure.entries[key], count, size) for key, value in held.items())
    others = list(alternatives(output, structure, count))
    if structure is Kind.SHARED:
        return not others
    return isinstance(output, Tensor) and output.ndim > 1 and size > 1 and others == [Kind.SHARED]


def _gives(
    loss: PerExample,
    output: Output,
    goal: Target,
    structure: Structure,
    places: list[slice],
    whole: Tensor,
) -> bool:
    """Whether outputs that are cut so have the losses of the whole."""
    try:
        parts = [loss(cut(output, structure, place, len(whole)), goal) for place in places]
    except Exception:  # noqa: BLE001 - a wrong cut may raise anything
        return False
    return all(
        isinstance(part, Tensor)
        and part.shape == whole[place].shape
        and torch.allclose(part, whole[place], 1e-3)
        for part, place in zip(parts, places, strict=True)
    )
