"""Metrics of boxes against plain loops in numpy."""

import numpy as np
import pytest
import torch

from advreg.metrics import average_precision, box_iou, box_quality
from advreg.testing import check_objective

COUNTS = [(5, 3), (0, 2), (4, 0), (1, 1), (0, 0), (7, 4)]  # boxes found, and true


def corners(count, g):
    low = 10 * torch.rand(count, 2, generator=g, dtype=torch.float64)
    return torch.cat([low, low + 1 + 6 * torch.rand(count, 2, generator=g, dtype=torch.float64)], 1)


def scene(seed=0, counts=COUNTS, classes=2):
    """Lists of what was found and what is there; some of it in the right place."""
    g = torch.Generator().manual_seed(seed)
    output, target = [], []
    for found, true in counts:
        truth = {"boxes": corners(true, g), "labels": torch.randint(0, classes, (true,), generator=g)}
        boxes, labels = corners(found, g), torch.randint(0, classes, (found,), generator=g)
        for row in range(min(found, true)):
            if torch.rand((), generator=g) < 0.7:
                boxes[row] = truth["boxes"][row] + 0.4 * torch.rand(4, generator=g, dtype=torch.float64)
                labels[row] = truth["labels"][row]
        scores = torch.rand(found, generator=g, dtype=torch.float64)
        output.append({"boxes": boxes, "scores": scores, "labels": labels})
        target.append(truth)
    return output, target


def iou_by_hand(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    own = [max(0.0, c[2] - c[0]) * max(0.0, c[3] - c[1]) for c in (a, b)]
    union = sum(own) - width * height
    return width * height / union if union else 0.0


def quality_by_hand(output, target):
    values = []
    for found, truth in zip(output, target, strict=True):
        if not len(truth["boxes"]):
            values.append(1 - max(found["scores"].tolist(), default=0))
            continue
        best = []
        for box, label in zip(truth["boxes"].numpy(), truth["labels"].tolist(), strict=True):
            candidates = zip(
                found["boxes"].numpy(), found["scores"].tolist(), found["labels"].tolist(), strict=True
            )
            best.append(max((s * iou_by_hand(box, b) for b, s, k in candidates if k == label), default=0))
        values.append(np.mean(best))
    return np.array(values)


def precision_by_hand(output, target, iou):
    values = []
    for found, truth in zip(output, target, strict=True):
        true = list(zip(truth["boxes"].numpy(), truth["labels"].tolist(), strict=True))
        if not true:
            values.append(1 - max(found["scores"].tolist(), default=0))
            continue
        ranked = sorted(
            zip(found["scores"].tolist(), found["boxes"].numpy(), found["labels"].tolist(), strict=True),
            key=lambda entry: -entry[0],
        )
        free, hits = set(range(len(true))), []
        for _, box, label in ranked:
            near = {k: iou_by_hand(box, true[k][0]) for k in free if true[k][1] == label}
            place = max(near, key=near.get, default=None)
            hit = place is not None and near[place] >= iou
            free -= {place} if hit else set()
            hits.append(hit)
        precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
        values.append(sum(max(precisions[n:]) for n, hit in enumerate(hits) if hit) / len(true))
    return np.array(values)


@pytest.mark.parametrize("seed", range(5))
def test_lists_by_loops(seed):
    output, target = scene(seed)
    np.testing.assert_allclose(box_quality(output, target), quality_by_hand(output, target), rtol=1e-9)
    for iou in (0.5, 0.8):
        expected = precision_by_hand(output, target, iou)
        np.testing.assert_allclose(average_precision(output, target, iou=iou), expected, rtol=1e-9)


def test_overlaps_by_loops_and_by_counting_cells():
    g = torch.Generator().manual_seed(0)
    a, b = corners(6, g), corners(5, g)
    expected = [[iou_by_hand(p, q) for q in b.numpy()] for p in a.numpy()]
    np.testing.assert_allclose(box_iou(a, b), expected, rtol=1e-12)
    grid = torch.zeros(2, 12, 12, dtype=torch.bool)
    grid[0, 1:7, 2:5], grid[1, 3:10, 4:11] = True, True
    counted = (grid[0] & grid[1]).sum() / (grid[0] | grid[1]).sum()
    found = box_iou(torch.tensor([[2, 1, 5, 7.0]]), torch.tensor([[4, 3, 11, 10.0]]))
    torch.testing.assert_close(found.squeeze(), counted)
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        box_iou(a.flatten(), b)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("form", ["pair", "detr", "named"])
def test_dense_outputs_are_lists_of_every_box_and_class(activation, form):
    g = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(3, 6, 4, generator=g, dtype=torch.float64)
    boxes = torch.stack([corners(6, g) for _ in range(3)])
    target = scene(4, [(0, 2), (0, 0), (0, 3)], classes=3)[1]
    p = logits.sigmoid() if activation == "sigmoid" else logits.softmax(2)[..., :-1]
    listed = [
        {
            "boxes": b.repeat_interleave(p.shape[2], 0),
            "scores": q.flatten(),
            "labels": torch.arange(p.shape[2]).repeat(6),
        }
        for b, q in zip(boxes, p, strict=True)
    ]
    output = {
        "pair": (boxes, logits),
        "detr": {"pred_boxes": boxes, "pred_logits": logits, "loss": None},
        "named": {"boxes": boxes, "logits": logits},
    }[form]
    found = box_quality(output, target, activation=activation)
    np.testing.assert_allclose(found, quality_by_hand(listed, target), rtol=1e-9)
    likeliest = [
        {"boxes": b, "scores": q.amax(1), "labels": q.argmax(1)} for b, q in zip(boxes, p, strict=True)
    ]
    found = average_precision(output, target, activation=activation)
    np.testing.assert_allclose(found, precision_by_hand(likeliest, target, 0.5), rtol=1e-9)


@pytest.mark.parametrize("box_format", ["xywh", "cxcywh"])
def test_other_formats(box_format):
    def written(entry):
        low, high = entry["boxes"][:, :2], entry["boxes"][:, 2:]
        first = low if box_format == "xywh" else (low + high) / 2
        return {**entry, "boxes": torch.cat([first, high - low], 1)}

    output, target = scene(1)
    expected = box_quality(output, target)
    other = [written(entry) for entry in output], [written(entry) for entry in target]
    torch.testing.assert_close(box_quality(*other, box_format=box_format), expected)
    with pytest.raises(ValueError, match=r"x2 >=? x1"):
        box_quality(*other)


@pytest.mark.parametrize("metric", [box_quality, average_precision])
def test_an_example_alone_is_as_in_its_batch(metric):
    output, target = scene(2)
    check_objective(metric, output, target, select=lambda tree, rows: tree[rows])
    dense = (
        torch.stack([corners(4, torch.Generator().manual_seed(n)) for n in range(6)]),
        torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(9)),
    )
    check_objective(
        metric,
        dense,
        target,
        select=lambda tree, rows: tree[rows] if isinstance(tree, list) else tuple(p[rows] for p in tree),
    )
    assert metric([], []).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    output, target = scene(2)
    half = [{**e, "boxes": e["boxes"].to(dtype), "scores": e["scores"].to(dtype)} for e in output]
    single = [{**e, "boxes": e["boxes"].float(), "scores": e["scores"].float()} for e in half]
    for metric in (box_quality, average_precision):
        assert metric(half, target).dtype == torch.float32
        assert torch.equal(metric(half, target), metric(single, target))


