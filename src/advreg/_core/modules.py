"""Modules of torch: kinds that have no public name of their own, and what hangs on a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


def hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """The hooks on a module itself, of every kind that torch has."""
    return [hook for kind in _hook_tables(vars(module)) for hook in kind.values()]


def watched_globally() -> bool:
    """Whether hooks are registered that run at every module's call."""
    return bool(_hook_tables(vars(nn.modules.module)))


def hook_handles(module: nn.Module) -> list[int]:
    """The numbers of the hooks on a module: two modules' are the same only where their hooks are."""
    return [handle for kind in _hook_tables(vars(module)) for handle in kind]


def compiled(module: nn.Module) -> bool:
    """Whether `module.compile()` was called: its call no longer runs its forward."""
    return any("compiled" in name and value is not None for name, value in vars(module).items())


def of_torch(module: nn.Module) -> bool:
    """Whether a module's class is torch's own: a layer, a container, or a wrapper around another module."""
    return type(module).__module__.startswith("torch.")


def _hook_tables(attributes: Mapping[str, Any]) -> list[Mapping[int, Callable[..., Any]]]:
    """The tables among attributes of what runs before and after a call: torch names them all alike."""
    return [
        value
        for name, value in attributes.items()
        if name.endswith(("ward_hooks", "ward_pre_hooks")) and isinstance(value, Mapping) and value
    ]
