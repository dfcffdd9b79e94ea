"""Jobs of an evaluation: attacks on batches, shared by processes, each finished piece written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import torch
from torch import Tensor

from advreg._core.checks import check_function, one_per_example
from advreg._core.fingerprint import facts
from advreg._core.optional import progress_bar
from advreg._core.targets import bare, structure_of
from advreg._core.trees import map_tensors, tensors
from advreg._core.types import Input, Model, Output, PerExample, Target
from advreg.evaluation._batches import Batches, Examples, checked
from advreg.evaluation._identity import Identity, common, identity, refuse_networks_in_step, summed
from advreg.evaluation._journal import Entry, Shard, file_name, journalling, read_journals, shard_counts
from advreg.evaluation._processes import Team, agree, team
from advreg.evaluation._table import Bound, Row, Table
from advreg.execution import AssumptionError, Batch, room, running
from advreg.objectives import on
from advreg.threats import Threat, Threats

Metrics: TypeAlias = Mapping[str | int, Mapping[str, PerExample]]
"""For each head its metrics by name, as `dict(mask=dict(dice=dice))`; the head "" is the whole output."""


class Bounds(Protocol):
    """Bounds of metrics: how bad each can become within several radii, without an input that shows it."""

    def bounds(
        self, model: Model, x: Input, y: Target, radii: Sequence[float], *, seed: int, index: Tensor
    ) -> Tensor:
        """The bounds, `(R, C, B)`, for radii and metrics in the order of the table's columns."""
        ...


class Cell(NamedTuple):
    """Cell of the table: an attack at a radius, or a bound.

    `run` is None for clean inputs; an attack is told the threat, with this radius, where there is one.
    """

    attack: str
    radius: float
    run: Callable[..., Any] | Bounds | None
    threat: Threats | None = None
    bound: Bound = "found"


class Settings(NamedTuple):
    """Settings that `evaluate` and `radius_curve` have in common; see there."""

    groups: Sequence[str] | None
    journal: str | Path | None
    seed: int
    device: torch.device | str | None
    progress: bool
    together: bool = False
    shard: Shard | None = None


