"""Batches that do not fit into memory."""

import warnings

import pytest
import torch
from networks import TwoHeads, batch, two_heads

from advreg import Execution, J_IND_reg, J_IND_seg, Threat, dice, linf, negate, on, pgd_attack
from advreg.objectives import Within

OPTIONS = {"objective": on("mask", J_IND_seg), "steps": 6}
WHOLE = Execution(prune=False)


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Small(TwoHeads):
    """Holds so many examples at once and no more."""

    def __init__(self, room, error=FULL):
        super().__init__()
        self.load_state_dict(two_heads().state_dict())
        self.room, self.error, self.sizes = room, error, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize("room", [6, 4, 2, 1])
def test_parts_give_what_the_whole_gives_and_say_so(room):
    x, y = batch(7)
    start = (x + 0.05 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    threat = Threat(linf, torch.linspace(0.02, 0.14, 7))
    index = torch.arange(7) + 100
    judge = negate(on("mask", dice))
    options = OPTIONS | {"threat": threat, "start": start, "index": index, "restarts": 2, "judge": judge}
    whole = pgd_attack(two_heads(), x, y, **options)
    options["stop"] = Within(judge, low=whole.value.median().item())
    whole = pgd_attack(two_heads(), x, y, **options)
    assert 0 < whole.finished.sum() < 7
    model = Small(room).eval()
    with pytest.warns(UserWarning, match="out of memory: the attack goes on with") as told:
        parts = pgd_attack(model, x, y, execution=Execution(prune=False), **options)
    for field in ("value", "gain", "x"):
        torch.testing.assert_close(getattr(parts, field), getattr(whole, field), rtol=1e-5, atol=1e-6)
    assert torch.equal(parts.finished, whole.finished)
    assert torch.equal(parts.step, whole.step)
    halvings = {6: [4], 4: [4], 2: [4, 2], 1: [4, 2, 1]}[room]
    assert [f"with {size} examples" in str(w.message) for w, size in zip(told, halvings, strict=True)]
    assert max(size for size in model.sizes if size <= room) == min(halvings[-1], room)


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


class Sizes(TwoHeads):
    """Remembers how many examples came at once."""

    def __init__(self):
        super().__init__()
        self.load_state_dict(two_heads().state_dict())
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return super().forward(x)


def attacked(count, micro_batch=None, **options):
    """The result, and how many examples came at once."""
    (x, y), model = batch(count), Sizes().eval()
    execution = Execution(micro_batch=micro_batch, prune=False)
    found = pgd_attack(model, x, y, threat=Threat(linf, 0.1), execution=execution, **(OPTIONS | options))
    return found, model.sizes


@pytest.mark.parametrize(("micro_batch", "sizes"), [(3, {3, 2}), (4, {4, 3}), (1, {1}), (7, {7}), (100, {7})])
def test_a_batch_runs_in_parts_as_equal_as_can_be(micro_batch, sizes):
    whole, _ = attacked(7)
    parts, came = attacked(7, micro_batch=micro_batch)
    assert set(came) == sizes
    assert sum(came) == 7 * (6 + 1 + 1)
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_restarts_of_few_examples_run_together_and_change_nothing(keep):
    together, came = attacked(2, restarts=5, keep=keep, micro_batch=6)
    assert came == [6] * 7 + [4] * 7 + [2]  # three restarts, two, and the clean inputs
    alone, came = attacked(2, restarts=5, keep=keep, micro_batch=2)
    assert set(came) == {2}
    singles = [attacked(2, restarts=number, keep=keep, micro_batch=2)[0] for number in range(1, 6)]
    assert len({tuple(single.value.tolist()) for single in singles}) > 1  # restarts matter
    for field in ("x", "value", "gain"):
        torch.testing.assert_close(getattr(together, field), getattr(alone, field), rtol=1e-5, atol=1e-6)
    assert torch.equal(together.step, alone.step)


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
    assert sizes == [3, 3, 2, 2]  # 3 * 2**17 // 120000 = 3 at most


def test_a_micro_batch_holds_at_least_one_example():
    with pytest.raises(ValueError, match="micro_batch must be 1 or more, or None; got 0"):
        attacked(2, micro_batch=0)
