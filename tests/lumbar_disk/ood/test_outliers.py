"""Outliers that a critic is trained on."""

import pytest
import torch

from lumbar_disk.data import crops, phantoms
from lumbar_disk.ood import outliers, varied


@pytest.fixture(scope="module")
def discs():
    return crops(phantoms(2, seed=4), size=64)


def test_each_kind_is_what_its_name_says(discs):
    x, found = discs.images, outliers(discs, seed=0)
    for name, images in found.items():
        assert images.shape == x.shape, name
        assert images.min() >= 0, name
        assert images.max() <= 1, name
    assert torch.equal(found["turned"][0], x[0].flip(1).transpose(1, 2))
    assert torch.equal(found["turned"][1], x[1].transpose(1, 2).flip(1))
    assert torch.equal(found["upside down"], x.flip(2, 3))
    assert torch.equal(found["inverted"], 1 - x)
    for image, tiles in zip(x[:, 0], found["shuffled"][:, 0], strict=True):
        before, after = (
            {tuple(part.flatten().tolist()) for row in one.split(16) for part in row.split(16, 1)}
            for one in (image, tiles)
        )
        assert before == after
        assert not torch.equal(image, tiles)
    inside, far = discs.masks > 0, torch.nn.functional.max_pool2d(discs.masks, 15, 1, 7) == 0
    assert torch.equal(found["painted"][far], x[far])
    assert not torch.isclose(found["painted"][inside], x[inside]).all()
    assert torch.equal(found["covered"][~inside], x[~inside])
    assert torch.equal(found["covered"][0][inside[0]], x[0].roll(-16, 1)[inside[0]])
    assert (found["constant"].amax((2, 3)) == found["constant"].amin((2, 3))).all()
    spread = found["smooth"].diff(dim=3).abs().mean((1, 2, 3))
    assert (spread[:5].diff() > 0).all()  # finer and finer grids
    assert 0.02 < (found["warped"] - x).abs().mean() < (x.flip(0) - x).abs().mean() * 2


def test_an_image_depends_on_the_seed_and_its_place_alone(discs):
    whole, part, other = outliers(discs, 3), outliers(discs.take([0, 1, 2]), 3), outliers(discs, 4)
    for name, images in whole.items():
        torch.testing.assert_close(images[:3], part[name], rtol=0, atol=1e-6)
    for name in ("smooth", "constant", "shuffled", "warped"):
        assert not torch.equal(whole[name], other[name])


def test_variations_stay_near_their_disc(discs):
    x = discs.images
    found = varied(x, 3, seed=1)
    assert found.shape == (30, 1, 64, 64)
    assert found.min() >= 0
    assert found.max() <= 1
    own = (found - x.repeat(3, 1, 1, 1)).flatten(1).norm(dim=1)
    strange = (found - x.rot90(2, (2, 3)).repeat(3, 1, 1, 1)).flatten(1).norm(dim=1)
    assert own.min() > 0
    assert own.mean() < strange.mean()
    assert torch.equal(found, varied(x, 3, seed=1))
    assert not torch.equal(found, varied(x, 3, seed=2))
