from dataclasses import replace

import pytest
import torch

from advreg import Keys
from advreg.training import Adversary, Noise, PureNoise
from lumbar_disk.study import KINDS, criterion, paper_recipe


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