def measure(
    model: Model,
    batches: Batches,
    metrics: Metrics,
    cells: Sequence[Cell],
    options: Mapping[str, Any],
    settings: Settings,
) -> Table:
    """The table of all cells, in the order of cells, batches, examples, heads and metrics.

    Args:
        model: As for `evaluate`.
        batches: As for `evaluate`.
        metrics: As for `evaluate`.
        cells: What is measured; those without `run` share one measurement of the clean inputs.
        options: Plain values that make this evaluation this one: the radii, the threat.
        settings: The rest.
    """
    jobs = list({None if cell.run is None else at: cell for at, cell in enumerate(cells)}.values())
    columns = _columns(metrics)
    _check_device(settings.device)
    _check_shard(settings.shard, settings.journal)
    plan = _Plan(model, None if "" in metrics else metrics, columns, jobs, settings)
    options = {**options, "seed": settings.seed}
    # Whatever an attack differentiates must not be made under the caller's inference mode.
    with torch.inference_mode(mode=False), team() as processes:
        journalled, several = settings.journal is not None, processes.size > 1
        source = checked(batches, settings.groups, check=journalled or several)
        first: list[Examples] = []

        def begin() -> tuple[dict[str, Any], Identity | None]:
            if several:
                refuse_networks_in_step(model)
            for batch in source:
                first.append(batch)
                if len(batch.index):
                    break
            same = {**common(options, facts(model) if several else {}), "the first batch": first[0].check}
            return same, plan.identity(options, first[-1]) if journalled and not processes.process else None

        begun = processes.each(begin)
        agree([same for same, _ in begun])
        here = begun[0][1]  # that of the first process, whatever the others name their devices
        length = len(batches) if isinstance(batches, Sized) else None
        shares = processes.each(lambda: plan.share(chain(first, source), length, here, processes))
        agree([share.checks for share in shares])
    done = {key: entry for share in shares for key, entry in share.entries.items()}
    names, (own, count) = settings.groups, settings.shard or (0, 1)
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
                cell.bound,
            )
            for cell in cells
            for job in [next(j for j, job in enumerate(jobs) if job is cell or job.run is cell.run is None)]
            for number in range(own, len(shares[0].checks), count)
            for at, index in enumerate(done[number, job].index)
            for (head, name, _), values in zip(columns, done[number, job].values, strict=True)
        )
    )


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

    def identity(self, options: Mapping[str, Any], first: Examples) -> Identity:
        """What this evaluation depends on, the model's outputs on the first batch included.

        The model runs first, and is described then, with whatever it keeps from its first call on.
        """
        functions = {f"attack {cell.attack!r}": cell.run for cell in self.jobs if cell.run is not None}
        functions |= {f"metric {name!r} of head {head!r}": f for head, name, f in self.columns}
        outputs = self._outputs(bare(self._moved(first).x)) if len(first.index) else [[]]
        return identity({**options, "the first batch": first.check}, functions, facts(self.model), outputs)

    def share(
        self, batches: Iterable[Examples], length: int | None, here: Identity | None, processes: Team
    ) -> _Share:
        """Do what falls to this process and is not done yet; of what was done by shards, nothing."""
        journal = None if self.settings.journal is None else Path(self.settings.journal)
        known = {} if journal is None or here is None else read_journals(journal, here)
        share = _Share({}, {})
        shards = shard_counts(journal) if journal is not None and self.settings.shard is None else []
        left: list[int] = []
        with ExitStack() as stack:

            @cache  # the file is made when there is something to do, and before it is done
            def writer() -> Callable[[Entry], None]:
                if journal is None or here is None:
                    return _forget
                name = file_name(processes.process, processes.size, self.settings.shard)
                return stack.enter_context(journalling(journal, name, here))

            step = stack.enter_context(self._bar(length, known, processes))
            for number, batch in enumerate(batches):
                share.checks[f"batch {number}"] = batch.check
                done = {job: known[number, job] for job in range(len(self.jobs)) if (number, job) in known}
                if any(entry.check != batch.check for entry in done.values()):
                    raise _other_data(journal, f"another batch {number}")
                if shards and len(done) < len(self.jobs):
                    left.append(number)
                elif self._falls_to(processes, number):
                    for job, values in self._done(batch, done, step, writer):
                        done[job] = Entry(number, job, batch.check, batch.index.tolist(), values)
                        writer()(done[job])
                    share.entries.update({(number, job): entry for job, entry in done.items()})
        if left:
            raise _unfinished(journal, shards, left, len(share.checks))
        if missed := {number for number, _ in known if number >= len(share.checks)}:
            raise _other_data(journal, f"a batch {max(missed)}, and there are only {len(share.checks)} now")
        return share

    def _done(
        self,
        batch: Examples,
        done: Iterable[int],
        step: Callable[..., None],
        begin: Callable[[], object],
    ) -> Iterator[tuple[int, list[list[float]]]]:
        """The jobs that are left of a batch, each with its values; `begin` is called before any."""
        left = sorted(set(range(len(self.jobs))) - set(done))
        if not left:
            return
        begin()
        moved = self._moved(batch)
        for some in self._groups(left, moved):
            measured = self._measure([self.jobs[job] for job in some], moved)
            for job, values in zip(some, measured, strict=True):
                yield job, values
                step(attack=self.jobs[job].attack, radius=self.jobs[job].radius)

    def _falls_to(self, processes: Team, number: int) -> bool:
        """Whether a batch is this process's to do: of those of its shard, every `size`-th."""
        own, count = self.settings.shard or (0, 1)
        return number % (count * processes.size) == own + count * processes.process

    def _moved(self, batch: Examples) -> Examples:
        """The batch where it is to be computed; pinned tensors are copied without waiting."""
        device = self.settings.device
        if device is None:
            return batch
        move = partial(map_tensors, lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))
        return replace(batch, x=move(batch.x), y=move(batch.y))

    def _groups(self, jobs: Iterable[int], batch: Examples) -> Iterator[list[int]]:
        """Jobs that are done at once: one attack at several radii, as many as fit."""
        most = max(1, room(batch.x) // max(1, len(batch.index))) if self.settings.together else 1
        for run, same in groupby(jobs, key=lambda job: self.jobs[job].run):
            left = list(same)
            size = most if run is not None and self.jobs[left[0]].threat is not None else 1
            size = len(left) if self.jobs[left[0]].bound == "guaranteed" else size
            yield from (left[first : first + size] for first in range(0, len(left), size))

    def _measure(self, cells: Sequence[Cell], batch: Examples) -> list[list[list[float]]]:
        """For each cell, all of one attack, the values of each column on its inputs, `(B,)`."""
        x, y, index, count = batch.x, batch.y, batch.index, len(batch.index)
        if count == 0:
            return [[[] for _ in self.columns] for _ in cells]
        run, threat = cells[0].run, cells[0].threat
        if cells[0].bound == "guaranteed":  # an attack may have an attribute of that name, too
            radii = [cell.radius for cell in cells]
            bounds = cast(Bounds, run).bounds(self.model, x, y, radii, seed=self.settings.seed, index=index)
            values: list[list[list[float]]] = bounds.tolist()
            return values
        if threat is not None and len(cells) > 1:
            several = self._repeated(Batch.of(x, y, threat, look=False), len(cells))  # the attack will
            if several is None:
                return [values for cell in cells for values in self._measure([cell], batch)]
            own_radii = torch.tensor([cell.radius for cell in cells], dtype=torch.float64)
            assert isinstance(several.threat, Threat)  # a curve is over the radius of one input
            own = replace(several.threat, radius=own_radii.repeat_interleave(count))
            asked = several._replace(threat=own).arguments()
            x, y, threat, index = asked["x"], several.y, asked["threat"], index.repeat(len(cells))
        if run is not None:
            run, told = cast(Callable[..., Any], run), {} if threat is None else {"threat": threat}
            result = run(self.model, x, y, **told, seed=self.settings.seed, index=index)
            x = _attacked(result, x, cells[0].attack)
        x, y = bare(x), bare(y)
        with self._output(x) as output:
            columns = [
                one_per_example(function(output, y), len(index), f"the metric {name!r}").double()
                for _, name, function in self.columns
            ]
        return [
            [column[first : first + count].tolist() for column in columns]
            for first in range(0, len(index), count)
        ]

    def _repeated(self, batch: Batch, times: int) -> Batch | None:
        """A batch several times; None where an attack could not tell whose the parts of the target are.

        How they belong to the examples is seen on the clean inputs, by the metrics. No marks are handed to an
        attack but where the caller's target has some.
        """
        functions = {f"the metric {name!r} of head {head!r}": f for head, name, f in self.columns}
        try:
            with running(self.model, self.keys, batch.inputs()) as network:
                found = network.examine(batch, functions, resized=True).batch
        except AssumptionError:  # each radius alone then, and the attack says what is wrong
            return None
        several = found.repeat(times)
        if structure_of(several.y, len(several.x)) == found.structure:
            return several
        return None if found.y is batch.y else several._replace(y=several.marked())

    def _outputs(self, x: Input) -> list[list[dict[str, Any]]]:
        """What the model returns for inputs, twice; one that draws random numbers draws others then."""
        outputs = []
        devices = {tensor.device for tensor in tensors(x)}
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
            for _ in range(2):
                with self._output(x) as output:
                    outputs.append(summed(output))
                for device in {torch.device("cpu"), *devices}:
                    torch.rand(1, device=device)
        return outputs

    @contextmanager
    def _output(self, x: Input) -> Iterator[Output]:
        """What the model returns for inputs, without gradients, while it is as it was when it ran."""
        with running(self.model, self.keys, x) as network, torch.no_grad():
            yield network.exact(x)

    def _bar(self, length: int | None, known: Iterable[tuple[int, int]], processes: Team) -> Any:
        """A function to call after each job; it moves the bar of the first process."""
        count = 0 if length is None else sum(self._falls_to(processes, number) for number in range(length))
        total = None if length is None else count * len(self.jobs)
        initial = sum(self._falls_to(processes, number) for number, _ in known)
        shown = self.settings.progress and processes.process == 0
        return progress_bar(total, "job", shown=shown, initial=initial)


def _forget(entry: Entry) -> None:
    """Write nothing down."""
    del entry


def _check_device(device: torch.device | str | None) -> None:
    """Insist on a device that there is.

    Raises:
        ValueError: None such.
    """
    if device is None:
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f'device must be one that torch has here, such as "cpu" or "cuda"; got {device!r}: '
            f"{str(error).splitlines()[0]}"
        ) from error


