"""Hooks of every kind are found without naming them; modules of torch are told from others."""

import pytest
import torch
from torch import nn

from advreg._core.modules import (
    BATCH_NORMS,
    DROPOUTS,
    compiled,
    hook_handles,
    hooks,
    of_torch,
    watched_globally,
)

KINDS = [
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
]


def hook(*_):
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_every_kind_are_found_and_told_apart(kind):
    module, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert hooks(module) == []
    first, second = getattr(module, kind)(hook), getattr(module, kind)(hook)
    assert hooks(module) == [hook, hook]
    assert hooks(other) == []
    both = hook_handles(module)
    second.remove()
    assert len(set(both) - set(hook_handles(module))) == 1
    getattr(module, kind)(hook)
    assert hook_handles(module) != both  # the same function, hooked anew
    first.remove()
    assert len(hooks(module)) == 1


def test_hooks_on_state_dicts_are_none_of_a_run():
    module = nn.Linear(2, 2)
    module.register_state_dict_post_hook(hook)
    assert hooks(module) == []


def test_hooks_on_all_modules_are_seen():
    assert not watched_globally()
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
    ):
        handle = register(hook)
        assert watched_globally()
        handle.remove()
    assert not watched_globally()


def test_a_compiled_module_is_told():
    module = nn.Linear(2, 2)
    assert not compiled(module)
    module.compile(backend="eager")
    assert compiled(module)


def test_modules_of_torch_are_told_from_others():
    class Mine(nn.Linear):
        pass

    assert of_torch(nn.Linear(1, 1))
    assert of_torch(nn.Sequential())
    assert not of_torch(Mine(1, 1))


@pytest.mark.parametrize(("kinds", "base"), [(BATCH_NORMS, "BatchNorm"), (DROPOUTS, "Dropout")])
def test_no_kind_is_forgotten(kinds, base):
    """Of all the modules of torch, those that are built like these."""
    built = {
        kind
        for name, kind in vars(nn).items()
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and base in name
        and not name.startswith("Lazy")
    }
    assert built == set(kinds)
    lazy = {kind for name, kind in vars(nn).items() if name.startswith("LazyBatchNorm")}
    assert all(issubclass(kind, BATCH_NORMS) or kind.cls_to_become in BATCH_NORMS for kind in lazy)
    assert torch.nn.InstanceNorm2d not in kinds
