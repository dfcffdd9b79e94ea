"""Diagnosis of an evaluation: checks that a weak attack, or a defence that hides gradients, fails."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from advreg._core.checks import check_function, check_objective
from advreg._core.keys import Keys
from advreg._core.optional import progress_bar
from advreg._core.types import Input, Model, PerExample, Target
from advreg.diagnosis._attack_checks import CHECKS, skipped
from advreg.diagnosis._report import Check, Diagnosis
from advreg.diagnosis._trial import Trial
from advreg.execution import AssumptionError, Batch, Execution
from advreg.threats import Threat, Threats


def diagnose(
    model: Model,
    x: Input,
    y: Target,
    *,
    objective: PerExample,
    threat: Threats,
    judge: PerExample | None = None,
    transfer: Model | Sequence[Model] | None = None,
    steps: int = 50,
    queries: int = 500,
    execution: Execution | None = None,
    seed: int = 0,
    index: Tensor | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Check whether what gradient attacks find on a model can be taken for its robustness.

    For any model and output tree, and any objective. The attack on trial is `pgd_attack` with its own
    defaults and `steps` steps. Checks, in order: `mode`, `determinism`, `gradients`, `steps`, `radius`,
    `unbounded`, `noise`, `transfer`, `gradient_free`, `step_size`, `start`. What each does is
    in `diagnosis/_attack_checks.py` and `_model_checks.py`, its thresholds in `_thresholds.py`.

    Give it 16 to 64 examples as they are evaluated: two heads that are attacked apart are diagnosed apart.

    Cost: about `10 * steps` forward and backward passes of the batch, and `steps + 2 * queries` forward
    passes; `steps` of both more for each model of `transfer`; and for each of about twenty attacks one
    forward pass and two of one example, by which its assumptions are checked. `setting` of the result counts
    the forward passes. The model is left as it was.

    Args:
        model: As for `pgd_attack`.
        x: Clean inputs, `(B, *input)`; of a model of several inputs, of which one is attacked, as for
            `pgd_attack`.
        y: The target that the objective compares with.
        objective: `(output, target) -> (B,)`, what attacks maximise.
        threat: Norm, finite radius, bounds and mask.
        judge: In whose terms damage is compared, larger being worse, such as `negate(on("mask", dice))`; by
            default the objective.
        transfer: Other models with outputs of the same kind, whose adversarial inputs are tried on this one:
            the same network trained without the defence is best.
        steps: Steps of the gradient attack; those of your evaluation.
        queries: Forward passes of each gradient-free attack.
        execution: How the model is run; see `advreg.Execution`.
        seed: With `index`, decides all random numbers.
        index: Each example's place in its data set, int64 `(B,)`; by default 0 to B - 1.
        progress: Show a bar with the time left; needs tqdm.

    Returns:
        A `Diagnosis`.

    Raises:
        ValueError: Inputs outside the bounds; a radius that is infinite, or zero for all; too few steps or
            queries; an objective or judge that is not finite at the clean inputs.
        TypeError: As for `pgd_attack`; steps or queries that are no whole numbers; a `transfer` that holds
            what is no model.
        KeyError: A head that output or target lacks.
        ImportError: `progress=True` without tqdm.

    Example:
        >>> import torch
        >>> from advreg import J_IND_reg, Threat, diagnose, linf
        >>> x = torch.linspace(0.1, 0.9, 24).reshape(8, 3)
        >>> y = torch.zeros(8, 1)
        >>> honest = lambda x: x.sum(1, keepdim=True)
        >>> options = {"objective": J_IND_reg, "threat": Threat(linf, 0.1), "steps": 20, "queries": 40}
        >>> diagnose(honest, x, y, **options).passed
        True
        >>> rounded = lambda x: honest((5 * x).round() / 5)
        >>> diagnose(rounded, x, y, **options).flagged
        ('gradients', 'steps', 'unbounded', 'noise', 'gradient_free')

    Source:
        Athalye et al., arXiv:1802.00420, section 3.1; Carlini et al., arXiv:1902.06705, section 4; Pintor et
        al., Indicators of attack failure, arXiv:2106.09947; Croce and Hein, arXiv:2003.01690 (randomness,
        black-box attacks beside white-box ones).
    """
    check_objective(objective)
    if judge is not None:
        check_function("judge", judge)
    batch = Batch.single(x, y, threat)
    assert isinstance(batch.threat, Threat)  # as `Batch.single` has seen to
    norm, largest = batch.threat.norm, batch.threat.largest
    if math.isinf(largest) or largest == 0:
        raise ValueError(
            f"a diagnosis needs a finite radius above zero; got {largest}: for an attack without a "
            "limit pass the largest distance that makes sense, for linf the width of the bounds"
        )
    _check_counts(steps, queries)
    others = _others(transfer)
    keys = Keys.of(batch.x, seed, index)
    work = Trial(model, batch, objective, judge, others, steps, queries, keys, execution)
    checks: list[Check] = []
    with _counted(model) as passes, progress_bar(len(CHECKS), "check", shown=progress) as advance:
        for check in CHECKS:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", UserWarning
                )  # zero gradients, random numbers: what checks say
                checks.append(_checked(check, work, checks))
            advance(check=checks[-1].name)
    setting = {
        "examples": len(batch.x),
        "norm": repr(norm),
        "radius": round(largest, 6),
        "steps": steps,
        "queries": queries,
        "seed": seed,
    }
    if isinstance(model, nn.Module):
        setting["forward passes"] = passes[0]
    return Diagnosis(tuple(checks), setting)


def _checked(check: Callable[[Trial], Check], work: Trial, before: Sequence[Check]) -> Check:
    """What a check says; skipped where attacks refuse a model of which an earlier check told why."""
    if work.refused:
        return skipped(check, work.refused)
    try:
        return check(work)
    except AssumptionError as error:
        if all(one.verdict != "flag" for one in before):
            raise
        work.refused = str(error)
        return skipped(check, work.refused)


@contextmanager
def _counted(model: Model) -> Iterator[list[int]]:
    """Counts the model's forward passes, if it is a module."""
    count = [0]

    def hook(*_: Any) -> None:
        count[0] += 1

    handle = model.register_forward_pre_hook(hook) if isinstance(model, nn.Module) else None
    try:
        yield count
    finally:
        if handle is not None:
            handle.remove()


def _check_counts(steps: Any, queries: Any) -> None:
    """Insist on whole numbers that are large enough for the checks."""
    for name, value in (("steps", steps), ("queries", queries)):
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number; got {value!r} of type {type(value).__name__}")
    if steps < 10 or queries < 30:
        raise ValueError(f"expected 10 steps or more and 30 queries or more; got {steps} and {queries}")


def _others(transfer: Any) -> list[Model]:
    """The other models, as a list."""
    if transfer is None:
        return []
    if callable(transfer) and not isinstance(transfer, nn.ModuleList):
        return [transfer]
    listed = hasattr(transfer, "__iter__") and not isinstance(transfer, str)
    several = list(transfer) if listed else None
    if several is None or not all(map(callable, several)):
        wrong = next((one for one in several if not callable(one)), None) if several else transfer
        raise TypeError(
            "transfer must be a model, or a sequence of models, each a function of the inputs; got "
            f"{wrong!r} of type {type(wrong).__name__}: load the model first, or leave transfer=None"
        )
    return several
