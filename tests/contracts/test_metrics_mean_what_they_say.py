"""What metrics and objectives say of half precision, NaN, absent classes, and targets with gaps."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice
from torch.nn.functional import one_hot

from advreg import (
    J_IND_reg,
    J_IND_seg,
    J_OOD_reg,
    J_OOD_seg,
    Threat,
    auto_attack,
    contour_dice,
    dice,
    linf,
    pgd_attack,
    point_error,
    soft_dice,
)
from advreg.metrics import channel_dice, decide, rasterise
from advreg.objectives import (
    SegPGD,
    SharpenedDice,
    absolute_error,
    contour_overlap,
    cosine_weighted,
    cross_entropy,
    huber,
    jensen_shannon,
    margin,
    masked_cross_entropy,
    tversky,
    worst_point,
)
from advreg.tasks import Task, masks, points


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OVERLAPS = {
    "soft_dice": soft_dice,
    "J_IND_seg": J_IND_seg,
    "J_OOD_seg": J_OOD_seg,
    "SharpenedDice": SharpenedDice(0.7, 0.7),
    "tversky": tversky,
}
PIXELWISE = {
    "cross_entropy": cross_entropy,
    "masked_cross_entropy": masked_cross_entropy,
    "balanced": partial(masked_cross_entropy, balanced=True),
    "jensen_shannon": jensen_shannon,
    "margin": margin,
    "cosine_weighted": cosine_weighted,
    "SegPGD": SegPGD(share=0.5),
}
ERRORS = {
    "J_IND_reg": J_IND_reg,
    "J_OOD_reg": J_OOD_reg,
    "point_error": point_error,
    "worst_point": worst_point,
    "absolute_error": absolute_error,
    "huber": huber,
}
MASK_FUNCTIONS = {"dice": dice, **OVERLAPS, **PIXELWISE}


# Precision.

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def both(function, output, target):
    """Value and gradient."""
    output = output.clone().requires_grad_()
    value = function(output, target)
    return value.detach(), torch.autograd.grad(value.sum(), output)[0]


@HALVES
@pytest.mark.parametrize("name", [*OVERLAPS, *PIXELWISE, *ERRORS])
def test_half_precision_is_summed_in_single(name, dtype):
    """More than 65,504 pixels, whose sum float16 cannot hold and bfloat16 hardly counts beyond 256."""
    if name in ERRORS:
        output, target = (
            normal(2, 60_000, 2, scale=30).to(dtype),
            normal(2, 60_000, 2, seed=1, scale=30).to(dtype),
        )
    else:
        output = normal(2, 1, 300, 300, scale=3).to(dtype)
        target = (output.double() + normal(2, 1, 300, 300, seed=1, scale=3) > 0).double()
    function = {**OVERLAPS, **PIXELWISE, **ERRORS}[name]
    exact, slope = both(function, output.double(), target.double())
    value, gradient = both(function, output, target.to(dtype))
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), exact, rtol=2e-5, atol=0)
    scale = slope.abs().max()  # the gradient itself is rounded to half precision, and small ones underflow
    tiny, eps = torch.finfo(dtype).tiny, torch.finfo(dtype).eps
    torch.testing.assert_close(
        gradient.double() / scale, slope / scale, rtol=2 * eps, atol=eps / 8 + tiny / scale
    )


@HALVES
def test_hard_dice_counts_every_pixel_in_half_precision(dtype):
    output = torch.ones(1, 1, 300, 300, dtype=dtype)
    target = torch.ones(1, 1, 300, 300)
    target[..., 0, :3] = 0
    expected = 2 * (90_000 - 3) / (2 * 90_000 - 3)
    assert dice(output, target).item() == pytest.approx(expected, abs=1e-7)
    rounded = channel_dice(output, target.to(dtype))
    assert rounded.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", [*MASK_FUNCTIONS, *ERRORS])
def test_autocast_lowers_no_sum_and_float64_stays(name):
    function = {**MASK_FUNCTIONS, **ERRORS}[name]
    if name in ERRORS:
        output, target = normal(2, 300, 2, scale=9), normal(2, 300, 2, seed=1)
    else:
        output, target = normal(2, 2, 40, 40, scale=3), (normal(2, 2, 40, 40, seed=1) > 0).double()
    for dtype in (torch.float32, torch.float64):
        plain = function(output.to(dtype), target.to(dtype))
        with torch.autocast("cpu", torch.bfloat16):
            cast = function(output.to(dtype), target.to(dtype))
        assert cast.dtype == dtype
        assert torch.equal(cast, plain)


def test_large_errors_do_not_overflow_in_float16():
    output, target = torch.full((1, 4, 2), 6e4, dtype=torch.float16), torch.full((1, 4, 2), -6e4).half()
    apart = output.double()[0, 0, 0].item() - target.double()[0, 0, 0].item()
    assert J_IND_reg(output, target).item() == pytest.approx(8 * apart**2, rel=1e-6)
    assert J_OOD_reg(output, target).item() == pytest.approx(-8 * apart, rel=1e-6)
    assert point_error(output, target).item() == pytest.approx(apart * math.sqrt(2), rel=1e-6)
    assert absolute_error(output, target).item() == pytest.approx(apart, rel=1e-6)
    assert huber(output, target).item() == pytest.approx(apart - 0.5, rel=1e-6)


def test_an_attack_in_bfloat16_reports_the_gain_that_is_there():
    grid = (torch.arange(96.0) - 48).square()
    y = torch.stack([(grid[:, None] + grid < (f * 96) ** 2).float()[None] for f in (0.1, 0.25, 0.47)])
    x = (0.25 + 0.5 * y + 0.05 * normal(*y.shape).float()).clamp(0, 1)
    net = torch.nn.Conv2d(1, 1, 3, padding=1).eval()
    with torch.no_grad():
        net.weight.fill_(1.4)
        net.bias.fill_(-6.3)
    with torch.autocast("cpu", torch.bfloat16):
        found = pgd_attack(net, x, y, objective=J_IND_seg, threat=Threat(linf, 0.01), steps=10)
        with torch.no_grad():
            clean, worst = ((net(point).double().sigmoid().numpy(), y.numpy()) for point in (x, found.x))
    fell = [2 * (p * m).sum((1, 2, 3)) / (p + m).sum((1, 2, 3)) for p, m in (clean, worst)]
    np.testing.assert_allclose(found.gain, fell[0] - fell[1], atol=1e-5)
    assert (found.gain > 0).all()


# NaN.


@pytest.mark.parametrize("name", MASK_FUNCTIONS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("kind", ["full", "empty", "some", "one NaN pixel"])
def test_an_output_of_nan_scores_nan(name, activation, kind):
    output, target = normal(3, 2, 5, 5), (normal(3, 1, 5, 5, seed=1) > 0).double()
    output[1] = torch.nan
    if kind == "one NaN pixel":
        output[1] = normal(2, 5, 5)
        output[1, 1, 2, 3] = torch.nan
    elif kind != "some":
        target[:] = float(kind == "full")
    target = torch.cat([1 - target, target], 1)
    function = MASK_FUNCTIONS[name]
    if isinstance(function, (SharpenedDice, SegPGD)):
        function = type(function)(activation=activation)
    else:
        function = partial(function, activation=activation)
    value = function(output, target)
    assert value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("function", [dice, soft_dice, J_IND_seg, SharpenedDice().__call__, tversky])
@pytest.mark.parametrize("absent", ["ignore", "count"])
def test_nan_in_a_channel_that_the_truth_lacks_is_not_ignored(function, absent):
    output, target = normal(2, 2, 4, 4), torch.zeros(2, 2, 4, 4)
    target[:, 0, :2] = 1
    output[0, 1, 3, 3] = torch.nan
    if function.__class__.__name__ == "method":
        value = SharpenedDice(absent=absent)(output, target)
    else:
        value = function(output, target, absent=absent)
    assert value.isnan().tolist() == [True, False]


def test_nan_that_does_not_count_does_not_matter():
    output, target = (
        normal(1, 3, 4, 4),
        torch.randint(0, 3, (1, 4, 4), generator=torch.Generator().manual_seed(0)),
    )
    target[0, 0] = 255
    spoilt = output.clone()
    spoilt[0, :, 0] = torch.nan
    for function in (dice, soft_dice, tversky, cross_entropy):
        options = {"activation": "softmax", "ignore_index": 255}
        assert torch.equal(function(spoilt, target, **options), function(output, target, **options))


def test_probabilities_that_are_nan_and_targets_of_other_heads_that_are():
    p, m = torch.full((1, 1, 4, 4), torch.nan), torch.ones(1, 1, 4, 4)
    assert dice(p, m, activation="none").isnan()
    assert soft_dice(p, m, activation="none").isnan()
    assert J_OOD_seg(m, p).isnan()


def test_a_contour_astray_scores_nan_and_rasterise_raises():
    square = torch.tensor([[1.2, 1.3], [5.8, 1.1], [6.1, 5.9], [1.1, 6.2]]).repeat(3, 1, 1)
    output = square.clone()
    output[1, 2, 0], output[2, 0, 1] = torch.nan, torch.inf
    output.requires_grad_()
    assert contour_dice(output, square, size=(8, 8)).isnan().tolist() == [False, True, True]
    value = contour_overlap(output, square, size=(8, 8))
    assert value.isnan().tolist() == [False, True, True]
    alone = square[:1].clone().requires_grad_()
    (expected,) = torch.autograd.grad(contour_overlap(alone, square[:1], size=(8, 8)).sum(), alone)
    (gradient,) = torch.autograd.grad(value.sum(), output)
    torch.testing.assert_close(gradient[:1], expected)
    for function in (contour_dice, contour_overlap):
        with pytest.raises(ValueError, match="target must be finite; got NaN or infinity for examples 1, 2"):
            function(square, output, size=(8, 8))
    with pytest.raises(ValueError, match="contours must be finite"):
        rasterise(output.detach(), (8, 8))


# Absent classes.


def by_loops(decided, truth, absent):
    """Mean Dice of bool masks `(B, C, ...)`, as the docstring of `dice` has it."""
    found = []
    for prediction, mask in zip(decided.numpy(), truth.numpy(), strict=True):
        each = {}
        for k, (a, b) in enumerate(zip(prediction, mask, strict=True)):
            size = a.sum() + b.sum()
            each[k] = 1.0 if size == 0 else 2 * (a & b).sum() / size
        there = [k for k in each if mask[k].any()]
        chosen = there if absent == "ignore" and there else list(each)
        found.append(np.mean([each[k] for k in chosen]))
    return found


MASKS = st.integers(1, 4).flatmap(
    lambda channels: st.tuples(
        *[st.lists(st.integers(0, 2**4 - 1), min_size=channels, max_size=channels)] * 2
    )
)


def bits(numbers):
    return (
        torch.tensor([[number >> place & 1 for place in range(4)] for number in numbers])
        .bool()
        .reshape(1, -1, 2, 2)
    )


@settings(max_examples=300, deadline=None)
@given(pair=MASKS, absent=st.sampled_from(["ignore", "count"]))
def test_channels_of_their_own_by_loops_and_by_monai(pair, absent):
    decided, truth = map(bits, pair)
    ours = dice(decided.float() - 0.5, truth, absent=absent)
    np.testing.assert_allclose(ours, by_loops(decided, truth, absent), rtol=1e-6)
    sharp = soft_dice(1e4 * (decided.float() - 0.5), truth, absent=absent)
    torch.testing.assert_close(sharp, ours)
    assert torch.equal(dice(decided.float(), truth, activation="none", absent=absent), ours)
    if truth.any() or absent == "count":
        theirs = compute_dice(decided.float(), truth, ignore_empty=absent == "ignore").nanmean(1)
        torch.testing.assert_close(ours, theirs)
    default = dice(decided.float() - 0.5, truth)
    assert torch.equal(default, dice(decided.float() - 0.5, truth, absent="count"))


@settings(max_examples=300, deadline=None)
@given(pixels=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=6, max_size=6))
def test_exclusive_classes_by_loops_and_by_monai(pixels):
    given_, true = (torch.tensor(column).reshape(1, 2, 3) for column in zip(*pixels, strict=True))
    decided, truth = (one_hot(each, 5).movedim(-1, 1).bool() for each in (given_, true))
    logits = decided.float()
    for absent in ("ignore", "count"):
        ours = dice(logits, true, activation="softmax", absent=absent)
        np.testing.assert_allclose(ours, by_loops(decided, truth, absent), rtol=1e-6)
        theirs = compute_dice(logits, truth, ignore_empty=absent == "ignore").nanmean(1)
        torch.testing.assert_close(ours, theirs)
        assert torch.equal(dice(logits, truth, activation="softmax", absent=absent), ours)
    assert torch.equal(
        dice(logits, true, activation="softmax"), dice(logits, true, activation="softmax", absent="ignore")
    )
    assert (dice(logits, true, activation="softmax").item() == 1) == bool((given_ == true).all())


def test_two_of_twelve_classes():
    """Every pixel wrong is 0, and ten stray pixels cost what they are."""
    y = torch.zeros(1, 32, 32, dtype=torch.long)
    y[:, 8:20, 8:20] = 3
    stray = y.clone()
    stray[0, 31, :20:2] = torch.tensor([k for k in range(12) if k not in (0, 3)])
    logits = [
        20 * one_hot(labels, 12).movedim(-1, 1).float() for labels in (torch.where(y == 3, 5, 7), stray)
    ]
    background = 32 * 32 - 144
    expected = (1 + 2 * (background - 10) / (2 * background - 10)) / 2
    for function in (dice, soft_dice):
        wrong, spots = (function(each, y, activation="softmax").item() for each in logits)
        assert wrong == pytest.approx(0, abs=1e-6)
        assert spots == pytest.approx(expected, abs=1e-5)
    macro = partial(dice, activation="softmax", absent="count")
    assert macro(logits[0], y).item() == pytest.approx(8 / 12)
    assert macro(logits[1], y).item() == pytest.approx(2 * expected / 12)


@pytest.mark.parametrize("absent", ["ignore", "count", None])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_without_a_lesion_is_never_left_out(absent, channels):
    nothing = torch.zeros(1, channels, 4, 4)
    right, spot = nothing - 9, nothing - 9
    assert dice(right, nothing, absent=absent).item() == 1
    spot[0, 0, 1, 2] = 9
    assert dice(spot, nothing, absent=absent).item() == pytest.approx((channels - 1) / channels)
    for function in (J_IND_seg, tversky):  # soft counts: as the formula has it
        assert function(spot, nothing, absent=absent).item() == 1


@pytest.mark.parametrize("word", ["macro", "", True, 0])
def test_other_words_for_absent_are_refused(word):
    pair = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    for call in (
        *(
            partial(function, *pair, absent=word)
            for function in (dice, soft_dice, J_IND_seg, J_OOD_seg, tversky)
        ),
        partial(masks, absent=word),
        partial(SharpenedDice, absent=word),
    ):
        with pytest.raises(ValueError, match=f"absent must be 'ignore' or 'count'; got {word!r}"):
            call()


# Words and shapes.


@pytest.mark.parametrize("word", ["probabilities", "Sigmoid", "logits", "", None])
def test_another_activation_is_refused_everywhere(word):
    pair = torch.full((1, 2, 4, 4), 0.25), torch.zeros(1, 2, 4, 4)
    functions = [
        partial(f, activation=word)
        for name, f in MASK_FUNCTIONS.items()
        if name not in ("SharpenedDice", "SegPGD")
    ]
    functions += [
        lambda o, t: float(SharpenedDice(activation=word)(o, t)),
        lambda o, t: float(SegPGD(activation=word)(o, t)),
    ]
    functions += [lambda o, t: decide(o, word), lambda o, t: masks(activation=word)]
    for function in functions:
        with pytest.raises(ValueError, match=f"activation must be .*; got {word!r}"):
            function(*pair)


LABELS = torch.tensor([[[0, 1], [2, 2]]])
SCORES = 9 * one_hot(LABELS, 3).movedim(-1, 1).float()


def test_class_numbers_without_softmax_get_advice_that_is_right():
    for target, advice in (
        (LABELS, r"pass activation='softmax'; channels of their own need a mask for each, \(1, 3, 2, 2\)"),
        (LABELS[:, None], r"activation='softmax' and target.squeeze\(1\)"),
    ):
        for function in (dice, soft_dice, masks().metric, cross_entropy):
            with pytest.raises(ValueError, match=advice):
                function(SCORES, target)
    with pytest.raises(ValueError, match=r"class numbers are \(B, \*spatial\): target.squeeze\(1\)"):
        dice(SCORES, LABELS[:, None], activation="softmax")
    assert dice(SCORES, LABELS[:, None].squeeze(1), activation="softmax").item() == 1  # as advised
    with pytest.raises(ValueError, match=r"lacks the channel: target.unsqueeze\(1\)"):
        dice(SCORES[:, :1], LABELS.clamp(max=1))
    with pytest.raises(ValueError, match=r"numbers of classes need an output with a channel for each"):
        dice(SCORES[:, :1], LABELS[:, None])
    with pytest.raises(ValueError, match="two channels or more"):
        dice(SCORES[:, :1], LABELS, activation="softmax")


@pytest.mark.parametrize("shape", [(2, 10), (2, 1, 8, 8), (2,)])
def test_what_is_no_points_is_told_how_to_become_some(shape):
    remedy = r"output.unflatten\(1, \(-1, 2\)\)" if len(shape) < 3 else "for maps, such as depth"
    for function in (point_error, points().metric):
        with pytest.raises(
            ValueError, match=rf"points must be \(B, K, D\).*{remedy}.*Task\(absolute_error, 'higher'\)"
        ):
            function(torch.zeros(shape), torch.zeros(shape))
    flat = normal(2, 10)
    hand = flat.reshape(2, 5, 2).square().sum(2).sqrt().mean(1)
    torch.testing.assert_close(point_error(flat.unflatten(1, (-1, 2)), torch.zeros(2, 5, 2)), hand)


# Targets with gaps.


def by_hand(name, output, target, valid):
    """Each example's error over its valid points, in numpy; 0 without any."""
    found = []
    for o, t, v in zip(output.numpy(), target.numpy(), valid.numpy(), strict=True):
        d = (o - t)[v]
        size = np.sqrt((d**2).sum(-1))
        pieces = np.where(abs(d) <= 1, d**2 / 2, abs(d) - 0.5)
        value = {
            "J_IND_reg": lambda d=d: (d**2).sum(),
            "J_OOD_reg": lambda d=d: -abs(d).sum(),
            "point_error": size.mean,
            "worst_point": size.max,
            "absolute_error": lambda d=d: abs(d).mean(),
            "huber": pieces.mean,
        }[name]
        found.append(value() if v.any() else 0.0)
    return found


