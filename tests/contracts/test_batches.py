"""An example's result is its own, whatever else is in the batch."""

import pytest
import torch
from networks import Sizes, TwoHeads, batch, notes, two_heads

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
    weighted,
)
from advreg.attacks import random_noise, score_attack, square_attack
from advreg.objectives import Within
from advreg.rules import Momentum

REG, SEG = on("contour", J_IND_reg), on("mask", J_IND_seg)


JOINT = weighted((0.01, REG), (1.0, SEG))


def rows(tree, rows):
    return {key: value[rows] for key, value in tree.items()}


@pytest.mark.parametrize("rule", [Steepest(0.2), Momentum(0.2), Adamax(0.2)], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("norm", [linf, l2, l1])
def test_batch_size_and_order_do_not_matter(model, norm, rule):
    model, (x, y) = model.double(), batch(7, dtype=torch.float64)
    options = {"objective": JOINT, "rule": rule, "steps": 5, "restarts": 2, "seed": 3}
    radius = torch.linspace(0.05, 0.5, 7, dtype=torch.float64)
    index = torch.tensor([5, 2, 900, 0, 1, 17, 3])
    whole = pgd_attack(model, x, y, threat=Threat(norm, radius), index=index, **options)
    for part in (torch.tensor([6, 0, 3]), torch.tensor([4]), torch.tensor([1, 2, 5])):
        some = pgd_attack(
            model, x[part], rows(y, part), threat=Threat(norm, radius[part]), index=index[part], **options
        )
        torch.testing.assert_close(some.x, whole.x[part], rtol=0, atol=1e-9)
        torch.testing.assert_close(some.value, whole.value[part])
        assert torch.equal(some.step, whole.step[part])


ATTACKS = {
    "square": (square_attack, {"queries": 30}),
    "score": (score_attack, {"steps": 5, "draws": 5}),
    "noise": (random_noise, {"draws": 10}),
}


each = pytest.mark.parametrize(("attack", "cost"), ATTACKS.values(), ids=ATTACKS)


@each
@pytest.mark.parametrize("norm", [linf, l2])
def test_examples_do_not_depend_on_the_batch(attack, cost, norm):
    model, (x, y) = two_heads(dtype=torch.float64), batch(5, dtype=torch.float64)
    index, radius = torch.tensor([5, 2, 900, 0, 1]), torch.linspace(0.05, 0.5, 5)
    options = {"objective": JOINT, "seed": 3, **cost}
    whole = attack(model, x, y, threat=Threat(norm, radius), index=index, **options)
    again = attack(model, x, y, threat=Threat(norm, radius), index=index, **options)
    assert torch.equal(whole.x, again.x)
    for part in (torch.tensor([4, 1]), torch.tensor([2])):
        some_y = {key: value[part] for key, value in y.items()}
        some = attack(model, x[part], some_y, threat=Threat(norm, radius[part]), index=index[part], **options)
        torch.testing.assert_close(some.x, whole.x[part], rtol=0, atol=1e-9)
        assert torch.equal(some.step, whole.step[part])
    other = attack(model, x, y, threat=Threat(norm, radius), index=index, **{**options, "seed": 4})
    assert not torch.equal(other.x, whole.x)


OPTIONS = {"objective": on("mask", J_IND_seg), "steps": 6}


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
    assert set(came) == sizes | {1}
    assert sum(came) == 7 * (6 + 1 + 1) + 2  # and one example alone, twice
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_restarts_of_few_examples_run_together_and_change_nothing(keep):
    together, came = attacked(2, restarts=5, keep=keep, micro_batch=6)
    assert came == [2, 1, 1] + [6] * 7 + [4] * 7  # the check of the clean inputs, three restarts, two
    alone, came = attacked(2, restarts=5, keep=keep, micro_batch=2)
    assert set(came[3:]) == {2}
    singles = [attacked(2, restarts=number, keep=keep, micro_batch=2)[0] for number in range(1, 6)]
    assert len({tuple(single.value.tolist()) for single in singles}) > 1  # restarts matter
    for field in ("x", "value", "gain"):
        torch.testing.assert_close(getattr(together, field), getattr(alone, field), rtol=1e-5, atol=1e-6)
    assert torch.equal(together.step, alone.step)
