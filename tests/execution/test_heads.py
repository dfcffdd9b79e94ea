"""Models that declare their heads run those that are read."""

import torch
from networks import batch, notes, two_heads
from torch import nn

from advreg import J_IND_reg, J_IND_seg, Threat, linf, negate, on, pgd_attack, weighted
from advreg.execution import heads


class Declares(nn.Module):
    """Says that it can run a part of itself, and which parts it ran."""

    def __init__(self):
        super().__init__()
        self.net = two_heads()

    @property
    def ran(self):
        return notes(self)

    def forward(self, x, heads=("contour", "mask")):
        self.ran.append(tuple(heads))
        return {key: value for key, value in self.net(x).items() if key in heads}


def test_an_attack_runs_only_the_heads_that_its_objective_reads():
    model, (x, y) = Declares(), batch()
    threat = Threat(linf, 0.03)
    for objective, ran in (
        (on("mask", J_IND_seg), ("mask",)),
        (negate(on("contour", J_IND_reg)), ("contour",)),
        (weighted((1.0, on("mask", J_IND_seg)), (1.0, on("contour", J_IND_reg))), ("contour", "mask")),
        (lambda output, target: J_IND_seg(output["mask"], target["mask"]), ("contour", "mask")),
    ):
        model.ran.clear()
        part = pgd_attack(model, x, y, objective=objective, threat=threat, steps=2)
        assert set(model.ran) == {ran}
        whole = pgd_attack(model.net, x, y, objective=objective, threat=threat, steps=2)
        assert torch.equal(part.x, whole.x)


def test_a_model_that_declares_nothing_runs_whole():
    net = two_heads()
    assert heads(net, ["mask"]) is net
    assert heads(torch.sin, ["mask"]) is torch.sin
    assert heads(Declares(), None)(batch()[0]).keys() == {"contour", "mask"}
