"""Sharing work: processes of one run (`torchrun`), and runs that share a folder."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import distributed

PATIENCE = timedelta(days=7)  # processes of a run wait for their first one, and that one for other runs


def place() -> tuple[int, int]:
    """This process's number, and how many share its run."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def first() -> bool:
    """Whether this process is the one of its run that writes."""
    return place()[0] == 0


def wait() -> None:
    """Wait until every process of this run is here."""
    if distributed.is_initialized():
        distributed.barrier()


@contextmanager
def processes(device: str | None = None) -> Iterator[torch.device]:
    """Join the processes that `torchrun` started, where it did, and choose this one's device.

    Args:
        device: "cpu", "cuda" or "cuda:1"; None takes a GPU where there is one. With several processes "cuda"
            gives each its own.

    Yields:
        The device.

    Raises:
        ValueError: If there is no such device.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise ValueError(f"--device must be cpu, cuda or cuda:NUMBER; got {device}.") from None
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {device}: torch sees no GPU here. Use --device cpu.")
        number = int(os.environ.get("LOCAL_RANK", "0")) if chosen.index is None else chosen.index
        chosen = torch.device("cuda", number)
        torch.cuda.set_device(chosen)
    elif chosen.type != "cpu":
        raise ValueError(f"--device must be cpu, cuda or cuda:NUMBER; got {device}.")
    if several:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield chosen
        wait()
    finally:
        if several:
            gc.collect()  # what holds the group keeps its threads, and they can abort the interpreter's exit
            distributed.destroy_process_group()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, against other runs; wait while another holds it.

    A folder that was made for this is removed where an error leaves it empty.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    try:
        with FileLock(lock):
            yield
    except BaseException:  # an interrupt too; raised again below
        if made and set(folder.iterdir()) <= {lock}:
            with suppress(OSError):  # another run came in between
                lock.unlink(missing_ok=True)
                for one in made:
                    one.rmdir()
        raise


def taken(folder: Path) -> FileLock | None:
    """Hold a folder if no other run does. The lock falls when it is released, or when this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock
