"""Batches that do not fit into memory, and submodules that are computed again."""

import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Sizes, TwoHeads, batch, notes, two_heads
from networks.deep import Block, Deep
from torch import nn

from advreg import (
    Execution,
    J_IND_reg,
    J_IND_seg,
    Threat,
    dice,
    linf,
    negate,
    on,
    pgd_attack,
)
from advreg.execution import Batch, Parts, room
from advreg.execution._memory import checkpointed
from advreg.objectives import Within

SHORT = {"objective": on("mask", J_IND_seg), "threat": Threat(linf, 0.1), "steps": 4}


def saved(model, x):
    """Bytes of what a forward pass keeps for the backward pass, the parameters apart."""
    held, own = {}, {parameter.data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x.requires_grad_())["mask"].sum()
    return sum(held.values())


@pytest.mark.parametrize("kinds", [(Block,), (Block, nn.Sequential), (nn.Sequential,)])
@pytest.mark.parametrize("prune", [True, False])
def test_checkpoints_change_nothing_but_memory(kinds, prune, recwarn):
    model, (x, y) = Deep().eval(), batch(3)
    calls = []
    model.blocks[0].inside[0][0].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    attacks = [
        partial(pgd_attack, model, x, y, execution=Execution(prune=prune, checkpoint=kind), **SHORT)
        for kind in ((), kinds)
    ]
    for attack in attacks:
        attack()  # which cuts the model
    calls.clear()
    expected = attacks[0]()
    once = len(calls)
    calls.clear()
    found = attacks[1]()
    assert torch.equal(found.x, expected.x)
    assert torch.equal(found.value, expected.value)
    assert len(calls) == once + SHORT["steps"]  # each gradient computed the block once more
    assert all("forward" not in vars(module) for module in model.modules())
    assert not recwarn.list


@pytest.mark.parametrize("nested", [False, True])
def test_checkpoints_keep_less(nested):
    model, (x, _) = Deep(nested=nested).eval(), batch(3)
    whole = saved(model, x)
    with checkpointed(model, (Block, nn.Sequential)):
        assert saved(model, x) < 0.4 * whole
    assert saved(model, x) == whole


def test_checkpoints_are_taken_back_when_something_raises():
    model, own = Deep(), lambda x: x
    model.blocks[1].forward = own
    with pytest.raises(TypeError, match="unexpected keyword"), checkpointed(model, (Block,)):
        model.blocks[1](torch.ones(2), wrong=model.blocks[1].forward is own)
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == ["blocks.1"]
    assert model.blocks[1].forward is own


def test_checkpoints_need_modules():
    x, y = batch(2)
    with pytest.raises(
        ValueError, match=r"submodules of LSTM, GRU to checkpoint; got a TwoHeads with Conv2d, Gr"
    ):
        pgd_attack(two_heads(), x, y, execution=Execution(checkpoint=(nn.LSTM, nn.GRU)), **SHORT)
    with pytest.raises(ValueError, match="got a function with no submodules"):
        pgd_attack(lambda x: {"mask": x}, x, y, execution=Execution(checkpoint=(nn.GRU,)), **SHORT)


OPTIONS = {"objective": on("mask", J_IND_seg), "steps": 6}


WHOLE = Execution(prune=False)


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Small(TwoHeads):
    """Holds so many examples at once and no more."""

    def __init__(self, room, error=FULL):
        super().__init__()
        self.load_state_dict(two_heads().state_dict())
        self.room, self.error = room, error

    @property
    def sizes(self):
        return notes(self)

    def forward(self, x):
        notes(self).append(len(x))
        if len(x) > self.room:
            raise self.error
        return super().forward(x)


def test_the_processors_own_message_counts_too():
    x, y = batch(4)
    error = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: ..."
    )
    with pytest.warns(UserWarning, match="with 2 examples at once"):
        pgd_attack(Small(2, error).eval(), x, y, threat=Threat(linf, 0.1), execution=WHOLE, **OPTIONS)


