"""Random states of torch, numpy and Python: the global generators, which data and networks draw from."""

from __future__ import annotations

import random
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

States: TypeAlias = tuple[list[Tensor], Any, Any]
"""States of the global generators: torch's, of the CPU and the CUDA devices in use, numpy's and Python's."""


def random_states() -> States:
    """The states now."""
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's own gap
    cuda = torch.cuda.get_rng_state_all() if started else []
    return [torch.get_rng_state(), *cuda], np.random.get_state(), random.getstate()  # noqa: NPY002 - the global one


def set_random_states(states: States) -> None:
    """Let them be the states."""
    (cpu, *cuda), numpys, pythons = states
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpys)  # noqa: NPY002 - the global one
    random.setstate(pythons)


def seed_all(seed: int) -> None:
    """Begin all of them at a seed."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global one
    random.seed(seed)


def differ(before: States, after: States) -> bool:
    """Whether anything was drawn between two states."""
    ours = any(not torch.equal(a, b) for a, b in zip(before[0], after[0], strict=False))
    numpys = any(not np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    return ours or numpys or before[2] != after[2]
