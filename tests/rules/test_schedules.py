"""Rules and radii that change with the share of steps done."""

from itertools import pairwise

import pytest
import torch

from advreg import Steepest, Threat, linf
from advreg.attacks import ascend, value_and_gradient
from advreg.rules import Adaptive, Decayed, cosine

SUM = value_and_gradient(lambda x: x.sum(1))


def test_decays_follow_the_share_of_steps_done():
    centre = torch.full((1, 1), 0.5)
    climb = ascend(SUM, centre, threat=Threat(linf, 0.5), rule=Decayed(Steepest(0.2)), steps=4)
    points = [next(climb).x.item() for _ in range(5)]
    moved = [b - a for a, b in pairwise(points)]
    assert moved == pytest.approx([0.1 * cosine(k / 4) for k in range(4)], rel=1e-5)


@pytest.mark.parametrize("rule", [Adaptive(), Decayed(Steepest(0.2))])
def test_rules_that_plan_ahead_ask_for_the_number_of_steps(rule):
    climb = ascend(SUM, torch.full((1, 2), 0.5), threat=Threat(linf, 0.1), rule=rule)
    next(climb)
    with pytest.raises(ValueError, match="pass steps= to ascend"):
        next(climb)
