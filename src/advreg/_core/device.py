"""Device of tensors: looking at values is free on a CPU; an accelerator first finishes all its work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_SEEN: ContextVar[bool] = ContextVar("seen", default=False)


def free(tensor: Tensor) -> bool:
    """Whether looking costs nothing."""
    return tensor.device.type == "cpu"


def check_values(tensor: Tensor, check: Callable[[], None]) -> None:
    """Make a check of a tensor's values, which raises what teaches the remedy; not again inside `seen`.

    Args:
        tensor: What is checked. Where looking is free, it always is.
        check: Looks, and raises.
    """
    if free(tensor) or not _SEEN.get():
        check()


@contextmanager
def seen() -> Iterator[None]:
    """Run the further steps of an attack, on targets whose values its first step has checked."""
    token = _SEEN.set(True)
    try:
        yield
    finally:
        _SEEN.reset(token)
