"""Dice of contours against scikit-image's regions."""

import numpy as np
import pytest
import torch
from skimage.draw import polygon2mask

from advreg import contour_dice


def test_contour_dice_is_that_of_scikit_images_regions():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 30, (2, 20, 8, 2))
    ours = contour_dice(torch.tensor(a), torch.tensor(b), size=(28, 32))
    for value, p, q in zip(ours, a, b, strict=True):
        m, n = (polygon2mask((28, 32), polygon[:, ::-1]) for polygon in (p, q))
        assert value.item() == pytest.approx(2 * (m & n).sum() / (m.sum() + n.sum()))