@pytest.mark.parametrize("name", ERRORS)
@settings(max_examples=60, deadline=None)
@given(
    flags=st.lists(st.booleans(), min_size=12, max_size=12), gap=st.sampled_from([math.nan, math.inf, 1e300])
)
def test_what_is_not_valid_counts_for_nothing(name, flags, gap):
    valid = torch.tensor(flags).reshape(3, 4)
    output, target = normal(3, 4, 2, scale=2), normal(3, 4, 2, seed=1, scale=2)
    target[~valid] = gap
    value, gradient = both(partial(ERRORS[name], valid=valid), output, target)
    np.testing.assert_allclose(value, by_hand(name, output, target, valid), rtol=1e-12)
    assert gradient.isfinite().all()
    assert (gradient[~valid] == 0).all()
    full = target.nan_to_num(0, 0, 0).where(valid[..., None], 0)
    again, slope = both(partial(ERRORS[name], valid=valid), output, full)
    assert torch.equal(again, value)
    assert torch.equal(slope, gradient)


def test_every_point_valid_is_as_without():
    output, target = normal(3, 4, 2).float(), normal(3, 4, 2, seed=1).float()
    for function in ERRORS.values():
        everything = torch.ones(3, 4, dtype=torch.bool)
        torch.testing.assert_close(function(output, target, valid=everything), function(output, target))


