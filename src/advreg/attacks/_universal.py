"""Universal attack: one perturbation for all images of a data set."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor

from advreg._core.chance import States, random_states, seed_all, set_random_states
from advreg._core.checks import check_function, check_kind, check_objective, check_word, examples
from advreg._core.keys import Keys
from advreg._core.targets import Structure
from advreg._core.tensors import wide
from advreg._core.trees import differentiable, map_tensors
from advreg._core.types import Model, PerExample, Target
from advreg.attacks._ascend import ascend, value_and_gradient
from advreg.attacks._best import gain
from advreg.attacks._probing import check_counts
from advreg.attacks._run import Plan, judged, looked_at
from advreg.execution import Batch, Execution, Running, running
from advreg.objectives import heads_read
from advreg.rules import Momentum, Rule
from advreg.threats import Threat

_RULE = Momentum(0.1, decay=0.9)


_DATA, _START = 1, 2  # what random numbers are for: the order of the data, the first perturbation


@dataclass(frozen=True, eq=False)
class UniversalResult:
    """Result of a universal attack.

    Attributes:
        delta: The one perturbation, `(1, *input)`, inside the ball and the mask.
        value: The objective, or the judge, of each image with it, `(N,)`, in the loader's order.
        gain: The same less that of the clean image, `(N,)`.
        threat: The threat that it was found in.
    """

    delta: Tensor
    value: Tensor
    gain: Tensor
    threat: Threat

    def applied(self, x: Tensor) -> Tensor:
        """Images `(B, *input)` with the perturbation, put into the bounds: those of the attack, or others.

        Raises:
            TypeError: Inputs that are not floating point.
            ValueError: Inputs that do not fit the threat.
        """
        self.threat.validate(x)
        return _applied(self.threat, x, self.delta.to(x))


def universal_attack(
    model: Model,
    loader: Iterable[Any],
    *,
    objective: PerExample,
    threat: Threat,
    rule: Rule[Any] = _RULE,
    epochs: int = 10,
    update: Literal["batch", "epoch"] = "batch",
    random_start: bool = True,
    judge: PerExample | None = None,
    execution: Execution | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> UniversalResult:
    """Find one perturbation for all images of a data set: `max over delta of mean J(clip(x + delta))`.

    Each step follows the gradient of the mean objective by the perturbation, of one batch or of all, and is
    projected onto the ball; where an image is held by the bounds, it has no say. The perturbation of the last
    step is the result, and each image is judged with it at `clip(x + delta)`.

    Costs `epochs` forward passes and gradients of the input for each image, two forward passes in the end,
    and the check of what every attack assumes, on the first batch. The model is left bit for bit as it was.
    Results depend on the seed, and with `update="batch"` on how the data are cut into batches, and on their
    order; with `update="epoch"` they do not, up to rounding.

    Args:
        model: As for `pgd_attack`.
        loader: Batches `(x, y)`, or `(x, y, index)`, of inputs `(B, *input)` and targets of any structure: a
            list or a `DataLoader`, gone through once in each epoch. One that shuffles does so by `seed`.
        objective: `(output, target) -> (B,)`, to be maximised, as for `pgd_attack`.
        threat: Norm, one finite radius, bounds, mask, scale and levels, the same for all images.
        rule: How a step is made; by default along a running sum of the batches' gradients. One that
            compares values of different steps, as `advreg.rules.Adaptive`, needs `update="epoch"`.
        epochs: How often the data are gone through.
        update: "batch": a step after each batch. "epoch": one step by all of the data.
        random_start: Begin at a random point of the ball; otherwise at zero, as published.
        judge: `(output, target) -> (B,)`, what value and gain are of; by default the objective.
        execution: How the model is run; see `advreg.Execution`.
        device: Where batches are moved to; by default they stay where they are.
        seed: Decides the start, and the order of data that are shuffled.

    Returns:
        A `UniversalResult`.

    Raises:
        TypeError: A loader that can be gone through only once; batches that are no pairs.
        ValueError: No image; images of several shapes; a radius, bounds, mask or scale per image; an infinite
            radius; an objective that is not finite; as for `pgd_attack`.

    Warns:
        UserWarning: The gradient is zero at every step.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, linf
        >>> from advreg.attacks import universal_attack
        >>> _ = torch.manual_seed(0)
        >>> weight = torch.tensor([[1.0], [-2.0], [0.5]])
        >>> loader = [(x, x @ weight - 1) for x in torch.rand(5, 4, 3).split(1)]
        >>> loader = [(x[0], y[0]) for x, y in loader]
        >>> model = lambda x: x @ weight
        >>> found = universal_attack(model, loader, objective=J_IND_reg, threat=Threat(linf, 0.1, None))
        >>> found.delta, found.gain.shape
        (tensor([[ 0.1000, -0.1000,  0.1000]]), torch.Size([20]))

    Source:
        Moosavi-Dezfooli et al., Universal adversarial perturbations, arXiv:1610.08401 (the problem); Shafahi
        et al., Universal adversarial training, arXiv:1811.11304, Algorithm 2 (stochastic gradient steps).
    """
    check_objective(objective)
    if judge is not None:
        check_function("judge", judge)
    check_kind("threat", threat, Threat, "Threat(linf, 0.03)")
    check_counts(epochs=epochs)
    check_word("update", update, ("batch", "epoch"))
    data = _Data(loader, seed, device)
    first = next(data.epoch(0), None)
    if first is None:
        raise ValueError("expected one image or more; got none: the loader has no batch that holds any")
    x = first[0]
    whole = len(loader) if isinstance(loader, Sized) else sum(1 for _ in data.epoch(0))
    plan = Plan(objective, rule, epochs * (whole if update == "batch" else 1), judge)
    centre = torch.zeros_like(x[:1])
    ball = _ball(threat, x)
    keys = Keys.of(centre, seed, None).fold_in(_START)
    with (
        torch.inference_mode(mode=False),
        running(model, heads_read(objective, judge), x, execution) as network,
    ):
        threat.validate(x)
        resized = len(x) > network.parts.size
        settled, _ = looked_at(network, plan, Batch(x, first[1], threat), resized=resized)
        data.structure = settled.structure
        with network.quick() as quick:
            summed = _Summed(quick, network, plan, data, threat, update)
            start = ball.sample(centre, keys) if random_start else centre
            *_, last = ascend(summed, centre, threat=ball, rule=rule, start=start, steps=plan.steps)
        values, cleans = [], []
        for inside in data.batches(epochs, threat):
            moved = inside._replace(x=_applied(threat, inside.x, last.x))
            look = partial(judged, network.exact, plan)
            values += [value for value, _ in network.parts.run(look, moved)]
            cleans += [value for value, _ in network.parts.run(look, inside)]
    if not summed.moved:
        warnings.warn(
            "the gradient is zero at every step, so nothing moved: the objective may be saturated (attack "
            "logits, not rounded or clipped outputs), or start where it is flat (use random_start=True)",
            stacklevel=2,
        )
    value, clean = torch.cat(values), torch.cat(cleans)
    return UniversalResult(last.x, value, gain(value, clean), threat)


@dataclass(eq=False)
class _Summed:
    """The mean objective as a function of the perturbation, `(1, *input)`: of the next data each time."""

    model: Model
    network: Running
    plan: Plan
    data: _Data
    threat: Threat
    update: str
    step: int = 0
    moved: bool = False

    def __post_init__(self) -> None:
        self.stream = (batch for epoch in count() for batch in self.data.batches(epoch, self.threat))

    def __call__(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        whole = [next(self.stream)] if self.update == "batch" else self.data.batches(self.step, self.threat)
        gradient, images = torch.zeros_like(wide(delta)), 0
        total = gradient.new_zeros(())
        for number, batch in enumerate(whole):
            for value, pushed in self.network.parts.run(partial(self.pushed, delta), batch):
                if not bool(value.isfinite().all() & pushed.isfinite().all()):
                    where = (
                        examples(~value.isfinite()) if not bool(value.isfinite().all()) else "its gradient"
                    )
                    raise ValueError(
                        f"the objective or its gradient is not finite at step {self.step}, batch {number} of "
                        f"it, {where}: look for a square root or norm at zero, a logarithm of zero, or "
                        "float16 overflow"
                    )
                total, gradient = total + wide(value).sum(), gradient + pushed
                images += len(value)
        self.step += 1
        self.moved = self.moved or bool((gradient != 0).any())
        return (total / images).reshape(1).to(delta.dtype), (gradient / images).to(delta.dtype)

    def pushed(self, delta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The objective of some images, `(b,)`, and the sum of its gradients by the perturbation."""
        at, plan = self.plan.ascended(self.step), self.plan

        def function(x: Tensor) -> Tensor:
            return at(self.model(x), batch.y)

        value, gradient = value_and_gradient(function, plan.weights)(_applied(self.threat, batch.x, delta))
        free, beyond = self.threat.free(batch.x), batch.x + delta
        if self.threat.bounds is not None:
            lower, upper = (
                torch.as_tensor(side, dtype=beyond.dtype).to(beyond) for side in self.threat.bounds
            )
            free = free & (beyond >= lower) & (beyond <= upper)
        return value, wide(torch.where(free, gradient, 0)).sum(0, keepdim=True)


