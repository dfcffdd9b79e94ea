"""Surrogates of detectors against plain loops; their gradients."""

import math

import numpy as np
import pytest
import torch

from advreg.objectives import false_boxes, missed_boxes
from advreg.testing import check_objective


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def boxes(*shape, seed=0):
    low = 8 * torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([low, low + 3 + normal(*shape, 2, seed=seed + 1).abs()], -1)


TRUTH = [
    {"boxes": boxes(2, seed=5), "labels": torch.tensor([1, 0])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
    {"boxes": boxes(1, seed=9), "labels": torch.tensor([1])},
]
BOXES, LOGITS = boxes(3, 6, seed=2), normal(3, 6, 3, scale=2)


def overlap(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = np.prod(np.clip(high - low, 0, None))
    return inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter)


def by_hand(kind, place, p, truth, labels=None):
    """Of one image, from probabilities (N, C), or (N,) with labels."""
    p = p if labels is None else [{k: q.item()} for k, q in zip(labels.tolist(), p, strict=True)]
    classes = [dict(enumerate(q.tolist())) if labels is None else q for q in p]
    true = list(zip(truth["boxes"].numpy(), truth["labels"].tolist(), strict=True))
    if kind == "missed" and true:
        logs = []
        for box, k in true:
            odds = [
                q[k] / (1 - q[k]) * overlap(box, b)
                for b, q in zip(place.detach().numpy(), classes, strict=True)
                if k in q
            ]
            logs.append(math.log(sum(odds) + math.exp(-60)))
        return -np.mean(logs)
    total = math.exp(-60)
    for b, q in zip(place.detach().numpy(), classes, strict=True):
        for k, value in q.items():
            if not any(k == label and overlap(box, b) >= 0.5 for box, label in true):
                total += value
    return math.log(total)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("kind", "function"), [("missed", missed_boxes), ("false", false_boxes)])
def test_dense_by_hand(kind, function, activation):
    p = LOGITS.sigmoid() if activation == "sigmoid" else LOGITS.softmax(2)[..., :-1]
    expected = [by_hand(kind, *parts) for parts in zip(BOXES, p, TRUTH, strict=True)]
    np.testing.assert_allclose(function((BOXES, LOGITS), TRUTH, activation=activation), expected, rtol=1e-6)


def listed(counts, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        {
            "boxes": boxes(count, seed=n),
            "scores": 0.05 + 0.9 * torch.rand(count, generator=g, dtype=torch.float64),
            "labels": torch.randint(0, 2, (count,), generator=g),
        }
        for n, count in enumerate(counts)
    ]


@pytest.mark.parametrize("counts", [(5, 3, 4), (0, 0, 2), (1, 1, 0)])
@pytest.mark.parametrize(("kind", "function"), [("missed", missed_boxes), ("false", false_boxes)])
def test_lists_by_hand(kind, function, counts):
    output = listed(counts)
    expected = [
        by_hand(kind, one["boxes"], one["scores"], truth, one["labels"])
        for one, truth in zip(output, TRUTH, strict=True)
    ]
    np.testing.assert_allclose(function(output, TRUTH), expected, rtol=1e-6)
    check_objective(function, output, TRUTH, select=lambda tree, rows: tree[rows])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("function", [missed_boxes, false_boxes])
def test_gradients(function, activation):
    def value(boxes, logits):
        return function((boxes, logits), TRUTH, activation=activation)

    assert torch.autograd.gradcheck(value, (BOXES.clone().requires_grad_(), LOGITS.clone().requires_grad_()))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("sure", [10.0, 60.0, 1e4])
def test_a_sure_detection_still_has_a_gradient(activation, sure):
    """In float32 its probability is 1, and that of all others 0."""
    place = TRUTH[2]["boxes"][None].float()
    logits = torch.tensor([[[-sure, sure, -sure]]]).requires_grad_()
    value = missed_boxes((place, logits), TRUTH[2:], activation=activation)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.isfinite().all()
    assert gradient[0, 0, 1].item() == pytest.approx(-1)
    nothing = [TRUTH[1]]
    away = torch.full((1, 1, 3), -20.0)
    away[..., 2] = 20.0  # "no object", or a third class
    away = away.requires_grad_()
    (gradient,) = torch.autograd.grad(false_boxes((place, away), nothing, activation=activation).sum(), away)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0.4 if activation == "softmax" else gradient.abs().sum() >= 0


@pytest.mark.parametrize("function", [missed_boxes, false_boxes])
def test_images_without_boxes_leave_others_their_gradient(function):
    output = listed((0, 0, 3))
    output[2]["labels"] = torch.tensor([1, 1, 0])
    output[2]["boxes"] = TRUTH[2]["boxes"].repeat(3, 1)
    scores = [one["scores"].requires_grad_() for one in output]
    value = function(output, TRUTH)
    assert value.requires_grad
    value.sum().backward()
    assert scores[2].grad.abs().sum() > 0
    alone = function(output[:1], TRUTH[:1])
    assert alone.isfinite().all()


@pytest.mark.parametrize("function", [missed_boxes, false_boxes])
def test_nan_stays_nan_and_half_is_single(function):
    output = listed((3, 2, 2))
    expected = function(output, TRUTH)
    output[1]["boxes"][0, 0] = torch.nan
    expected[1] = torch.nan
    torch.testing.assert_close(function(output, TRUTH), expected, equal_nan=True)
    half = (BOXES.half(), LOGITS.half())
    assert torch.equal(function(half, TRUTH), function((half[0].float(), half[1].float()), TRUTH))


def test_an_overlap_out_of_range():
    with pytest.raises(ValueError, match="overlap must lie"):
        false_boxes((BOXES, LOGITS), TRUTH, overlap=0.0)
