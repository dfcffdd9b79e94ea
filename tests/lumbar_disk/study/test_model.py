from dataclasses import replace

import pytest
import torch

from advreg import Keys
from advreg.training import Adversary, Noise, PureNoise
from lumbar_disk.data import crops, phantoms
from lumbar_disk.study import KINDS, batches, criterion, paper_recipe, smoke_recipe
from lumbar_disk.virtual import ShapeModel, Stream


def test_each_kind_of_model_has_its_loss():
    recipe = replace(paper_recipe(), epochs=10)
    terms = {kind: criterion(recipe, f"P3_{kind}", 4).terms for kind in (*KINDS, "rand_pure")}
    assert not terms["std"]
    assert {kind: list(terms[kind]) for kind in ("adv_r", "adv_s", "adv_rs", "rand")} == {
        "adv_r": ["reg"], "adv_s": ["seg"], "adv_rs": ["reg", "seg"], "rand": ["rand"],
    }  # fmt: skip
    for kind in ("adv_r", "adv_s", "adv_rs"):
        for _, adversary in terms[kind].values():
            assert isinstance(adversary, Adversary)
            assert adversary.threat.radius == pytest.approx(0.035)
            assert (adversary.steps, adversary.rule.size, adversary.rule.relative) == (20, 0.01, False)
    assert isinstance(terms["rand"]["rand"][1], Noise)
    pure = terms["rand_pure"]["rand"][1]
    assert isinstance(pure, PureNoise)
    assert pure(None, torch.ones(1, 1, 4, 4), None, Keys(0, torch.arange(1))).max() <= 0.035


def test_the_radius_grows_over_the_ramp_and_stays():
    def radii(ramp):
        recipe = replace(paper_recipe(), epochs=8, ramp=ramp)
        losses = [criterion(recipe, "P3_adv_r", epoch) for epoch in range(8)]
        return [round(loss.terms["reg"][1].threat.radius / 0.07, 3) for loss in losses]

    assert radii(1.0) == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]
    assert radii(0.25) == [0.5, *[1] * 7]
    assert radii(0.0) == [1] * 8


def test_real_discs_stand_among_the_virtual_ones_by_chance_of_the_sample():
    discs = crops(phantoms(2, seed=1), size=64)
    stream = Stream(discs, ShapeModel.fit(discs.contours, 3))
    recipe = replace(smoke_recipe(), batch=32, virtual=64)

    def is_real(images, y):
        same = (images[:, None] == discs.images).flatten(2).all(2)
        place = same.float().argmax(1)
        for head, one in discs.target().items():
            assert torch.equal(y[head][same.any(1)], one[place[same.any(1)]])
        return same.any(1)

    shares = {}
    for real in (0.0, 0.4, 1.0):
        at = batches(replace(recipe, real=real), stream, discs)
        shares[real] = torch.cat([is_real(*at(step)[:2]) for step in range(8)])
    assert shares[0.0].sum() == 0
    assert shares[1.0].all()
    assert 0.3 < shares[0.4].float().mean() < 0.5  # 256 draws: three standard errors are 0.09
    assert not torch.equal(shares[0.4][:64], shares[0.4][64:128])  # also where the virtual ones begin anew
