"""Distances of surfaces against scipy, MONAI and numbers recorded from MONAI 1.6.1."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from advreg.metrics import average_surface_distance, distance_map, hausdorff, surface_dice
from advreg.testing import check_objective


def blobs(*shape, seed=0, level=0.1):
    """Smooth noise, as logits."""
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pool = torch.nn.functional.avg_pool2d if len(shape) == 4 else torch.nn.functional.avg_pool3d
    return pool(noise, 5, 1, 2) - level


def ellipsoids(shape, *places):
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij"), -1)
    inside = [(((grid - torch.tensor(c)) / torch.tensor(r)) ** 2).sum(-1) < 1 for c, r in places]
    return torch.stack(inside)[None]


METRICS = {
    "hd": hausdorff,
    "hd95": partial(hausdorff, percentile=95),
    "hd30": partial(hausdorff, percentile=30),
    "assd": average_surface_distance,
    "nsd": partial(surface_dice, tolerance=1.1),
}


def by_scipy(name, a, b, spacing):
    """Of one pair of masks."""
    if not a.any() and not b.any():
        return 1.0 if name == "nsd" else 0.0
    if not a.any() or not b.any():
        return 0.0 if name == "nsd" else np.inf
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    there, back = away[1][edges[0]], away[0][edges[1]]
    if name == "assd":
        return np.concatenate([there, back]).mean()
    if name == "nsd":
        return (np.concatenate([there, back]) <= 1.1).mean()
    percentile = {"hd": 100, "hd95": 95, "hd30": 30}[name]
    return max(np.percentile(there, percentile), np.percentile(back, percentile))


CASES = [
    ((4, 3, 17, 23), None),
    ((4, 3, 17, 23), (0.7, 1.3)),
    ((2, 2, 9, 12, 10), None),
    ((2, 2, 9, 12, 10), (3.0, 0.5, 0.8)),
]


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.parametrize("name", METRICS)
def test_masks_by_scipy(name, shape, spacing):
    output, target = blobs(*shape), blobs(*shape, seed=1) > 0
    target[0, 1], output[1, 0] = False, -1.0  # the truth is empty, then the prediction
    target[-1, -1], output[-1, -1] = False, -1.0  # then both
    expected = [
        np.mean([by_scipy(name, *pair, spacing) for pair in zip(p, t, strict=True)])
        for p, t in zip((output > 0).numpy(), target.numpy(), strict=True)
    ]
    found = METRICS[name](output, target, spacing=1.0 if spacing is None else spacing)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    single = METRICS[name](output.float(), target, spacing=1.0 if spacing is None else spacing)
    torch.testing.assert_close(single, found)


# From MONAI 1.6.1, means over channels of the masks by `ellipsoids` below, the background included: its
# compute_hausdorff_distance, the same with percentile=95, compute_average_surface_distance with
# symmetric=True, compute_surface_dice with thresholds of 1.0.
RECORDED = [
    ("flat", 1.0, (4.0000000, 4.0000000, 1.3569105, 0.5375000)),
    ("flat", (0.7, 1.3), (4.5811610, 4.5500002, 1.3292950, 0.4895833)),
    ("deep", (3.0, 0.5, 0.8), (6.2297673, 6.0321021, 1.4628987, 0.6066667)),
]
PAIRS = {
    "flat": (
        ellipsoids((20, 24), ((8.0, 9.0), (5.0, 7.0)), ((3.0, 20.0), (4.0, 5.0))),
        ellipsoids((20, 24), ((9.0, 11.0), (6.0, 5.0)), ((5.0, 18.0), (6.0, 3.0))),
    ),
    "deep": (
        ellipsoids((9, 14, 12), ((4.0, 6.0, 5.0), (3.0, 5.0, 4.0))),
        ellipsoids((9, 14, 12), ((3.0, 8.0, 6.0), (4.0, 4.0, 5.0))),
    ),
}


@pytest.mark.parametrize(("name", "spacing", "expected"), RECORDED)
def test_numbers_recorded_from_monai(name, spacing, expected):
    prediction, truth = PAIRS[name]
    logits = prediction.double() - 0.5
    found = [
        hausdorff(logits, truth, spacing=spacing),
        hausdorff(logits, truth, spacing=spacing, percentile=95),
        average_surface_distance(logits, truth, spacing=spacing),
        surface_dice(logits, truth, spacing=spacing, tolerance=1.0),
    ]
    np.testing.assert_allclose(torch.cat(found), expected, rtol=1e-6)


@pytest.mark.parametrize(("shape", "spacing"), CASES)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI's own
def test_masks_by_monai(shape, spacing):
    monai = pytest.importorskip("monai.metrics", reason="the oracle is monai")
    output, target = blobs(*shape).float(), blobs(*shape, seed=1) > 0
    options = {"include_background": True, "spacing": spacing}
    ours = {"spacing": 1.0 if spacing is None else spacing}
    pairs = [
        (hausdorff, {}, monai.compute_hausdorff_distance, {}),
        (hausdorff, {"percentile": 95}, monai.compute_hausdorff_distance, {"percentile": 95}),
        (average_surface_distance, {}, monai.compute_average_surface_distance, {"symmetric": True}),
        (
            surface_dice,
            {"tolerance": 1.0},
            monai.compute_surface_dice,
            {"class_thresholds": [1.0] * shape[1]},
        ),
    ]
    for function, own, theirs, other in pairs:
        expected = theirs(output > 0, target, **other, **options).mean(1)
        np.testing.assert_allclose(function(output, target, **own, **ours), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 13, 9), (2, 2, 6, 7, 8), (2, 1, 30)])
@pytest.mark.parametrize("spacing", [1.0, 0.3])
def test_distance_maps_by_scipy(shape, spacing):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.93
    mask.view(shape[0], -1)[:, 3] = True
    sampling = torch.tensor([2.0, 0.7, 1.1][: len(shape) - 2]) * spacing
    found = distance_map(mask, sampling)
    for ours, flags in zip(found.flatten(0, 1), mask.flatten(0, 1), strict=True):
        if flags.any():
            expected = ndimage.distance_transform_edt(~flags.numpy(), sampling=sampling.tolist())
            np.testing.assert_allclose(ours, expected, rtol=1e-6)
        else:
            assert (ours == torch.inf).all()
    each = distance_map(mask, torch.stack([sampling, 2 * sampling]))
    torch.testing.assert_close(each, torch.stack([found[0], 2 * found[1]]))


@pytest.mark.parametrize("name", METRICS)
def test_classes_are_channels_of_their_own_and_absent_ones_are_left_out(name):
    logits = blobs(3, 4, 12, 13).mul(8)
    numbers = blobs(3, 4, 12, 13, seed=1).argmax(1) % 3  # the last class is absent
    channels = torch.nn.functional.one_hot(logits.argmax(1), 4).movedim(-1, 1).double()
    truth = torch.nn.functional.one_hot(numbers, 4).movedim(-1, 1)
    metric = METRICS[name]
    expected = metric(channels[:, :3], truth[:, :3], activation="none")
    torch.testing.assert_close(metric(logits, numbers, activation="softmax"), expected)
    torch.testing.assert_close(metric(logits, truth, activation="softmax"), expected)
    front = metric(channels[:, 1:3], truth[:, 1:3], activation="none")
    found = metric(logits, numbers, activation="softmax", include_background=False)
    torch.testing.assert_close(found, front)
    counted = metric(logits, numbers, activation="softmax", absent="count")
    assert torch.equal(counted, metric(channels, truth, activation="none"))


@pytest.mark.parametrize("name", METRICS)
def test_a_spacing_for_each_example(name):
    output, target = blobs(3, 2, 11, 14), blobs(3, 2, 11, 14, seed=1) > 0
    spacing = torch.tensor([[1.0, 1.0], [0.5, 2.0], [3.0, 0.9]])
    target = {"mask": target, "spacing": spacing}
    found = METRICS[name](output, target)
    alone = [
        METRICS[name](output[n : n + 1], target["mask"][n : n + 1], spacing=spacing[n].tolist())
        for n in range(3)
    ]
    torch.testing.assert_close(found, torch.cat(alone))
    check_objective(METRICS[name], output, target)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decides_alike(name, dtype):
    output, target = blobs(2, 1, 12, 40).to(dtype), blobs(2, 1, 12, 40, seed=1) > 0
    found = METRICS[name](output, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, METRICS[name](output.float(), target))


@pytest.mark.parametrize("name", METRICS)
def test_nan_stays_nan_in_its_example(name):
    output, target = blobs(3, 2, 9, 9), blobs(3, 2, 9, 9, seed=1) > 0
    expected = METRICS[name](output, target)
    output[1, 0, 2, 2], expected[1] = torch.nan, torch.nan
    torch.testing.assert_close(METRICS[name](output, target), expected, equal_nan=True)


def test_a_signal_and_a_mask_that_touches_the_border():
    truth, logits = torch.zeros(1, 1, 12), torch.full((1, 1, 12), -1.0)
    truth[..., 2:5], logits[..., 2:9] = 1, 1.0
    assert hausdorff(logits, truth).item() == 4
    full = torch.ones(1, 1, 6, 6)
    assert hausdorff(full, full).item() == 0
    dot = torch.full((1, 1, 6, 6), -1.0)
    dot[..., 0, 0] = 1.0
    assert hausdorff(dot, full).item() == pytest.approx(50**0.5)


def test_a_distance_of_the_tolerance_is_no_error():
    truth, logits = torch.zeros(1, 1, 1, 40), torch.full((1, 1, 1, 40), -1.0)
    truth[..., 2] = 1
    for apart in range(1, 30):
        moved = logits.clone()
        moved[..., 2 + apart] = 1.0
        for size in (0.1, 0.7, 1.3):
            within = surface_dice(moved, truth, spacing=size, tolerance=size * apart)
            assert within.item() == 1
            assert surface_dice(moved, truth, spacing=size, tolerance=size * apart * 0.999).item() == 0


MASK = torch.zeros(2, 2, 6, 6)


@pytest.mark.parametrize(
    ("function", "target", "options", "error", "message"),
    [
        (hausdorff, MASK, {"percentile": 0}, ValueError, r"\(0, 100\]"),
        (hausdorff, MASK, {"spacing": -1.0}, ValueError, "positive"),
        (hausdorff, MASK, {"spacing": (1.0, 1.0, 1.0)}, ValueError, "each of 2 spatial axes"),
        (hausdorff, MASK, {"spacing": torch.ones(2, 2)}, ValueError, '"mask": mask, "spacing"'),
        (hausdorff, {"mask": MASK, "spacing": torch.ones(3, 2)}, {}, ValueError, r"\(2, 2\)"),
        (hausdorff, {"liver": MASK}, {}, TypeError, "hold 'mask' and 'spacing'; got a mapping of"),
        (hausdorff, MASK[:, :1], {}, ValueError, "same shape"),
        (hausdorff, MASK + torch.nan, {}, ValueError, "NaN"),
        (partial(surface_dice, tolerance=-1.0), MASK, {}, ValueError, "tolerance must be zero or more"),
        (partial(surface_dice, tolerance=[1.0] * 3), MASK, {}, ValueError, "each of 2 channels"),
    ],
)
def test_what_does_not_fit_is_refused(function, target, options, error, message):
    with pytest.raises(error, match=message):
        function(torch.zeros(2, 2, 6, 6), target, **options)


def test_more_that_does_not_fit():
    with pytest.raises(ValueError, match="two channels or more"):
        hausdorff(MASK[:, :1], MASK[:, :1], include_background=False)
    with pytest.raises(ValueError, match="bool mask"):
        distance_map(MASK)