@dataclass(eq=False)
class _Data:
    """The batches of a loader, drawn without a trace on the caller's random numbers."""

    loader: Iterable[Any]
    seed: int
    device: torch.device | str | None
    structure: Structure | None = None
    like: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loader, Iterator) or not isinstance(self.loader, Iterable):
            raise TypeError(
                "loader must give its batches anew in each epoch, as a list or a DataLoader does; got "
                f"{type(self.loader).__name__}: pass list(...) of it"
            )

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Target]]:
        """The batches of an epoch that hold an image."""
        chance = _Chance(
            Keys(self.seed, torch.zeros(1, dtype=torch.int64)).fold_in(_DATA).fold_in(number).seed
        )
        with chance.mine():
            batches = iter(self.loader)
        for place in count():
            with chance.mine():
                batch = next(batches, None)
            if batch is None:
                return
            x, y = self.checked(batch, place)
            if len(x):
                yield x, y

    def batches(self, number: int, threat: Threat) -> Iterator[Batch]:
        """The same with their threat, as attacks take them."""
        for x, y in self.epoch(number):
            if number == 0:
                threat.validate(x)
            batch = Batch(x, y, threat)
            if self.structure is not None:
                batch = batch.settled()._replace(structure=self.structure)
            yield batch

    def checked(self, batch: Any, place: int) -> tuple[Tensor, Target]:
        """Inputs and targets of a batch, on the device."""
        if (
            not isinstance(batch, (tuple, list))
            or len(batch) not in (2, 3)
            or not isinstance(batch[0], Tensor)
        ):
            came = (
                [type(part).__name__ for part in batch] if isinstance(batch, (tuple, list)) else type(batch)
            )
            raise TypeError(
                f"a batch must be (x, y) or (x, y, index), x a tensor (B, *input); batch {place} is {came}: "
                "put all heads' targets into one y, for example a dict"
            )
        moved = (
            batch[:2]
            if self.device is None
            else map_tensors(lambda tensor: tensor.to(self.device), batch[:2])
        )
        x, y = differentiable(tuple(moved))
        x = x.detach()
        if self.like is None and len(x):
            self.like = x[:1]
        if self.like is not None and (x.shape[1:] != self.like.shape[1:] or x.dtype != self.like.dtype):
            raise ValueError(
                f"one perturbation needs images of one shape and dtype, {self.like.dtype} "
                f"{tuple(self.like.shape[1:])}; got {x.dtype} {tuple(x.shape[1:])} in batch {place}: crop or "
                "resize them first"
            )
        return x, y