def test_one_example_that_does_not_fit_and_other_errors_are_raised():
    x, y = batch(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
            pgd_attack(Small(0).eval(), x, y, threat=Threat(linf, 0.1), execution=WHOLE, **OPTIONS)
    model = Small(2, RuntimeError("something else")).eval()
    with pytest.raises(RuntimeError, match="something else"):
        pgd_attack(model, x, y, objective=on("contour", J_IND_reg), threat=Threat(linf, 0.1), execution=WHOLE)
    assert model.sizes == [4]


def attacked(count, micro_batch=None, **options):
    """The result, and how many examples came at once."""
    (x, y), model = batch(count), Sizes().eval()
    execution = Execution(micro_batch=micro_batch, prune=False)
    found = pgd_attack(model, x, y, threat=Threat(linf, 0.1), execution=execution, **(OPTIONS | options))
    return found, model.sizes


def test_with_a_stop_rule_restarts_wait_for_one_another():
    judge = negate(on("mask", dice))
    worst = attacked(4, restarts=3, judge=judge)[0].value
    stop = Within(judge, low=worst.median().item())
    found, came = attacked(4, restarts=3, judge=judge, stop=stop, micro_batch=100)
    assert 0 < found.finished.sum() < 4
    assert max(came) == 4
    assert sum(came) < 4 * (3 * 7 + 1)


def test_by_default_400_000_numbers_run_at_once():
    x = torch.rand(5, 1, 300, 400, generator=torch.Generator().manual_seed(0))
    sizes = []

    def model(x):
        sizes.append(len(x))
        return x.mean((2, 3))

    pgd_attack(
        model,
        x,
        torch.zeros(5, 1),
        objective=J_IND_reg,
        threat=Threat(linf, 0.1),
        steps=1,
        random_start=False,
    )
    assert sizes == [3, 2, 1, 1, 3, 3, 2, 2]  # 3 * 2**17 // 120000 = 3 at most


def test_a_micro_batch_holds_at_least_one_example():
    with pytest.raises(ValueError, match="micro_batch must be 1 or more, or None; got 0"):
        attacked(2, micro_batch=0)


# Batches and parts


def examples(count):
    g = torch.Generator().manual_seed(0)
    x, start = torch.rand(2, count, 3, generator=g)
    y = {"mask": torch.rand(count, 2, generator=g), "names": ("L4/L5",), "scale": torch.tensor(2.0)}
    bounds = torch.zeros_like(x), torch.ones_like(x)
    return Batch(x, y, Threat(linf, torch.linspace(0.1, 0.3, count), bounds=bounds), start)


def assert_same(one, other):
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.start, other.start)
    assert torch.equal(one.y["mask"], other.y["mask"])
    assert torch.equal(one.threat.radius, other.threat.radius)
    assert all(torch.equal(a, b) for a, b in zip(one.threat.bounds, other.threat.bounds, strict=True))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_examples_are_taken_with_all_that_is_theirs(places):
    whole = examples(5)
    some = whole.take(torch.tensor(places))
    for number, place in enumerate(places):
        assert_same(some.take(slice(number, number + 1)), whole.take(slice(place, place + 1)))
    assert some.y["names"] == ("L4/L5",)
    assert some.y["scale"].ndim == 0


@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_flags_and_places_take_the_same(flags):
    whole, flags = examples(5), torch.tensor(flags)
    assert_same(whole.take(flags), whole.take(flags.nonzero().flatten()))


def test_a_batch_is_repeated_one_after_another():
    whole = examples(3)
    assert whole.repeat(1) is whole
    thrice = whole.repeat(3)
    for number in range(3):
        assert_same(thrice.take(slice(3 * number, 3 * number + 3)), whole)
    assert Batch(whole.x, None, Threat(linf, 0.1)).repeat(2).start is None


@given(st.integers(1, 12), st.integers(1, 14))
def test_parts_cover_a_batch_in_order_and_are_as_equal_as_can_be(count, size):
    whole, parts = examples(count), Parts(size)
    found = list(parts.run(lambda part: part, whole))
    assert torch.equal(torch.cat([part.x for part in found]), whole.x)
    sizes = [len(part.x) for part in found]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-count // size)
    assert parts.size == size


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(1, 14), st.integers(1, 12))
@pytest.mark.filterwarnings("ignore:out of memory")
def test_where_memory_runs_out_nothing_is_lost_and_nothing_done_twice(count, size, room):
    tried, collected = [], []

    def function(part):
        tried.append(len(part.x))
        if len(part.x) > room:
            raise torch.OutOfMemoryError("full")
        return part.x

    whole, parts = examples(count), Parts(size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advreg.execution._memory.gc.collect", lambda: collected.append(1))  # it is slow
        assert torch.equal(torch.cat(list(parts.run(function, whole))), whole.x)
    assert len(collected) == len([number for number in tried if number > room])
    assert sum(number for number in tried if number <= room) == count
    assert parts.size <= max(size, 1)
    assert len([number for number in tried if number > room]) <= 4  # each failure halves


@pytest.mark.parametrize(
    ("shape", "most"), [((1, 128, 128), 24), ((3, 128, 128), 8), ((9999999,), 1), ((), 393216)]
)
def test_room_is_a_number_of_numbers(shape, most):
    assert room(torch.empty(2, *shape, device="cpu")) == most
    assert room(torch.empty(2, *shape, device="meta")) == max(1, 2**22 // max(1, torch.Size(shape).numel()))
