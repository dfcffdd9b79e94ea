"""What changes training inputs: the attack's own loop, and noise."""

import pytest
import torch

from advreg import Keys, Threat, linf
from advreg.training import (
    Noise,
    PureNoise,
)


def test_random_noise_is_uniform_in_ball_and_box():
    x = torch.full((6, 4000), 0.02)
    keys = Keys(0, torch.arange(6))
    noisy = Noise(Threat(linf, 0.07))(None, x, None, keys)
    moved = noisy - x
    assert noisy.min() == 0
    assert moved.max() <= 0.07 + 1e-6
    assert (noisy == 0).float().mean() == pytest.approx(0.05 / 0.14, abs=0.02)
    assert moved[moved > -0.02].mean() == pytest.approx(0.025, abs=0.002)
    pure = PureNoise(0.07)(None, x, None, keys)
    assert 0 <= pure.min() < 0.001
    assert 0.069 < pure.max() <= 0.07
    assert pure.mean() == pytest.approx(0.035, abs=0.001)
    assert not torch.equal(pure[0], pure[1])
