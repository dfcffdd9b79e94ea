"""Jobs of an evaluation: attacks on batches, shared by processes, each finished piece written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from advreg._core.checks import one_per_example
from advreg._core.fingerprint import describe, digest
from advreg._core.optional import progress_bar
from advreg._core.targets import bare
from advreg._core.trees import map_tensors
from advreg._core.types import Model, PerExample, Target
from advreg.evaluation._journal import Entry, journalling, read_journals
from advreg.evaluation._processes import Team, agree, team
from advreg.evaluation._table import Row, Table
from advreg.execution import Batch, room, running
from advreg.objectives import on
from advreg.threats import Threat

Batches: TypeAlias = Iterable[Sequence[Any]]
"""`(x, y)` or `(x, y, index)` each, as a `DataLoader` gives them; without index examples are counted on."""


Metrics: TypeAlias = Mapping[str | int, Mapping[str, PerExample]]
"""For each head its metrics by name, as `dict(mask=dict(dice=dice))`; the head "" is the whole output."""


class Cell(NamedTuple):
    """Cell of the table: an attack at a radius.

    `run` is None for clean inputs; it is told the threat, with this radius, where there is one.
    """

    attack: str
    radius: float
    run: Callable[..., Any] | None
    threat: Threat | None = None


class Settings(NamedTuple):
    """Settings that `evaluate` and `radius_curve` have in common; see there."""

    groups: Sequence[str] | None
    journal: str | Path | None
    seed: int
    device: torch.device | str | None
    progress: bool
    together: bool = False


def measure(
    model: Model,
    batches: Batches,
    metrics: Metrics,
    cells: Sequence[Cell],
    told: Mapping[str, str],
    settings: Settings,
) -> Table:
    """The table of all cells, in the order of cells, batches, examples, heads and metrics.

    Args:
        model: As for `evaluate`.
        batches: As for `evaluate`.
        metrics: As for `evaluate`.
        cells: What is measured; those without `run` share one measurement of the clean inputs.
        told: What makes this evaluation this one, for its journal: the attacks, the radii.
        settings: The rest.
    """
    jobs = list({None if cell.run is None else at: cell for at, cell in enumerate(cells)}.values())
    columns = _columns(metrics)
    plan = _Plan(model, None if "" in metrics else metrics, columns, jobs, settings)
    with team() as processes:
        known = settings.journal is not None or processes.size > 1
        if known:
            told = {**told, "model": digest(model), "seed": str(settings.seed), "advreg": version("advreg")}
            told |= {f"metric {name!r} of head {head!r}": describe(f) for head, name, f in columns}
        source = _checked(batches, settings.groups, check=known)
        first: list[_Batch] = []

        def begin() -> dict[str, str]:
            first.extend(islice(source, 1))
            if not first:
                raise ValueError("there are no batches: a generator is empty when it is used a second time")
            return {**told, "the first batch": first[0].check}

        agree(processes.each(begin))
        length = len(batches) if isinstance(batches, Sized) else None
        shares = processes.each(lambda: plan.share(chain(first, source), length, told, processes))
        agree([share.checks for share in shares])
    done = {key: entry for share in shares for key, entry in share.entries.items()}
    names = settings.groups
    return Table(
        tuple(
            Row(
                index,
                "" if names is None else str(names[index]),
                cell.radius,
                cell.attack,
                head,
                name,
                values[at],
            )
            for cell in cells
            for job in [next(j for j, job in enumerate(jobs) if job is cell or job.run is cell.run is None)]
            for number in range(len(shares[0].checks))
            for at, index in enumerate(done[number, job].index)
            for (head, name, _), values in zip(columns, done[number, job].values, strict=True)
        )
    )


@dataclass(frozen=True, eq=False)
class _Batch:
    x: Tensor
    y: Target
    index: Tensor
    check: str


class _Share(NamedTuple):
    """Share of one process: the digest of each batch, and the entries of its own batches."""

    checks: dict[str, str]
    entries: dict[tuple[int, int], Entry]


@dataclass(frozen=True, eq=False)
class _Plan:
    model: Model
    keys: Iterable[str | int] | None
    columns: Sequence[tuple[str, str, PerExample]]
    jobs: Sequence[Cell]
    settings: Settings

    def share(
        self, batches: Iterable[_Batch], length: int | None, told: Mapping[str, str], processes: Team
    ) -> _Share:
        """Do what falls to this process and is not done yet."""
        journal = None if self.settings.journal is None else Path(self.settings.journal)
        known = {} if journal is None else read_journals(journal, told)
        share = _Share({}, {})
        with ExitStack() as stack:
            write = stack.enter_context(journalling(journal, processes.process, told)) if journal else None
            step = stack.enter_context(self._bar(length, known, processes))
            for number, batch in enumerate(batches):
                share.checks[f"batch {number}"] = batch.check
                if number % processes.size != processes.process:
                    continue
                mine = {job: known[number, job] for job in range(len(self.jobs)) if (number, job) in known}
                if any(entry.check != batch.check for entry in mine.values()):
                    raise _other_data(journal, f"another batch {number}")
                left = [job for job in range(len(self.jobs)) if job not in mine]
                here = self._moved(batch) if left else batch
                for some in self._groups(left, here.x):
                    measured = self._measure([self.jobs[job] for job in some], here)
                    for job, values in zip(some, measured, strict=True):
                        mine[job] = Entry(number, job, batch.check, batch.index.tolist(), values)
                        if write is not None:
                            write(mine[job])
                        step(attack=self.jobs[job].attack, radius=self.jobs[job].radius)
                share.entries.update({(number, job): entry for job, entry in mine.items()})
        if missed := {number for number, _ in known if number >= len(share.checks)}:
            raise _other_data(journal, f"a batch {max(missed)}, and there are only {len(share.checks)} now")
        return share

    def _moved(self, batch: _Batch) -> _Batch:
        """The batch where it is to be computed; pinned tensors are copied without waiting."""
        device = self.settings.device
        if device is None:
            return batch
        move = partial(map_tensors, lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))
        return replace(batch, x=move(batch.x), y=move(batch.y))

    def _groups(self, jobs: Iterable[int], x: Tensor) -> Iterator[list[int]]:
        """Jobs that are done at once: one attack at several radii, as many as fit."""
        most = max(1, room(x) // max(1, len(x))) if self.settings.together else 1
        for run, same in groupby(jobs, key=lambda job: self.jobs[job].run):
            left = list(same)
            size = most if run is not None and self.jobs[left[0]].threat is not None else 1
            yield from (left[first : first + size] for first in range(0, len(left), size))

    def _measure(self, cells: Sequence[Cell], batch: _Batch) -> list[list[list[float]]]:
        """For each cell, all of one attack, the values of each column on its inputs, `(B,)`."""
        x, y, index = batch.x, batch.y, batch.index
        run, threat, count = cells[0].run, cells[0].threat, len(x)
        if threat is not None and len(cells) > 1:
            radii = torch.tensor([cell.radius for cell in cells], dtype=torch.float64)
            several = Batch(x, y, threat).repeat(len(cells))
            x, y, threat = several.x, several.marked(), several.threat
            threat, index = replace(threat, radius=radii.repeat_interleave(count)), index.repeat(len(cells))
        if run is not None:
            told = {} if threat is None else {"threat": threat}
            result = run(self.model, x, y, **told, seed=self.settings.seed, index=index)
            x = _attacked(result, x, cells[0].attack)
        with running(self.model, self.keys, x) as network, torch.no_grad():
            output, y = network.exact(x), bare(y)
            columns = [
                one_per_example(function(output, y), len(x), f"the metric {name!r}").double()
                for _, name, function in self.columns
            ]
        return [
            [column[first : first + count].tolist() for column in columns]
            for first in range(0, len(x), count)
        ]

    def _bar(self, length: int | None, known: Iterable[tuple[int, int]], processes: Team) -> Any:
        """A function to call after each job; it moves the bar of the first process."""
        total = None if length is None else -(-length // processes.size) * len(self.jobs)
        initial = sum(number % processes.size == 0 for number, _ in known)
        shown = self.settings.progress and processes.process == 0
        return progress_bar(total, "job", shown=shown, initial=initial)


def _columns(metrics: Metrics) -> list[tuple[str, str, PerExample]]:
    columns = [
        (str(head), name, function if head == "" else on(head, function))
        for head, functions in metrics.items()
        for name, function in functions.items()
    ]
    if not columns:
        raise ValueError('expected metrics of one head or more, {"mask": {"dice": dice}}; got none')
    return columns


def _checked(batches: Batches, groups: Sequence[str] | None, *, check: bool) -> Iterator[_Batch]:
    """The batches with the place of each example, which may come once; with their digests if asked."""
    seen: set[int] = set()
    for number, batch in enumerate(batches):
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise ValueError(
                f"a batch must be (x, y) or (x, y, index); batch {number} is a {type(batch).__name__}: "
                "put all heads' targets into one y, for example a dict"
            )
        x, y, *rest = batch
        index = torch.as_tensor(rest[0]).cpu() if rest else torch.arange(len(seen), len(seen) + len(x))
        if index.shape != (len(x),) or index.dtype != torch.int64:
            raise ValueError(
                f"index must be int64 of shape ({len(x)},), each example's place in the data set; batch "
                f"{number} has {index.dtype} of shape {tuple(index.shape)}"
            )
        places = set(index.tolist())
        if len(places) < len(x) or places & seen:
            raise ValueError(
                f"an example must come once, but one of batch {number} comes again; its index is "
                f"{index.tolist()}: give each example's place in the data set, not in the batch"
            )
        if groups is not None and not all(0 <= place < len(groups) for place in places):
            raise ValueError(
                f"groups must name the group of each index; got {len(groups)} groups, and batch {number} has "
                f"the indices {min(places)} to {max(places)}"
            )
        seen |= places
        yield _Batch(x, y, index, digest((x, y, index)) if check else "")


def _attacked(result: Any, x: Tensor, name: str) -> Tensor:
    found = getattr(result, "x", None)
    if not isinstance(found, Tensor) or found.shape != x.shape:
        came = tuple(found.shape) if isinstance(found, Tensor) else type(result).__name__
        raise TypeError(
            f"the attack {name!r} must return an AttackResult with x of shape {tuple(x.shape)}; got {came}"
        )
    return found.detach()


def _other_data(journal: Path | None, what: str) -> ValueError:
    return ValueError(
        f"the journal {journal} knows {what}: give the same data in the same order and batches, or remove "
        "the folder, or choose another one"
    )
