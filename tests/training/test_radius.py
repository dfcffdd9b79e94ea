"""The radius of adversarial training over the epochs."""

import pytest

from advreg.training import (
    radius_ramp,
)


def test_the_ramp_ends_at_the_full_radius():
    assert radius_ramp(0.07, 0, 100) == pytest.approx(0.0007)
    assert radius_ramp(0.07, 99, 100) == 0.07
    with pytest.raises(ValueError, match="epoch 100 of 100"):
        radius_ramp(0.07, 100, 100)