@dataclass(eq=False)
class _Chance:
    """Random states of our own, begun at a seed, in place of the caller's while data are drawn."""

    seed: int
    states: States | None = None

    @contextmanager
    def mine(self) -> Iterator[None]:
        theirs = random_states()
        try:
            seed_all(self.seed) if self.states is None else set_random_states(self.states)
            yield
        finally:
            self.states = random_states()
            set_random_states(theirs)


def _applied(threat: Threat, x: Tensor, delta: Tensor) -> Tensor:
    """The images with a perturbation of the ball, in the box: the nearest such point is `clip(x + delta)`."""
    return threat.project(torch.where(threat.free(x), x + delta, x), x)


def _ball(threat: Threat, x: Tensor) -> Threat:
    """Where the perturbation may be, around zero.

    Raises:
        ValueError: A part of the threat that differs between images; an infinite radius.
    """
    radius = torch.as_tensor(threat.radius)
    lower, upper = threat.bounds or (None, None)
    held = {"mask": threat.mask, "scale": threat.scale, "lower": lower, "upper": upper}
    own = [
        name
        for name, value in held.items()
        if isinstance(value, Tensor) and value.ndim == x.ndim and len(value) > 1
    ]
    if radius.numel() > 1 or own:
        raise ValueError(
            f"one perturbation for all images needs one threat; got {own[0] if own else 'radius'} per image: "
            "pass one number as radius, and tensors (*input) or (1, *input) for the rest"
        )
    if not bool(radius.isfinite().all()):
        raise ValueError(
            "a universal attack needs a finite radius; got inf: pass the largest distance that makes sense, "
            "for linf the width of the bounds"
        )
    bounds, levels = None, None
    if threat.levels is not None and lower is not None and upper is not None:
        width = torch.as_tensor(upper) - torch.as_tensor(lower)
        bounds, levels = (-width, width), 2 * threat.levels  # differences have twice as many
    own_radius = float(threat.radius)  # not by way of float32
    return Threat(threat.norm, own_radius, bounds, threat.mask, threat.scale, levels)
