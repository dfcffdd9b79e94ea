"""What an attack asks of an accelerator on its way: nothing that would make it wait.

Meta tensors have shapes and no values, so that whoever asks for a value gets an error; what is copied between
devices is watched. So the loop is checked here without an accelerator, and below with one, by torch itself.
"""

import copy
from itertools import islice

import pytest
import torch
from networks import batch, two_heads
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from advreg import (
    Adamax,
    J_IND_reg,
    J_IND_seg,
    Momentum,
    Steepest,
    Threat,
    dice,
    l1,
    l2,
    linf,
    negate,
    on,
    soft_dice,
)
from advreg._core.device import once
from advreg.attacks import ascend
from advreg.attacks._run import Plan, climbed
from advreg.objectives import normalised
from advreg.rules import Adaptive, Decayed, Shrinking

RULES = [Steepest(), Momentum(), Adamax(0.2), Adaptive(), Decayed(Steepest())]
CONTOUR = on("contour", J_IND_reg)
BOTH = normalised(
    (1.0, CONTOUR), (0.5, on("mask", lambda output, target: (output - target).abs().flatten(1).mean(1)))
)


class Watch(TorchDispatchMode):
    """Counts what runs on a device, and refuses copies from and to it."""

    def __init__(self, device):
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {
            leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)
        }
        self.count += self.device in devices
        copies = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        assert not (func.overloadpacket in copies and len(devices) > 1), f"{func} between {devices}"
        return out


def on_meta(count=5):
    x, y = batch(count)
    return (
        two_heads().to("meta").requires_grad_(False),
        x.to("meta"),
        {key: t.to("meta") for key, t in y.items()},
    )


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("norm", [linf, l2, l1], ids=repr)
@pytest.mark.parametrize("schedule", [None, Shrinking()], ids=["", "shrinking"])
def test_no_step_looks_at_a_value_or_copies_between_devices(norm, rule, schedule):
    model, x, y = on_meta()
    for objective, judge in ((CONTOUR, None), (BOTH, negate(CONTOUR))):
        plan = Plan(objective, judge, rule, 4, 1, False, True, None, schedule)
        with Watch("meta") as watch:
            track, _ = climbed(model, plan, x, y, Threat(norm, 0.1), None)
        assert track.x.is_meta
        assert watch.count > 100


@pytest.mark.parametrize("norm", [linf, l2, l1], ids=repr)
def test_what_a_threat_holds_is_moved_before_the_first_step(norm):
    model, x, y = on_meta()
    sides = torch.zeros(8, 8), torch.ones(8, 8)
    threat = Threat(norm, torch.linspace(0.1, 0.3, 5), bounds=sides, mask=torch.ones(8, 8, dtype=torch.bool))
    climb = ascend(
        lambda point: CONTOUR(model(point), y),
        x,
        threat=threat,
        rule=Adamax(0.2),
        steps=5,
        schedule=Shrinking(),
    )
    next(climb)
    with Watch("meta") as watch:
        assert len(list(islice(climb, 5))) == 5
    assert watch.count > 100


def test_a_check_is_made_once_where_looking_costs(monkeypatch):
    target, made = torch.ones(3), []
    for _ in range(2):
        once(target, "a", lambda: made.append("free"))
    monkeypatch.setattr("advreg._core.device.free", lambda _: False)
    for _ in range(2):
        once(target, "a", lambda: made.append("a"))
        once(target, "b", lambda: made.append("b"))
    assert made == ["free", "free", "a", "b"]
    target.mul_(2)
    once(target, "a", lambda: made.append("written"))
    once(target.clone(), "a", lambda: made.append("another"))
    with torch.inference_mode():
        untracked = torch.ones(3)
    for _ in range(2):
        once(untracked, "a", lambda: made.append("untracked"))
    assert made[4:] == ["written", "another", "untracked", "untracked"]


def test_a_target_that_failed_fails_again(monkeypatch):
    monkeypatch.setattr("advreg._core.device.free", lambda _: False)
    output, target = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 3.0)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got \[3, 3\]"):
            soft_dice(output, target)
    target.fill_(1.0)
    soft_dice(output, target)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("norm", [linf, l2, l1], ids=repr)
def test_on_a_gpu_torch_sees_no_synchronisation(norm):
    x, y = batch(5)
    model, x, y = (
        copy.deepcopy(two_heads()).cuda().requires_grad_(False),
        x.cuda(),
        {k: v.cuda() for k, v in y.items()},
    )
    judge = negate(on("mask", dice))
    plan = Plan(on("mask", J_IND_seg), judge, Adamax(0.2), 4, 1, False, True, None, Shrinking())
    expected, _ = climbed(model, plan, x, y, Threat(norm, 0.1), None)  # which looks at the target, once
    torch.cuda.set_sync_debug_mode("error")
    try:
        track, _ = climbed(model, plan, x, y, Threat(norm, 0.1), None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(track.x, expected.x)