def test_valid_of_a_map_and_of_whole_examples():
    output, target = normal(2, 1, 4, 4), normal(2, 1, 4, 4, seed=1)
    valid = normal(2, 1, 4, 4, seed=2) > 0
    d = (output - target).abs()
    hand = torch.stack([d[n][valid[n]].mean() for n in range(2)])
    torch.testing.assert_close(absolute_error(output, target, valid=valid), hand)
    some = absolute_error(output, target, valid=torch.tensor([False, True]))
    torch.testing.assert_close(some, torch.stack([0 * hand[0], d[1].mean()]))


@pytest.mark.parametrize(
    ("valid", "error", "message"),
    [
        (torch.ones(3, 4), TypeError, "valid must be a bool tensor.*got torch.float32"),
        ([True], TypeError, "valid must be a bool tensor.*got list"),
        (torch.ones(3, 2, dtype=torch.bool), ValueError, r"\(B, K\).*got \(3, 2\) for \(3, 4, 2\)"),
        (torch.ones(1, 4, dtype=torch.bool), ValueError, r"got \(1, 4\)"),
        (torch.tensor(True), ValueError, r"got \(\)"),
    ],
)
def test_a_valid_that_does_not_fit_is_refused(valid, error, message):
    for function in ERRORS.values():
        with pytest.raises(error, match=message):
            function(torch.zeros(3, 4, 2), torch.zeros(3, 4, 2), valid=valid)