def _check_shard(shard: Any, journal: Any) -> None:
    """Insist on a shard that there is, and on a journal that joins it to the others.

    Raises:
        ValueError: None such.
    """
    if shard is None:
        return
    whole = isinstance(shard, (tuple, list)) and all(type(one) is int for one in shard)
    if not whole or len(shard) != 2 or not 0 <= shard[0] < shard[1]:
        raise ValueError(
            "shard must be (k, n), k counted from 0 to n - 1, as in an array of n jobs, --array=0-7 for 8: "
            f'(int(os.environ["SLURM_ARRAY_TASK_ID"]), 8); got {shard!r}'
        )
    if journal is None:
        raise ValueError(
            f"a shard, {shard!r}, needs a journal that joins it to the others: pass journal=, the same "
            "folder to all"
        )


def _unfinished(
    journal: Path | None, counts: Sequence[int], missing: Sequence[int], length: int
) -> ValueError:
    """What shards of an evaluation have left to do, of `length` batches those `missing`."""
    told = []
    for count in counts:
        left = Counter(number % count for number in missing)
        for shard, batches in sorted(left.items()):
            total = len(range(shard, length, count))
            done = f"{total - batches} of {total} batches" if batches < total else "not begun"
            told.append(f"({shard}, {count}): {done}")
    shown = "; ".join(told[:10]) + (f"; and {len(told) - 10} more" if len(told) > 10 else "")
    return ValueError(
        f"the journal {journal} is not complete; shards that have work left: {shown}. Run them, or run them "
        "again, by the same call with shard=(k, n), or do here what is left, with shard=(0, 1)"
    )


