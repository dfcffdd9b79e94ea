"""Processes of `torch.distributed` that share work, so that none waits for one that has failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from torch import distributed

T = TypeVar("T")


class Team(NamedTuple):
    """The processes at work.

    Attributes:
        process: The number of this one.
        size: How many there are.
        gather: What each process has handed in, in their order; every process must call it.
    """

    process: int
    size: int
    gather: Callable[[Any], list[Any]]

    def each(self, work: Callable[[], T]) -> list[T]:
        """The results of `work` on each process.

        Raises:
            Exception: What `work` raised here.
            RuntimeError: It raised on another process; the message says what.
        """
        failure: Exception | None = None
        mine: T | None = None
        try:
            mine = work()
        except Exception as error:  # noqa: BLE001 - raised below, when the others know
            failure = error
        gathered = self.gather((mine, failure and f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        for process, (_, text) in enumerate(gathered):
            if text is not None:
                raise RuntimeError(f"process {process} of {self.size} failed: {text}")
        return [result for result, _ in gathered]


@contextmanager
def team() -> Iterator[Team]:
    """The processes of `torch.distributed`; this one alone where it is not initialised."""
    if not (distributed.is_available() and distributed.is_initialized()):
        yield Team(0, 1, lambda thing: [thing])
        return
    # A group of its own, on the CPU and patient: one process may be done hours before another.
    group = distributed.new_group(backend="gloo", timeout=timedelta(days=30))
    size = distributed.get_world_size()

    def gather(thing: Any) -> list[Any]:
        things = [None] * size
        distributed.all_gather_object(things, thing, group=group)
        return things

    try:
        yield Team(distributed.get_rank(), size, gather)
    finally:
        distributed.destroy_process_group(group)


def agree(told: Sequence[Mapping[str, Any]]) -> None:
    """Insist that the processes told the same, by name.

    Raises:
        ValueError: They differ; the message names in what.
    """
    names = dict.fromkeys(name for each in told for name in each)
    if differ := [name for name in names if any(each.get(name) != told[0].get(name) for each in told)]:
        raise ValueError(
            f"the processes differ in {', '.join(differ[:5])}: give each the same model, options and "
            "batches (no DistributedSampler, no shuffling); evaluation shares them out itself"
        )
