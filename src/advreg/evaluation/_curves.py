"""Evaluation at one radius and over radii, as a table of one row per example."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from advreg._core.types import Model
from advreg.evaluation._batches import Batches
from advreg.evaluation._jobs import Cell, Metrics, Settings, measure
from advreg.evaluation._table import Table
from advreg.threats import Threat, Threats, linf


def evaluate(
    model: Model,
    batches: Batches,
    metrics: Metrics,
    attack: Callable[..., Any] | None = None,
    *,
    name: str = "attack",
    radius: float = math.nan,
    groups: Sequence[str] | None = None,
    journal: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Table:
    """Measure every head on the inputs that one attack finds, or on the clean ones.

    All heads are measured on the same inputs, so that the damage to a head that was not attacked shows too.

    Where `torch.distributed` is initialised, each process takes whole batches, the `r`-th of `n` those with
    `number % n == r`, and all return the same table, that of a single process. Give every process the same
    batches, without a `DistributedSampler`.

    Args:
        model: Inputs to outputs. Call `.eval()` on it first, and put it on `device`.
        batches: `(x, y)` or `(x, y, index)`; iterated once. Of a model of several inputs `x` holds them
            all, in a mapping, tuple or dataclass; without an index their number is the length of the first
            tensor.
        metrics: `{head: {name: function}}`, for example `{"mask": {"dice": dice}}`.
        attack: Called as `attack(model, x, y, seed=seed, index=index)`, usually a `functools.partial` of
            `pgd_attack`. None for the clean inputs.
        name: What the column `attack` says; "clean" without an attack.
        radius: What the column `radius` says; 0 without an attack.
        groups: The group of each example by its index, such as its patient; see `bootstrap`.
        journal: A folder in which each finished batch is written down. After an interruption the same call
            goes on from there, in another process too. A journal of another evaluation is refused by the
            name of what differs, as "metric 'dice' of head 'mask': its code"; see below.
        shard: `(k, n)`: this job does the batches with `number % n == k` alone, for arrays of jobs that do
            not know of each other. Needs `journal`, the same folder for all; see below.
        seed: Handed to the attack.
        device: Where batches are moved; by default they stay. Pinned ones are copied without waiting.
        progress: Show a bar with the time left; needs tqdm.

    A journal knows its evaluation by the model, attacks, metrics, options and data. Of functions and classes
    it sees the code, default arguments, closures, attributes, and the globals that they read, functions that
    they call among them; of models all parameters, buffers, plain attributes, train modes and hooks; of
    Python, this library and installed packages the version. It does not see files, environment variables or
    C code that they read: of a model these show in its outputs on the first batch, which are compared up to
    a thousandth of their size. Rounding alone, by another device or number of processes or threads, does not
    count. A metric that counts or caches in an attribute, a global or a closure is another one after it has
    run: let it begin anew before the next call.

    Shards may run at once, one after another, or again after a kill; each writes a file of its own in the
    folder, and a second job of the same shard is refused while the first one runs. A shard returns the table
    of its own batches. The same call without `shard`, when all are done, computes nothing and returns the
    whole table, bit for bit that of a single job; until then it names the shards that have work left.
    `shard=(0, 1)` does what is left itself.

    Returns:
        A `Table`, in the order of batches, examples, heads and metrics. Values that are NaN or infinite stand
        in it as they are; see `Table.means`.

    Raises:
        ValueError: No examples; examples that occur twice; a device that there is not; a journal of another
            evaluation, or a file that is none; processes that disagree on model or data, or have a network
            that `fully_shard` spreads over them; a shard that is none, or without a journal; shards that have
            work left, in the call without `shard`.
        RuntimeError: Another process writes the journal of the same shard, or of the same process, now.
        TypeError: Inputs that are no tensors; metrics that are no `{head: {name: function}}`; a metric that
            does not return `(B,)`; an attack that does not return an `AttackResult`.
        KeyError: A head that output or target lacks.
        OSError: A journal that cannot be read or written; what was finished is kept.
        ImportError: `progress=True` without tqdm.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from advreg import J_IND_reg, Threat, linf, pgd_attack
        >>> from advreg import evaluate
        >>> batches = [(torch.rand(4, 3), torch.rand(4, 2)) for _ in range(2)]
        >>> attack = partial(pgd_attack, objective=J_IND_reg, threat=Threat(linf, 0.1), steps=5)
        >>> evaluate(torch.nn.Linear(3, 2), batches, {"": {"error": J_IND_reg}}, attack, radius=0.1)
        Table(8 rows; attack: attack; head: ''; metric: error; radius: 0.1)

    Source:
        Chen et al., section 3.1: each head's accuracy under attack, Eqs 13 to 15.
    """
    if attack is None and radius > 0:
        raise ValueError(f"clean inputs have no radius; got {radius} without an attack: pass attack=")
    if attack is not None:
        _check_attack("attack", attack)
    cell = Cell("clean", 0.0, None) if attack is None else Cell(name, float(radius), attack)
    settings = Settings(groups, journal, seed, device, progress, shard=shard)
    return measure(model, batches, metrics, [cell], {"radius": cell.radius, "attack": cell.attack}, settings)


def radius_curve(
    model: Model,
    batches: Batches,
    metrics: Metrics,
    attacks: Mapping[str, Callable[..., Any]],
    radii: Iterable[float],
    *,
    threat: Threats = Threat(linf, 0.0),
    together: bool = False,
    groups: Sequence[str] | None = None,
    journal: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Table:
    """Measure every head under each attack at each radius.

    At radius 0 the clean inputs are measured, once, and their rows stand under every attack's name, so that
    each curve begins there. All else is as for `evaluate`.

    Args:
        model: As for `evaluate`.
        batches: As for `evaluate`; every batch is attacked at all radii before the next is asked for.
        metrics: As for `evaluate`.
        attacks: By name. Called as `attack(model, x, y, threat=..., seed=seed, index=index)`, for example
            `partial(pgd_attack, objective=on("mask", J_IND_seg), steps=100)`.
        radii: Distinct, 0 or more.
        threat: Norm, bounds and mask; its radius is replaced by each of the radii. Of a model of several
            inputs the one that is attacked, `{"image": Threat(linf, 0.0)}`.
        together: Whether batches that are too small to keep the machine busy are attacked at several radii at
            once. An attack then gets each example several times, and `threat.radius` as a tensor, `(B,)`; all
            of this library take that. Results are the same up to rounding.
        groups: As for `evaluate`.
        journal: As for `evaluate`; each finished batch is written for each attack and radius.
        shard: As for `evaluate`.
        seed: As for `evaluate`; the same at all radii.
        device: As for `evaluate`.
        progress: As for `evaluate`.

    Returns:
        A `Table`, in the order of attacks, radii, batches, examples, heads and metrics.

    Raises:
        ValueError: Radii below zero or twice the same; no attacks; and as for `evaluate`.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from advreg import J_IND_reg, pgd_attack
        >>> from advreg import radius_curve
        >>> batches = [(torch.rand(4, 3), torch.rand(4, 2)) for _ in range(2)]
        >>> attacks = {"error": partial(pgd_attack, objective=J_IND_reg, steps=5)}
        >>> metrics = {"": {"error": J_IND_reg}}
        >>> table = radius_curve(torch.nn.Linear(3, 2), batches, metrics, attacks, [0.0, 0.05, 0.1])
        >>> len(table), [mean.count for mean in table.means()]
        (24, [8, 8, 8])

    Source:
        Chen et al., section 3: accuracy against the radius of the attack.
    """
    if not isinstance(attacks, Mapping):
        raise TypeError(
            f"attacks must be by name, {{'mask': partial(pgd_attack, ...)}}; got a {type(attacks).__name__}"
        )
    for each, attack in attacks.items():
        _check_attack(f"the attack {each!r}", attack)
    radii = _numbers(radii)
    if not attacks or not radii or len(set(radii)) < len(radii) or not all(radius >= 0 for radius in radii):
        came = f"attacks {list(attacks)} and radii {radii}"
        raise ValueError(f"expected one attack or more and distinct radii of 0 or more; got {came}")
    threats = {radius: _with(threat, radius) for radius in radii}
    cells = [
        Cell(name, radius, attack, threats[radius]) if radius else Cell(name, 0.0, None)
        for name, attack in attacks.items()
        for radius in radii
    ]
    options = {"radii": radii, "threat": _with(threat, 0.0)}
    settings = Settings(groups, journal, seed, device, progress, together, shard)
    return measure(model, batches, metrics, cells, options, settings)


def _with(threat: Threats, radius: float) -> Threats:
    """The threat with another radius."""
    if not isinstance(threat, Mapping):
        return dataclasses.replace(threat, radius=radius)
    if len(threat) != 1:
        raise ValueError(
            f"a curve is over the radius of one input; got threats of {list(threat)}: give the attacks of "
            "several inputs their own, and evaluate each, "
            'evaluate(..., attack=partial(pgd_attack, threat={"image": ..., "age": ...}))'
        )
    return {key: dataclasses.replace(one, radius=radius) for key, one in threat.items()}


def _check_attack(name: str, attack: Any) -> None:
    if not callable(attack):
        raise TypeError(
            f"{name} must be a function (model, x, y, ...) -> AttackResult, such as partial(pgd_attack, "
            f"objective=...); got a {type(attack).__name__}"
        )


def _numbers(radii: Any) -> list[float]:
    numbers: Any = None if isinstance(radii, str) else radii
    try:
        return [float(radius) for radius in numbers]
    except (TypeError, ValueError) as error:
        raise TypeError(f"radii must be numbers, such as [0, 0.01, 0.03]; got {radii!r}") from error