def _columns(metrics: Metrics) -> list[tuple[str, str, PerExample]]:
    example = '{"mask": {"dice": dice}}, or {"": {"dice": dice}} for the whole output'
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"metrics must be {{head: {{name: function}}}}; got a {type(metrics).__name__}: write {example}"
        )
    columns = []
    for head, functions in metrics.items():
        if not isinstance(functions, Mapping):
            raise TypeError(
                f"metrics must be {{head: {{name: function}}}}; for {head!r} came a "
                f"{type(functions).__name__} instead of a mapping: write {example}"
            )
        for name, function in functions.items():
            check_function(f"the metric {name!r} of head {head!r}", function)
            columns.append((str(head), name, function if head == "" else on(head, function)))
    if not columns:
        raise ValueError(f"expected metrics of one head or more, {example}; got none")
    return columns


def _attacked(result: Any, x: Input, name: str) -> Input:
    found, like = getattr(result, "x", None), bare(x)
    if _shapes(found) != _shapes(like):
        came = _shapes(found) or type(result).__name__
        raise TypeError(
            f"the attack {name!r} must return an AttackResult with x of shape {_shapes(like)}; got {came}: "
            "return what pgd_attack returns, or anything whose attribute x is the inputs that were found, "
            "such as types.SimpleNamespace(x=x)"
        )
    return map_tensors(Tensor.detach, found)


def _shapes(x: Input) -> tuple[int, ...] | list[tuple[int, ...]]:
    """The shape of a tensor; of several inputs those of their tensors."""
    return tuple(x.shape) if isinstance(x, Tensor) else [tuple(tensor.shape) for tensor in tensors(x)]


def _other_data(journal: Path | None, what: str) -> ValueError:
    return ValueError(
        f"the journal {journal} knows {what}: give the same data in the same order and batches, or remove "
        "the folder, or choose another one"
    )
