"""The loss, and the one training loop: it learns, repeats itself, and goes on from a kill bit for bit."""

import math

import numpy as np
import pytest
import torch

from advreg.training import AdversarialLoss
from lumbar_disk.data import crops, phantoms
from lumbar_disk.network import Checkpoint, fit, loss, untrained

CLEAN = AdversarialLoss(loss, {}, clean=1.0)


@pytest.fixture(scope="module")
def discs():
    return crops(phantoms(2, seed=1), size=64)


def test_the_loss_is_the_papers():
    rng = np.random.default_rng(0)
    truth, guess = rng.normal(64, 20, (2, 3, 176, 2))
    mask, logits = rng.integers(0, 2, (3, 1, 8, 8)).astype(float), rng.normal(0, 2, (3, 1, 8, 8))
    expected = []
    for i in range(3):
        p, m = 1 / (1 + np.exp(-logits[i])), mask[i]
        regression = np.abs(guess[i] - truth[i]).sum() / (2 * 176)
        overlap = 2 * (p * m).sum() / (p.sum() + m.sum())
        entropy = -(m * np.log(p) + (1 - m) * np.log(1 - p)).mean()
        expected.append(regression + 0.5 * (1 - overlap) + 0.5 * entropy)
    found = loss(
        {"contour": torch.from_numpy(guess), "mask": torch.from_numpy(logits)},
        {"contour": torch.from_numpy(truth), "mask": torch.from_numpy(mask)},
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def batches(discs, size=5):
    """A function of the step, as a stream of virtual discs is."""

    def batch(step):
        places = torch.arange(step * size, (step + 1) * size)
        some = discs.take((places % len(discs)).tolist())
        return some.images, some.target(), places

    return batch


def fitted(discs, steps=30, **options):
    net = untrained(width=4, size=64, seed=7)
    fit(net, batches(discs), lambda _: CLEAN, steps=steps, lr=0.01, **options)
    return net


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_learns_repeats_itself_and_leaves_the_global_state_alone(discs):
    before = torch.get_rng_state()
    net = fitted(discs)
    assert torch.equal(before, torch.get_rng_state())
    assert not net.training
    torch.manual_seed(123)
    assert equal(net.state_dict(), fitted(discs).state_dict())
    with torch.no_grad():
        fresh = untrained(width=4, size=64, seed=7)
        start = loss(fresh(discs.images), discs.target()).mean()
        end = loss(net(discs.images), discs.target()).mean()
    assert end < 0.75 * start


def test_the_rate_falls_over_the_last_share_of_the_steps(discs, monkeypatch):
    rates = []
    plain = torch.optim.Adamax.step
    monkeypatch.setattr(
        torch.optim.Adamax,
        "step",
        lambda self: (rates.append(self.param_groups[0]["lr"]), plain(self))[1],
    )
    fitted(discs, steps=6, decay=0.5)
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.01 * 2 / 3, 0.01 / 3])


class KilledError(Exception):
    pass


def test_the_weights_that_are_kept_may_be_an_average_over_the_steps(discs):
    """The first step's weights, and then a tenth of each step's beside nine tenths of what was there."""
    after = [fitted(discs, steps=steps, decay=0.0).state_dict() for steps in (1, 2, 3)]
    found = fitted(discs, steps=3, average=0.9).state_dict()
    for name, first, second, third in ((name, *(one[name] for one in after)) for name in found):
        expected = 0.9 * (0.9 * first + 0.1 * second) + 0.1 * third
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)
        assert not torch.equal(found[name], third)


@pytest.mark.parametrize("average", [0.0, 0.8])
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["each step", "only at the end"])
def test_a_training_that_was_killed_goes_on_bit_for_bit(discs, tmp_path, every, average):
    point = Checkpoint(tmp_path / "checkpoint.pt", {"width": 4}, every)
    whole = fitted(discs, steps=8, average=average)
    taken = []

    def dying(step):
        taken.append(step)
        if taken == [0, 1, 2]:
            raise KilledError
        return CLEAN

    for _ in range(2):
        net = untrained(width=4, size=64, seed=7)
        try:
            fit(net, batches(discs), dying, steps=8, lr=0.01, average=average, checkpoint=point)
        except KilledError:
            continue
    assert taken[3:] == (list(range(2, 8)) if every == 0 else list(range(8)))
    assert equal(net.state_dict(), whole.state_dict())
    done = untrained(width=4, size=64, seed=1)
    fit(done, batches(discs), dying, steps=8, lr=0.01, average=average, checkpoint=point)
    assert taken[-1] == 7  # nothing was left to do
    assert equal(done.state_dict(), whole.state_dict())


def test_a_checkpoint_of_another_training_is_refused_by_name(discs, tmp_path):
    path = tmp_path / "checkpoint.pt"
    fitted(discs, steps=1, checkpoint=Checkpoint(path, {"width": 4, "radii": (0.0, 0.1)}))
    with pytest.raises(ValueError, match=r"another training: width: then 4, now 8\. Go on"):
        fitted(discs, steps=1, checkpoint=Checkpoint(path, {"width": 8, "radii": (0.0, 0.1)}))


def test_a_damaged_checkpoint_is_an_error_that_names_it_and_the_remedy(discs, tmp_path):
    path = tmp_path / "checkpoint.pt"
    fitted(discs, steps=1, checkpoint=Checkpoint(path, {"width": 4}))
    whole = path.read_bytes()
    for data in (b"", whole[:-100], b"text"):
        path.write_bytes(data)
        with pytest.raises(
            ValueError, match=r"checkpoint.pt is damaged, .*Delete it, and run the same command"
        ):
            fitted(discs, steps=1, checkpoint=Checkpoint(path, {"width": 4}))


def test_bad_numbers_are_refused(discs):
    with pytest.raises(ValueError, match=r"at least 1; got 0"):
        fitted(discs, steps=0)
    net = untrained(width=4, size=64, seed=7)
    with pytest.raises(FloatingPointError, match=r"training loss is .* at step 1 of 5; lower lr"):
        fit(net, batches(discs), lambda _: CLEAN, steps=5, lr=math.inf)
