"""What an attack asks of an accelerator on its way: nothing that would make it wait.

Meta tensors have shapes and no values, so that whoever asks for a value gets an error; what is copied between
devices is watched. So the loop is checked here without an accelerator, and below with one, by torch itself.
"""

import copy

import pytest
import torch
from networks import batch, two_heads
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from advreg import (
    Adamax,
    Execution,
    J_IND_reg,
    J_IND_seg,
    Steepest,
    Threat,
    dice,
    l1,
    l2,
    linf,
    negate,
    on,
    pgd_attack,
    soft_dice,
)
from advreg._core.device import check_values, seen
from advreg.attacks import ascend, value_and_gradient
from advreg.attacks._run import Plan, climbed
from advreg.execution import Batch
from advreg.objectives import normalised
from advreg.rules import Adaptive, Decayed, Momentum, Shrinking

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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", [linf, l2, l1])
@pytest.mark.parametrize(
    ("objective", "judge", "schedule"),
    [(CONTOUR, None, None), (BOTH, negate(CONTOUR), Shrinking())],
    ids=["plain", "normalised, judged, shrinking"],
)
def test_no_step_looks_at_a_value_or_copies_between_devices(norm, rule, objective, judge, schedule):
    model, x, y = on_meta()
    plan = Plan(objective, rule, 2, judge, schedule=schedule, best=True)
    with Watch("meta") as watch, seen():  # the first step alone looks at the target
        track = climbed(model, plan, Batch(x, y, Threat(norm, 0.1)).settled())
    assert track.x.is_meta
    assert watch.count > 100


@pytest.mark.parametrize("norm", [linf, l2, l1])
def test_what_a_threat_holds_is_moved_before_the_first_step(norm):
    model, x, y = on_meta()
    sides = torch.zeros(8, 8), torch.ones(8, 8)
    threat = Threat(norm, torch.linspace(0.1, 0.3, 5), bounds=sides, mask=torch.ones(8, 8, dtype=torch.bool))
    climb = ascend(
        value_and_gradient(lambda point: CONTOUR(model(point), y)),
        x,
        threat=threat,
        rule=Adamax(0.2),
        steps=5,
        schedule=Shrinking(),
    )
    with seen():
        next(climb)
    with Watch("meta") as watch, seen():
        assert len(list(climb)) == 5
    assert watch.count > 100


def test_a_check_of_values_is_left_out_after_the_first_step_where_looking_costs(monkeypatch):
    target, made = torch.ones(3), []
    with seen():
        check_values(target, lambda: made.append("free"))
    monkeypatch.setattr("advreg._core.device.free", lambda _: False)
    check_values(target, lambda: made.append("first"))
    with seen():
        check_values(target, lambda: made.append("further"))
        with pytest.raises(ZeroDivisionError), seen():
            _ = 1 / 0
        check_values(target, lambda: made.append("still further"))
    check_values(target, lambda: made.append("another attack"))
    assert made == ["free", "first", "another attack"]


@pytest.mark.parametrize("looking", [True, False])
@pytest.mark.parametrize("restarts", [1, 3])
def test_an_attack_looks_at_its_targets_values_at_its_first_step_only(monkeypatch, looking, restarts):
    monkeypatch.setattr("advreg._core.device.free", lambda _: looking)
    made = []
    monkeypatch.setattr("advreg.metrics._masks.check_values", counting(made))
    model, (x, y) = two_heads(), batch(3)
    options = {"execution": Execution(micro_batch=3, prune=False), "steps": 4, "restarts": restarts}
    pgd_attack(model, x, y, objective=on("mask", J_IND_seg), threat=Threat(linf, 0.1), **options)
    cuts = 3 if restarts == 1 else 5  # one or more of each example, as many as a batch may come to hold
    clean = 1 + cuts + 2  # the batch, what is cut out of it, and the last alone, twice
    assert len(made) == clean + (5 * restarts if looking else restarts)


def counting(made):
    def check(tensor, raises):
        def look():
            made.append(len(tensor))
            raises()

        check_values(tensor, look)

    return check


def test_values_out_of_range_are_found_where_looking_costs_too(monkeypatch):
    monkeypatch.setattr("advreg._core.device.free", lambda _: False)
    output, target = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 3.0)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got \[3, 3\]"):
            soft_dice(output, target)
    target.fill_(1.0)
    soft_dice(output, target)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("norm", [linf, l2, l1])
def test_on_a_gpu_torch_sees_no_synchronisation(norm):
    x, y = batch(5)
    model, x, y = (
        copy.deepcopy(two_heads()).cuda().requires_grad_(False),
        x.cuda(),
        {k: v.cuda() for k, v in y.items()},
    )
    judge = negate(on("mask", dice))
    plan = Plan(on("mask", J_IND_seg), Adamax(0.2), 4, judge, schedule=Shrinking(), best=True)
    batch_ = Batch(x, y, Threat(norm, 0.1)).settled()
    expected = climbed(model, plan, batch_)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with seen():  # the first step alone looks at the target
            track = climbed(model, plan, batch_)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(track.x, expected.x)