@pytest.mark.parametrize("gap", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ERRORS)
def test_a_target_with_gaps_is_refused_and_named(name, gap):
    output, target = normal(3, 5, 2), normal(3, 5, 2, seed=1)
    target[1, 2, 0] = gap
    with pytest.raises(
        ValueError, match=r"the target must be finite; got NaN or infinity for example 1: .*valid="
    ):
        ERRORS[name](output, target)
    elsewhere = torch.ones(3, 5, dtype=torch.bool)
    elsewhere[0, 0] = False
    with pytest.raises(ValueError, match=r"the target must be finite.*for example 1"):
        ERRORS[name](output, target, valid=elsewhere)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_mask_with_nan_is_refused_and_named(activation):
    output, target = normal(3, 2, 4, 4), torch.ones(3, 2, 4, 4)
    target[:, 1] = 0
    target[2, 0, 1, 1] = torch.nan
    numbers = target[:, 0]
    for function in (dice, soft_dice, cross_entropy, SharpenedDice(activation=activation)):
        bound = function if isinstance(function, SharpenedDice) else partial(function, activation=activation)
        for each in (target, numbers) if activation == "softmax" else (target,):
            with pytest.raises(ValueError, match=r"the target holds NaN in example 2.*ignore_index=255"):
                bound(output, each)
    ignored = dice(output[:, :1], target[:, :1].nan_to_num(255), ignore_index=255)  # as advised
    kept = output[2, 0].flatten()[torch.arange(16) != 5] > 0
    assert ignored[2].item() == pytest.approx((2 * kept.sum() / (kept.sum() + 15)).item())


class Keypoints(torch.nn.Module):
    """Five points of an image; counts how often it runs."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(64, 10)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x.flatten(1)).unflatten(1, (5, 2))


def test_attacks_stop_at_once_at_a_target_with_gaps_and_run_with_valid():
    net, x, y = (
        Keypoints().eval(),
        torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        normal(3, 5, 2).float(),
    )
    y[1, 2] = torch.nan
    threat = Threat(linf, 0.1)
    for attack in (
        partial(pgd_attack, objective=point_error, steps=100),
        partial(auto_attack, heads={"": points()}),
    ):
        net.calls = 0
        with pytest.raises(ValueError, match=r"the target must be finite.*for example 1.*valid="):
            attack(net, x, y, threat=threat)
        assert net.calls <= 2

    def there(output, target):
        return point_error(output, target, valid=target.isfinite().all(-1))

    found = auto_attack(net, x, y, heads={"": Task(there, "higher")}, threat=threat, budget=20)[""]
    with torch.no_grad():
        hand = by_hand("point_error", net(found.x), y, y.isfinite().all(-1))
    np.testing.assert_allclose(found.value, hand, rtol=1e-5)
    assert (found.value > found.clean).all()
