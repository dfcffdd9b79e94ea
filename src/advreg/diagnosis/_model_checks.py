"""Checks of a diagnosis that look at the model itself, one function each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg._core.checks import examples
from advreg._core.modules import DROPOUTS, named_modules
from advreg._core.tensors import per_example, rows
from advreg._core.trees import tensors
from advreg.diagnosis._gradient_flow import dead_end
from advreg.diagnosis._report import Check
from advreg.diagnosis._thresholds import DELIVERED, DIFFER, EMPTY, FORETOLD, NEARBY, STILL
from advreg.diagnosis._trial import Trial, average
from advreg.execution import frozen

_BPDA = (
    "attack what comes before, or give it a gradient on the way back (BPDA, arXiv:1802.00420): logits in "
    "place of rounded, clipped or scaled outputs, a smooth filter for a median, the head before .detach()"
)


def mode(work: Trial) -> Check:
    """No layer that behaves otherwise in training is in train mode."""
    modules = named_modules(work.model)
    found = [f"{name or 'it'} ({type(m).__name__})" for name, m in modules if m.training and _moody(m)]
    try:
        work.clean = work.value(work.x)
    except ValueError as error:
        if not found:
            raise
        work.refused = str(error)
    else:
        _check_clean(work)
    if not modules:
        return Check(
            "mode",
            "skipped",
            {},
            f"no layer was looked at: the model is a {type(work.model).__name__} in which no torch.nn.Module "
            "was found; pass the module itself, or advreg.execution.Adapted(net, call=...)",
        )
    evidence = {"layers in train mode": float(len(found))}
    if found:
        return Check(
            "mode",
            "flag",
            evidence,
            f"in train mode: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}",
            "call model.eval() before the evaluation; what is measured here holds for train mode",
        )
    return Check("mode", "pass", evidence, "no layer that training changes is in train mode")


def _check_clean(work: Trial) -> None:
    """Insist on clean values from which a gain can be taken."""
    sick = ~work.clean.isfinite()
    if bool(sick.any()):
        name = "objective" if work.judge is None else "judge"
        raise ValueError(
            f"the {name} must be finite at the clean inputs, or no gain can be told; got "
            f"{work.clean[sick][0].item():.6g} in {examples(sick)}: leave these examples out, or give the "
            f"{name} a finite value there, such as the distance across the image for an empty mask"
        )


def determinism(work: Trial) -> Check:
    """The same input gives the same outputs."""
    with frozen(work.model), torch.no_grad():
        passes = [[t.detach().double() for t in tensors(work.model(work.inputs(work.x)))] for _ in range(3)]
    first, *others = passes
    scale = max([float(t.abs().nan_to_num(0.0).max()) for t in first if t.numel()], default=0.0) or 1.0
    apart = [
        float(torch.where(a.isnan() & b.isnan(), 0, a - b).abs().max())
        for more in others
        for a, b in zip(first, more, strict=True)
        if a.numel()
    ]
    share = max(apart, default=0.0) / scale
    evidence = {"largest difference, of the largest output": share}
    if share <= DIFFER:
        return Check("determinism", "pass", evidence, "the same input gives the same outputs")
    work.expect_noise()
    return Check(
        "determinism",
        "flag",
        evidence,
        f"the same input gives outputs that differ by {share:.2g} of the largest: dropout, or a noise layer",
        "call model.eval(); if the model is random by design, attack and diagnose its expectation, "
        "advreg.execution.expectation(model, draws=20), and report what is found on other draws",
    )


def gradients(work: Trial) -> Check:
    """The objective has a gradient at the inputs and around them: finite, not zero, and of a use.

    Of a use: at a random point, over the radius, it foretells no less than `FORETOLD` of the change between
    that point and the input; and a small step along it delivers at least `DELIVERED` of what it foretells.
    """
    near = work.threat.sample(work.x, work.keys.fold_in(1))
    value, clean = work.slope(work.x)
    around, gradient = work.slope(near)
    if clean is None or gradient is None:
        message = f"the objective has no gradient: {_lost(work)}"
        return Check("gradients", "flag", {"detached": 1.0}, message, _BPDA)
    free = work.threat.free(gradient)
    clean, gradient = (torch.where(free, found, 0) for found in (clean, gradient))
    count = rows(free).sum(1).clamp(min=1)
    empty = [rows((found == 0) & free).sum(1) / count for found in (clean, gradient)]
    finite = [rows(found).isfinite().all(1) for found in (clean, gradient)]
    sick = ~torch.stack([*finite, value.isfinite(), around.isfinite()]).all(0)
    still = empty[1] == 1
    evidence = {
        "detached": 0.0,
        "examples not finite": average(sick),
        "examples without, clean": average(empty[0] == 1),
        "examples without, random points": average(still),
        "zero entries, clean": average(empty[0]),
        "zero entries, random points": average(empty[1]),
    }
    if bool(sick.any()):
        message = f"not finite for {average(sick):.0%} of the examples; {_lost(work, near, sick)}"
        remedy = "look for a square root or norm at zero, a logarithm of zero, float16 overflow"
        return Check("gradients", "flag", evidence, message, remedy)
    foretold, delivered = _of_use(work, near, value, around, gradient)
    evidence |= {"foretold of the change seen": foretold, "delivered of the change foretold": delivered}
    if average(still) > STILL:
        message = (
            f"zero for {average(still):.0%} of the examples at random points; {_lost(work, near, still)}"
        )
    elif average(empty[1]) > EMPTY:
        message = f"zero in {average(empty[1]):.0%} of the entries at random points"
    elif foretold < FORETOLD:
        message = (
            f"too small: half of the gradients foretell less than {foretold:.2g} of the change that a random "
            "point shows, as of a saturated or stepwise function"
        )
    elif delivered < DELIVERED:
        message = (
            f"misleading: half of the small steps along it deliver less than {delivered:.2g} of what "
            "it foretells, as of a wrong backward pass or a very rough surface"
        )
    else:
        return Check("gradients", "pass", evidence, "finite, not zero, and in keeping with the changes seen")
    return Check("gradients", "flag", evidence, message, _BPDA)


def _of_use(
    work: Trial, near: Tensor, value: Tensor, around: Tensor, gradient: Tensor
) -> tuple[float, float]:
    """What the gradient foretells of a change seen, and what a step along it delivers: medians."""
    threat = work.threat.relaxed  # a small step may be less than a level
    direction = threat.stretched(threat.steps_at(near).steepest(gradient))
    radius = torch.as_tensor(work.threat.radius, dtype=near.dtype, device=near.device).expand(len(near))
    rise = radius * rows(gradient * direction).sum(1)
    after = threat.project(near + NEARBY * per_example(radius, near) * direction, work.x)
    step = torch.where(work.threat.free(near), after - near, 0)
    expected = rows(gradient * step).sum(1)
    with frozen(work.model), torch.no_grad():
        batch = work.batch(near + step)
        change = work.objective(work.model(batch.inputs()), batch.y) - around
    slack = 16 * torch.finfo(around.dtype).eps * around.abs()  # what rounding may show
    return _median(rise / (around - value).abs(), (around - value).abs() > slack), _median(
        change / expected, expected > slack
    )


def _median(ratio: Tensor, counts: Tensor) -> float:
    """The median where it counts; 1 where it never does."""
    return float(ratio[counts].double().median()) if bool(counts.any()) else 1.0


def _moody(module: nn.Module) -> bool:
    """Whether train mode changes what a layer does."""
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return module.dropout > 0
    if hasattr(module, "track_running_stats"):  # normalisation, whoever wrote it
        return bool(module.track_running_stats)
    return isinstance(module, (*DROPOUTS, nn.RReLU)) and getattr(module, "p", 1.0) > 0


def _lost(work: Trial, x: Tensor | None = None, some: Tensor | None = None) -> str:
    """Where the gradient is lost, of some of the examples."""
    x = work.x if x is None else x
    batch = work.batch(x) if some is None else work.batch(x).take(some)
    inputs = batch.inputs(batch.x.detach().clone().requires_grad_())
    return f"lost {dead_end(work.model, inputs, batch.y, work.objective)}"
