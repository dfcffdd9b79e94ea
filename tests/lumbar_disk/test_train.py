import math

import numpy as np
import pytest
import torch
from skimage.draw import polygon2mask

from lumbar_disk import phantom, train
from lumbar_disk.discs import crops


@pytest.fixture(scope="module")
def discs():
    return crops(phantom.patients(2, seed=1), size=64)


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
    found = train.loss(
        {"contour": torch.from_numpy(guess), "mask": torch.from_numpy(logits)},
        {"contour": torch.from_numpy(truth), "mask": torch.from_numpy(mask)},
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def identity(count):
    return torch.eye(2).expand(count, 2, 2), torch.zeros(count, 2)


def test_no_motion_changes_nothing(discs):
    images, contours = train.move(discs.images, discs.contours, *identity(len(discs)))
    torch.testing.assert_close(images, discs.images, rtol=0, atol=2e-5)
    torch.testing.assert_close(contours, discs.contours, rtol=0, atol=1e-5)


def test_a_quarter_turn_and_a_whole_shift_move_pixels_exactly(discs):
    linear, shift = identity(1)
    image, contour = discs.images[:1], discs.contours[:1]
    clockwise = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
    turned, points = train.move(image, contour, clockwise, shift)
    torch.testing.assert_close(turned, torch.rot90(image, -1, (2, 3)), rtol=0, atol=2e-5)
    torch.testing.assert_close(
        points, torch.stack([63 - contour[..., 1], contour[..., 0]], -1), rtol=0, atol=1e-4
    )
    shifted, points = train.move(image, contour, linear, torch.tensor([[3.0, -5.0]]))
    torch.testing.assert_close(shifted[..., :-5, 3:], image[..., 5:, :-3], rtol=0, atol=2e-5)
    torch.testing.assert_close(points, contour + torch.tensor([3.0, -5.0]), rtol=0, atol=1e-4)


def test_contours_stay_on_the_picture_under_any_motion(discs):
    generator = torch.Generator().manual_seed(0)
    linear = torch.eye(2) + 0.3 * (torch.rand(len(discs), 2, 2, generator=generator) - 0.5)
    shift = 8 * torch.rand(len(discs), 2, generator=generator) - 4
    masks, contours = train.move(discs.masks, discs.contours, linear, shift)
    for mask, contour in zip(masks, contours.double().numpy(), strict=True):
        inside = torch.from_numpy(polygon2mask((64, 64), contour[:, ::-1]))
        shown = mask[0] > 0.5
        assert 2 * (inside & shown).sum() / (inside.sum() + shown.sum()) > 0.95


def test_jitter_keeps_range_and_rasterises_its_own_contours(discs):
    before = torch.get_rng_state()
    images, target = train.jitter(discs.images, discs.contours, torch.Generator().manual_seed(3))
    again, _ = train.jitter(discs.images, discs.contours, torch.Generator().manual_seed(3))
    assert torch.equal(images, again)
    assert not torch.equal(images, discs.images)
    assert 0 <= images.min() <= images.max() <= 1
    for mask, contour in zip(target["mask"], target["contour"].double().numpy(), strict=True):
        np.testing.assert_array_equal(mask[0].numpy(), polygon2mask((64, 64), contour[:, ::-1]))
    assert torch.equal(before, torch.get_rng_state())


def test_training_learns_repeats_itself_and_leaves_the_global_state_alone(discs):
    before = torch.get_rng_state()
    net = train.fit(discs, width=4, steps=40, batch=5, lr=0.01, seed=7)
    assert torch.equal(before, torch.get_rng_state())
    assert not net.training
    torch.manual_seed(123)
    again = train.fit(discs, width=4, steps=40, batch=5, lr=0.01, seed=7)
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    fresh = train.fit(discs, width=4, steps=1, batch=5, lr=1e-9, seed=7)
    with torch.no_grad():
        start = train.loss(fresh(discs.images), discs.target()).mean()
        end = train.loss(net(discs.images), discs.target()).mean()
    assert end < 0.75 * start


def test_bad_numbers_are_refused(discs):
    with pytest.raises(ValueError, match=r"at least 1; got steps=0"):
        train.fit(discs, width=2, steps=0)
    with pytest.raises(FloatingPointError, match=r"training loss is .* at step 1 of 5; lower lr"):
        train.fit(discs, width=2, steps=5, batch=2, lr=math.inf)
