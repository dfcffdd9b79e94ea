"""Masks of patches, against slices."""

import pytest
import torch

from advreg import J_IND_reg, Threat, linf, pgd_attack
from advreg.threats import patch_mask


@pytest.mark.parametrize(
    ("shape", "size", "places"),
    [
        ((9,), (3,), [[0], [6], [2]]),
        ((7, 9), (2, 4), [[0, 0], [5, 5], [3, 1]]),
        ((4, 5, 6), (1, 5, 2), [[3, 0, 4]] * 2),
    ],
)
def test_a_patch_is_the_slice_at_its_place(shape, size, places):
    each = patch_mask(shape, size, torch.tensor(places))
    assert each.shape == (len(places), 1, *shape)
    for k, place in enumerate(places):
        expected = torch.zeros(shape, dtype=torch.bool)
        expected[tuple(slice(a, a + n) for a, n in zip(place, size, strict=True))] = True
        assert torch.equal(each[k, 0], expected)
        alone = patch_mask(shape, size, place)
        assert alone.shape == (1, *shape)
        assert torch.equal(alone[0], expected)


def test_an_attack_fills_each_images_own_patch_and_nothing_else():
    x = torch.full((3, 2, 6, 6), 0.5)
    at = torch.tensor([[0, 0], [2, 3], [4, 4]])
    mask = patch_mask((6, 6), (2, 2), at)
    found = pgd_attack(
        lambda x: x.sum((1, 2, 3))[:, None],
        x,
        torch.zeros(3, 1),
        objective=J_IND_reg,
        threat=Threat(linf, 1.0, mask=mask),
    )
    torch.testing.assert_close(found.x, torch.where(mask, 1.0, x))
    assert torch.equal(found.x[~mask.expand_as(x)], x[~mask.expand_as(x)])


def test_refusals():
    for error, message, call in (
        (
            ValueError,
            r"got one of \(3, 3\) at \[\[4, 0\]\] in \(6, 6\): its first row can be 0 to 3",
            lambda: patch_mask((6, 6), (3, 3), (4, 0)),
        ),
        (ValueError, "must hold a pixel", lambda: patch_mask((6, 6), (0, 3), (1, 0))),
        (ValueError, "without batch and channels", lambda: patch_mask((6, 6), (3, 3, 3), (1, 0))),
        (
            ValueError,
            r"at must be \(2,\) for all images or \(B, 2\)",
            lambda: patch_mask((6, 6), (3, 3), (1, 0, 0)),
        ),
        (TypeError, "at must be whole numbers", lambda: patch_mask((6, 6), (3, 3), torch.rand(2, 2))),
        (TypeError, "size must be whole numbers", lambda: patch_mask((6, 6), 3, (1, 1))),
    ):
        with pytest.raises(error, match=message):
            call()
