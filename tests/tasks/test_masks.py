"""The task of mask heads: its metric, its members, what is ignored."""

import pytest
import torch

from advreg import J_IND_seg, Threat, auto_attack, dice, linf
from advreg.metrics import iou
from advreg.objectives import SharpenedDice
from advreg.tasks import masks


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OUTPUT, MASK = logits(3, 2, 5, 6), (logits(3, 2, 5, 6, seed=1) > 0.5).double()


CLASSES = torch.randint(0, 2, (3, 5, 6), generator=torch.Generator().manual_seed(2))


IGNORED = CLASSES.clone()
IGNORED[:, :2] = 255


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, MASK),
        ({"ignore_index": 0}, MASK),
        ({"activation": "softmax"}, CLASSES),
        ({"activation": "softmax", "ignore_index": 255}, IGNORED),
    ],
)
def test_at_a_factor_of_one_it_is_the_papers_objective(options, target):
    plain = SharpenedDice(1.0, 1.0, **options)
    for share in (0.0, 0.5, 1.0):
        torch.testing.assert_close(plain.at(share)(OUTPUT, target), J_IND_seg(OUTPUT, target, **options))
    torch.testing.assert_close(masks(**options).metric(OUTPUT, target), dice(OUTPUT, target, **options))
    twice = SharpenedDice(2.0, 2.0, **options)
    torch.testing.assert_close(twice(OUTPUT, target), J_IND_seg(2 * OUTPUT, target, **options))


def test_what_is_ignored_changes_no_member():
    options = {"activation": "softmax", "ignore_index": 255}
    other = OUTPUT.clone()
    other[:, :, :2] = logits(3, 2, 2, 6, seed=9)
    for member in masks(**options).members:
        assert torch.equal(member.objective(OUTPUT, IGNORED), member.objective(other, IGNORED))
        assert not torch.equal(
            member.objective(OUTPUT, IGNORED), member.objective(OUTPUT, IGNORED.where(IGNORED == 255, 1))
        )


FORMS = [
    ((1, 40), "sigmoid"),
    ((3, 40), "sigmoid"),
    ((3, 12), "softmax"),
    ((1, 9, 10), "sigmoid"),
    ((3, 9, 10), "softmax"),
    ((2, 5, 6, 7), "sigmoid"),
    ((4, 5, 6, 7), "softmax"),
]


@pytest.mark.parametrize("metric", ["dice", "iou"])
@pytest.mark.parametrize(("shape", "activation"), FORMS)
def test_signals_images_and_volumes_of_all_kinds_are_attacked(shape, activation, metric):
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    bias = 0.1 * torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))

    def model(x):
        return 8 * (x - 0.5) + bias

    clean = model(x)
    target = clean.argmax(1) if activation == "softmax" else (clean > 0).float()
    task = masks(metric=metric, activation=activation)
    found = auto_attack(model, x, target, heads={"": task}, threat=Threat(linf, 0.1), budget=20)[""]
    assert (found.clean == 1).all()
    assert (found.value < 0.9).all()
    judge = {"dice": dice, "iou": iou}[metric]
    assert torch.equal(found.value, judge(model(found.x), target, activation=activation))
    if activation == "softmax":  # one channel for each class says the same
        channels = torch.nn.functional.one_hot(target, shape[0]).movedim(-1, 1)
        same = auto_attack(model, x, channels, heads={"": task}, threat=Threat(linf, 0.1), budget=20)[""]
        assert torch.equal(same.value, found.value)


def test_another_metric_is_refused():
    with pytest.raises(ValueError, match="metric must be 'dice' or 'iou'"):
        masks(metric="jaccard")