@pytest.mark.parametrize("metric", [box_quality, average_precision])
@pytest.mark.parametrize("key", ["boxes", "scores"])
def test_nan_stays_nan_in_its_image(metric, key):
    output, target = scene(2)
    expected = metric(output, target)
    for number in (0, 2):  # with objects and without
        output[number][key] = output[number][key].clone()
        output[number][key].view(-1)[-1] = torch.nan
        expected[number] = torch.nan
    torch.testing.assert_close(metric(output, target), expected, equal_nan=True)


def test_one_true_object_is_hit_once():
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    target = [{"boxes": torch.cat([box, box + 20]), "labels": torch.tensor([1, 1])}]
    found = {
        "boxes": torch.cat([box, box, box + 20]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([1, 1, 1]),
    }
    torch.testing.assert_close(average_precision([found], target), torch.tensor([(1 + 2 / 3) / 2]))


def bad_target(**changes):
    entry = {"boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]]), "labels": torch.tensor([0]), **changes}
    return [{key: value for key, value in entry.items() if value is not None}]


FOUND = [
    {
        "boxes": torch.tensor([[0.1, 0.2, 0.6, 0.7]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([0]),
    }
]


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (bad_target(labels=None), TypeError, "'boxes' .* and 'labels'"),
        (bad_target()[0], TypeError, r"write \[target\]"),
        (bad_target() * 2, ValueError, "same number of images; got 1 and 2"),
        (
            bad_target(boxes=torch.tensor([[5.0, 0.0, 1.0, 1.0]])),
            ValueError,
            "x2 > x1 .* image 0, box 0.*xywh",
        ),
        (bad_target(boxes=torch.tensor([[0.0, 0.0, torch.nan, 1.0]])), ValueError, "finite"),
        (bad_target(boxes=torch.ones(2, 4)), ValueError, r"\(K, 4\) and labels \(K,\)"),
        (bad_target(labels=torch.tensor([0.0])), ValueError, "class numbers"),
    ],
)
def test_targets_that_do_not_fit(target, error, message):
    with pytest.raises(error, match=message):
        box_quality(FOUND, target)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ([{"boxes": torch.zeros(1, 4), "scores": torch.ones(1)}], TypeError, "lacks .*labels"),
        ([{**FOUND[0], "scores": torch.tensor([3.0])}], ValueError, r"\[0, 1\].*sigmoid"),
        ([{**FOUND[0], "boxes": torch.zeros(2, 4)}], ValueError, r"boxes \(N, 4\)"),
        (torch.zeros(1, 5, 4), TypeError, "pair of these; got Tensor"),
        ({"boxes": torch.zeros(1, 5, 4)}, TypeError, r"got dict of \['boxes'\]"),
        ((torch.zeros(1, 5, 4), torch.zeros(1, 6, 4)), ValueError, r"\(B, Q, 4\) and logits"),
        ((torch.zeros(1, 5, 4), torch.zeros(1, 5, 1)), ValueError, "activation='sigmoid'"),
    ],
)
def test_outputs_that_do_not_fit(output, error, message):
    with pytest.raises(error, match=message):
        box_quality(output, bad_target())


def test_labels_and_words_that_do_not_fit():
    dense = torch.rand(1, 2, 4).sort(2).values, torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=r"0 to 1; got 2 to 2 .* 'no object'"):
        box_quality(dense, bad_target(labels=torch.tensor([2])))
    assert box_quality(dense, bad_target(labels=torch.tensor([2])), activation="sigmoid").shape == (1,)
    with pytest.raises(ValueError, match="box_format"):
        box_quality(FOUND, bad_target(), box_format="xyz")
    with pytest.raises(ValueError, match=r"iou must lie"):
        average_precision(FOUND, bad_target(), iou=0)
