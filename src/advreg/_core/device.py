"""Looking at the values of tensors: free on a CPU; an accelerator first finishes all that is under way."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_PASSED: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def free(tensor: Tensor) -> bool:
    """Whether looking costs nothing."""
    return tensor.device.type == "cpu"


def once(tensor: Tensor, question: Hashable, check: Callable[[], None]) -> None:
    """Make a check of a tensor's values, which raises; where looking costs, only until the same has passed.

    Args:
        tensor: What is checked. A write in place makes it another.
        question: What the check depends on besides.
        check: Raises what teaches the remedy.
    """
    if free(tensor) or tensor.is_inference():  # of an inference tensor nobody counts the writes
        check()
        return
    answer = (tensor._version, question)  # noqa: SLF001 - torch's own counter of writes in place
    passed = _PASSED.get(tensor, frozenset())  # type: ignore[no-untyped-call]  # torch's own gap
    if answer not in passed:
        check()
        _PASSED[tensor] = passed | {answer}
