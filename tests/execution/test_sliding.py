"""Sliding windows: values of MONAI, gradients of a loop that keeps every graph, memory of one window."""

import copy
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from advreg import Execution, J_IND_seg, Threat, auto_attack, dice, evaluate, linf, on, pgd_attack
from advreg.execution import SlidingWindow, frozen, heads, pruned
from advreg.tasks import masks

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def convs(dims, width=6, classes=2, *, last=1):
    """A small network without symmetry, whose output depends on where the window ends."""
    conv = CONVS[dims]
    torch.manual_seed(dims)
    layers = [conv(1, width, 3, padding=1), nn.Tanh(), conv(width, width, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, conv(width, classes, 1, stride=last)).eval()


def importance(size, mode, sigma=0.125):
    """The importance map, in numpy."""
    grids = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    exponent = sum((grid / (sigma * n)) ** 2 for grid, n in zip(grids, size, strict=True))
    return np.maximum(np.exp(-exponent / 2), 1e-3) if mode == "gaussian" else np.ones(size)


def by_loop(net, x, size, overlap, mode, batch=1):
    """All windows in a loop, their graphs kept: sum of weighted outputs over the sum of weights.

    For images no smaller than a window. Windows come in the order of images, then places.
    """
    starts = []
    for length, n in zip(x.shape[2:], size, strict=True):
        along = [0]
        while along[-1] + n < length:
            along.append(min(along[-1] + max(1, int(n * (1 - overlap))), length - n))
        starts.append(along)
    weight = torch.from_numpy(importance(size, mode)).to(x)
    total = torch.zeros(x.shape[2:], dtype=x.dtype)
    places = [
        (image, tuple(slice(at, at + n) for at, n in zip(start, size, strict=True)))
        for image in range(len(x))
        for start in product(*starts)
    ]
    for image, at in places:
        if image == 0:
            total[at] += weight
    sums = None
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        outputs = net(torch.stack([x[(image, slice(None), *at)] for image, at in some])).to(x.dtype)
        for output, (image, at) in zip(outputs, some, strict=True):
            spread = torch.zeros(len(x), len(output), *x.shape[2:], dtype=x.dtype)
            spread[(image, slice(None), *at)] = weight
            whole = torch.zeros_like(spread)
            whole[(image, slice(None), *at)] = 1
            padded = whole.masked_scatter(whole.bool(), output) * spread
            sums = padded if sums is None else sums + padded
    return sums / total


def compared(found, expected, share):
    """Equal relative to the largest entry."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= share * expected.abs().max()


CASES = [
    ((9,), (4,), 0.5),
    ((11, 8), (4, 6), 0.5),
    ((8, 8), (8, 8), 0.5),
    ((13, 9), (5, 4), 0.25),
    ((10, 12), (6, 5), 0.0),
    ((12, 7), (4, 4), 0.8),
    ((6, 8, 9), (4, 4, 5), 0.5),
]


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize(("spatial", "size", "overlap"), CASES)
@pytest.mark.parametrize("batch", [1, 4])
def test_values_and_gradients_are_those_of_a_loop_that_keeps_every_graph(spatial, size, overlap, mode, batch):
    net = convs(len(size)).double()
    x = torch.rand(2, 1, *spatial, dtype=torch.float64, requires_grad=True)
    wanted = by_loop(net, x, size, overlap, mode)
    found = SlidingWindow(net, size, overlap, mode=mode, batch=batch)(x)
    compared(found, wanted, 1e-6)  # the library's weights are float32
    weights = torch.randn_like(wanted)
    leaves = [x, *net.parameters()]
    expected = torch.autograd.grad((wanted * weights).sum(), leaves)
    for mine, theirs in zip(torch.autograd.grad((found * weights).sum(), leaves), expected, strict=True):
        compared(mine, theirs, 1e-6)


def test_in_float32_the_gradient_is_the_same_to_a_millionth():
    net = convs(3)
    x = torch.rand(1, 1, 12, 12, 12, requires_grad=True)
    outputs = [
        SlidingWindow(net, 8)(x),
        by_loop(net, x, (8, 8, 8), 0.5, "gaussian"),
    ]
    gradients = [torch.autograd.grad(J_IND_seg(o, (o > 0).float()).sum(), x)[0] for o in outputs]
    compared(outputs[0], outputs[1], 1e-6)
    compared(gradients[0], gradients[1], 1e-6)


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("spatial", "size", "overlap"),
    [*CASES, ((5, 20), (8, 8), 0.5), ((3, 5, 4), (4, 8, 6), 0.25), ((17, 16), (7, 7), 0.9)],
)
def test_values_are_those_of_monai(spatial, size, overlap, mode):
    net, x = convs(len(size)).double(), torch.rand(3, 1, *spatial, dtype=torch.float64)
    expected = sliding_window_inference(x, size, 2, net, overlap, mode=mode)
    compared(
        SlidingWindow(net, size, overlap, mode=mode, batch=5)(x), expected, 1e-6
    )  # the map is in float32


@pytest.mark.parametrize("padding", ["constant", "reflect", "replicate", "circular"])
def test_small_images_are_padded_as_monai_pads_them(padding):
    net, x = convs(2), torch.rand(2, 1, 9, 6)
    fill = 0.3 if padding == "constant" else 0.0
    expected = sliding_window_inference(x, (8, 9), 1, net, 0.5, padding_mode=padding, cval=fill)
    sliding = SlidingWindow(net, (8, 9), mode="constant", padding=padding, fill=fill)
    compared(sliding(x), expected, 1e-6)


class Scales(nn.Module):
    """Heads at the window's size, at half and at twice its resolution, in a structure."""

    def __init__(self):
        super().__init__()
        self.full, self.small = convs(2, classes=3), convs(2, last=2)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x):
        full = self.full(x)
        return {"full": full, "more": (self.small(x), self.up(full)), "note": "L4/L5", "none": None}


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("spatial", [(16, 20), (4, 14)])
def test_heads_at_other_scales_are_placed_as_monai_places_them(spatial, mode):
    net, x = Scales().double(), torch.rand(2, 1, *spatial, dtype=torch.float64, requires_grad=True)

    def leaf(number):
        return lambda x: (net(x)["full"], *net(x)["more"])[number]

    found = SlidingWindow(net, 8, mode=mode)(x)
    assert (found["note"], found["none"], type(found["more"])) == ("L4/L5", None, tuple)
    # each alone: MONAI resizes its map from one to the next
    expected = [sliding_window_inference(x, (8, 8), 1, leaf(n), 0.5, mode=mode) for n in range(3)]
    leaves = (found["full"], *found["more"])
    assert [leaf.shape[-1] for leaf in leaves] == [spatial[1], spatial[1] // 2, spatial[1] * 2]
    for mine, theirs in zip(leaves, expected, strict=True):
        compared(mine, theirs, 1e-6)
    mine, theirs = (
        torch.autograd.grad(sum(leaf.square().sum() for leaf in all_), x)[0] for all_ in (leaves, expected)
    )
    compared(mine, theirs, 1e-6)


def test_outputs_with_more_dimensions_or_without_channels():
    net = convs(2).double()
    x = torch.rand(2, 1, 9, 10, dtype=torch.float64)
    whole = SlidingWindow(net, 6)(x)
    assert torch.equal(SlidingWindow(lambda x: net(x)[:, 0], 6)(x), whole[:, 0])
    split = SlidingWindow(lambda x: net(x)[:, :, None].expand(-1, -1, 3, -1, -1), 6)(x)
    assert torch.equal(split, whole[:, :, None].expand(-1, -1, 3, -1, -1))


def test_volumes_with_time():
    x = torch.rand(1, 2, 5, 4, 6, 7, dtype=torch.float64)
    found = SlidingWindow(lambda x: x.cumsum(1), (3, 4, 4, 3))(x)
    compared(found, x.cumsum(1), 1e-12)


def test_an_example_alone_gives_what_it_gives_in_its_batch():
    net, x = convs(2).double(), torch.rand(3, 1, 11, 9, dtype=torch.float64)
    whole = SlidingWindow(net, 4, batch=7)(x)
    for number in range(3):
        alone = SlidingWindow(net, 4, batch=7)(x[number : number + 1])
        compared(alone, whole[number : number + 1], 1e-12)
    assert SlidingWindow(net, 4)(x[:0]).shape == (0, 2, 11, 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    x = torch.full((1, 1, 14, 13), 0.1, dtype=dtype, requires_grad=True)
    found = SlidingWindow(lambda x: x, 8, 0.9, mode="constant")(x)
    assert found.dtype == dtype
    assert torch.equal(found, x)
    (gradient,) = torch.autograd.grad(found.float().sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


# Training


class Whole(nn.Module):
    """The loop, as a network."""

    def __init__(self, net, size, overlap):
        super().__init__()
        self.net, self.options = net, (size, overlap, "gaussian", 2)

    def forward(self, x):
        return by_loop(self.net, x, *self.options)


def blocks(kind):
    conv = nn.Conv2d(1, 4, 3, padding=1)
    layers = {
        "batch norm": [conv, nn.BatchNorm2d(4)],
        "dropout": [conv, nn.Dropout(0.3)],
        "spectral norm": [nn.utils.parametrizations.spectral_norm(conv)],
    }[kind]
    return nn.Sequential(*layers, nn.Tanh(), nn.Conv2d(4, 2, 3, padding=1)).double().train()


@pytest.mark.parametrize("kind", ["batch norm", "dropout", "spectral norm"])
def test_training_gives_the_same_gradients_and_buffers(kind):
    torch.manual_seed(0)
    net, x = blocks(kind), torch.rand(2, 1, 9, 8, dtype=torch.float64)
    ways = [SlidingWindow(copy.deepcopy(net), 6, batch=2), Whole(copy.deepcopy(net), (6, 6), 0.5)]
    seen = []
    for way in ways:
        way.train()
        torch.manual_seed(1)
        for _ in range(2):
            way(x).square().mean().backward()
        seen.append([*(p.grad for p in way.parameters()), *(b.double() for b in way.buffers())])
    for mine, theirs in zip(*seen, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9)


def test_second_derivatives_are_right():
    net, x = convs(2).double(), torch.rand(1, 1, 8, 9, dtype=torch.float64, requires_grad=True)
    found = []
    for way in (SlidingWindow(net, 6), Whole(net, (6, 6), 0.5)):
        (slope,) = torch.autograd.grad(way(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [x, *list(net.parameters())[:-1]]))
    for mine, theirs in zip(*found, strict=True):
        compared(mine, theirs, 1e-6)


def test_whatever_else_the_network_reads_gets_its_gradient():
    gain = torch.tensor(2.0, requires_grad=True)
    output = SlidingWindow(lambda x: gain * x, 4)(torch.ones(1, 1, 6, 6))
    (slope,) = torch.autograd.grad(output.sum(), gain)
    assert slope.item() == pytest.approx(36)


def test_autocast_holds_in_the_backward_pass():
    net, x = convs(2), torch.rand(1, 1, 8, 8)
    found = []
    for way in (SlidingWindow(net, 6), Whole(net, (6, 6), 0.5)):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = way(x).float().square().sum()
        loss.backward()
        found.append([p.grad.clone() for p in net.parameters()])
    for mine, theirs in zip(*found, strict=True):
        compared(mine, theirs, 0.05)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute"
)  # torch's own, of compiling on a tensor that is no leaf
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_around_or_inside_it_gives_the_same(backend):
    net, x = convs(2).double(), torch.rand(1, 1, 8, 9, dtype=torch.float64, requires_grad=True)
    around = torch.compile(SlidingWindow(net, 6), backend=backend)
    inside = SlidingWindow(torch.compile(net, backend=backend), 6)
    expected = SlidingWindow(net, 6)(x)
    (slope,) = torch.autograd.grad(expected.square().sum(), x)
    for model in (around, inside):
        found = model(x)
        compared(found, expected, 1e-12)
        compared(torch.autograd.grad(found.square().sum(), x)[0], slope, 1e-12)


# Memory


class Meter(TorchDispatchMode):
    """The most bytes of tensors that were alive at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.alive.setdefault(storage.data_ptr(), (StorageWeakRef(storage), storage.nbytes()))
        self.alive = {key: held for key, held in self.alive.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return output


def peak(model, x):
    """Bytes of the input's gradient, with frozen parameters."""
    with frozen(model), Meter() as meter:
        x = x.clone().requires_grad_()
        output = model(x)
        torch.autograd.grad(J_IND_seg(output, torch.zeros_like(output)).sum(), x)
    return meter.peak


def test_the_peak_of_memory_is_about_that_of_one_window():
    net = convs(3, width=48, classes=1)
    window = peak(net, torch.rand(1, 1, 8, 8, 8))
    for side, windows in ((12, 8), (16, 27)):
        sliding = SlidingWindow(net, 8)
        x = torch.rand(1, 1, side, side, side)
        assert len(sliding._grid(x).places(1)) == windows
        assert peak(sliding, x) <= 1.3 * window
    assert peak(Whole(net, (8, 8, 8), 0.5), torch.rand(1, 1, 12, 12, 12)) > 4 * window  # it would be seen


# In the library


class Declares(nn.Module):
    """A mask, and key points that have no place in the image; its forward takes `heads`."""

    def __init__(self):
        super().__init__()
        self.mask, self.points, self.ran = convs(2, classes=1), nn.Linear(64, 4), []

    def forward(self, x, heads=("mask", "points")):
        self.ran.append(heads)
        parts = {"mask": lambda: self.mask(x), "points": lambda: self.points(x.flatten(1))}
        return {key: parts[key]() for key in heads}


THREAT = Threat(linf, 0.1)


def scene(count=2):
    torch.manual_seed(0)
    x = torch.rand(count, 1, 12, 10)
    return x, {"mask": (x > 0.5).float()}


def two_heads():
    """A mask and a map of half its size."""
    net = Scales().eval()
    return SlidingWindow(lambda x: {"mask": net.full(x)[:, :1], "half": net.small(x)}, 8)


@pytest.mark.parametrize("execution", [Execution(), Execution(prune=False), Execution(channels_last=True)])
def test_an_attack_is_that_on_the_loop(execution):
    net, (x, y) = convs(2, classes=1), scene()
    options = {"objective": J_IND_seg, "threat": THREAT, "steps": 3, "execution": execution}
    found = pgd_attack(SlidingWindow(net, (6, 6)), x, y["mask"], **options)
    expected = pgd_attack(Whole(net, (6, 6), 0.5), x, y["mask"], **options)
    assert torch.allclose(found.value, expected.value, rtol=1e-4)
    assert (found.gain > 0).all()


def test_everything_attacks_it_and_nothing_warns(recwarn):
    model, (x, y) = two_heads(), scene()
    before = copy.deepcopy(model.state_dict())
    objective = on("mask", J_IND_seg)
    for execution in (Execution(), Execution("bfloat16"), Execution(micro_batch=1), Execution(prune=False)):
        found = pgd_attack(model, x, y, objective=objective, threat=THREAT, steps=3, execution=execution)
        assert (found.gain > 0).all()
    worst = auto_attack(model, x, y, heads={"mask": masks()}, threat=THREAT, budget=12)["mask"]
    assert (worst.value <= worst.clean).all()
    table = evaluate(model, [(x, y)], {"mask": {"dice": dice}})
    assert len(table) == 2
    assert not recwarn.list
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_the_heads_that_are_read_are_placed_or_run():
    net, (x, y) = Declares().eval(), scene()
    sliding = SlidingWindow(net, 8)
    with pytest.raises(ValueError, match=r"the output\['points'\] must be .* got \(1, 4\)"):
        sliding(x)
    net.ran.clear()
    part = pruned(sliding, ["mask"], x)
    assert list(part(x)) == ["mask"]
    assert set(net.ran) == {("mask",)}
    plain = SlidingWindow(lambda x: dict(net(x)), 8)
    assert torch.equal(heads(plain, ["mask"])(x)["mask"], part(x)["mask"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pgd_attack(sliding, x, y, objective=on("mask", J_IND_seg), threat=THREAT, steps=2)
    assert (found.gain > 0).all()


def test_inside_a_larger_network_it_is_pruned_like_any_layer(recwarn):
    class Larger(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Conv2d(1, 1, 1)
            self.mask, self.other = SlidingWindow(convs(2, classes=1), 8), SlidingWindow(convs(2), 8)

        def forward(self, x):
            x = self.scale(x)
            return {"mask": self.mask(x), "other": self.other(x)}

    model, (x, _) = Larger().eval(), scene()
    runs = []
    model.other.net[0].register_forward_pre_hook(lambda *_: runs.append(1))
    part = pruned(model, ["mask"], x)
    assert torch.equal(part(x)["mask"], model(x)["mask"])
    assert not recwarn.list


def test_layers_parameters_and_modes_are_reached():
    net = convs(2)
    for model, name in (
        (SlidingWindow(net, 4), "net.0"),
        (SlidingWindow(lambda x: 2 * net(x), 4), "net.0.0"),
    ):
        assert model.get_submodule(name) is net[0]
        assert set(map(id, model.parameters())) == set(map(id, net.parameters()))
        assert not model.training
        model.train()
        assert net.training
        model.eval()
        assert not net[1].training
    assert "size=4, overlap=0.5, mode='gaussian', batch=1" in repr(SlidingWindow(net, 4))


def test_a_network_that_draws_or_keeps_state_is_told_as_ever():
    x, y = scene()
    model = SlidingWindow(lambda x: x + torch.randn_like(x), 8)
    with pytest.raises(ValueError, match="two passes on the same input differ"):
        pgd_attack(model, x, y["mask"], objective=J_IND_seg, threat=THREAT, steps=1)


def test_a_checkpoint_inside_changes_nothing():
    net, (x, y) = convs(2, classes=1), scene()
    model = SlidingWindow(nn.Sequential(net), 8)
    options = {"objective": J_IND_seg, "threat": THREAT, "steps": 2}
    plain = pgd_attack(model, x, y["mask"], **options)
    less = pgd_attack(model, x, y["mask"], execution=Execution(checkpoint=(nn.Sequential,)), **options)
    assert torch.equal(plain.x, less.x)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be whole"),
        ({"size": 4.0}, "size must be whole"),
        ({"size": (4, -1)}, r"size must be whole.*one for each spatial dimension; got \(4, -1\)"),
        ({"size": ()}, "size must be"),
        ({"overlap": 1.0}, r"overlap must be in \[0, 1\)"),
        ({"overlap": (0.5, -0.1)}, "overlap must be"),
        ({"batch": 0}, "batch must be"),
        ({"batch": True}, "batch must be"),
        ({"sigma": 0}, "sigma must be above 0"),
        ({"mode": "gauss"}, "mode must be 'gaussian' or 'constant'; got 'gauss'"),
        ({"padding": "zeros"}, "padding must be 'constant'.*got 'zeros'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(nn.Identity(), **{"size": 4, **options})


def test_something_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"net must be a torch.nn.Module, or a function; got 'unet'"):
        SlidingWindow("unet", 4)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda x: x.mean((2, 3)), r"must be \(N, C, \*spatial\) for windows of \(4, 4\); got \(1, 1\)"),
        (lambda x: {"points": x[:, 0, :, :2]}, r"the output\['points'\].*has no place in the image"),
        (lambda x: x.repeat(1, 3, 1, 1).movedim(1, -1), "looks like channels last: return output.movedim"),
        (lambda x: x > 0, "must be of floating point, so that windows can be blended; got torch.bool"),
        (lambda x: x[..., ::4], r"its scale 1 x 1/4 takes windows .* multiples of 4"),
        (lambda x: x[..., :3], "its scale 1 x 3/4"),
    ],
)
def test_outputs_that_cannot_be_placed_are_refused(net, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(net, 4)(torch.rand(1, 1, 6, 7))


def test_padding_that_ends_between_places_is_refused():
    with pytest.raises(ValueError, match="its scale 1/2 x 1/2 takes windows"):
        SlidingWindow(lambda x: x[..., ::2, ::2], 8)(torch.rand(1, 1, 5, 8))


def test_other_outputs_are_refused():
    x = torch.rand(1, 1, 6, 6)
    with pytest.raises(TypeError, match=r"the output\['loss'\] must be a tensor.*got float"):
        SlidingWindow(lambda x: {"mask": x, "loss": 1.0}, 4)(x)
    with pytest.raises(TypeError, match="net must return tensors; got NoneType"):
        SlidingWindow(lambda x: None, 4)(x)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (lambda x: {"a": x}, "the same structure for every window"),
        (lambda x: x[:, :0], r"one shape and dtype for all windows, \(1, 1, 4, 4\)"),
        (torch.Tensor.double, "one shape and dtype for all windows"),
    ],
)
def test_windows_that_differ_are_refused(later, message):
    functions = iter([lambda x: x, later])

    def net(x):
        return next(functions)(x)

    with pytest.raises(ValueError, match=message):
        SlidingWindow(net, 4)(torch.rand(1, 1, 6, 6))


@pytest.mark.parametrize(
    ("size", "shape", "message"),
    [
        (4, (6, 6), r"one spatial dimension or more.*got \(6, 6\)"),
        ((4, 4), (1, 6, 6), r"2 spatial dimensions.*got \(1, 6, 6\)"),
        ((4, 4), (1, 1, 6, 6, 6), "2 spatial dimensions"),
    ],
)
def test_inputs_of_other_dimensions_are_refused(size, shape, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(nn.Identity(), size)(torch.rand(shape))


def test_padding_that_torch_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"an image of \(2, 8\) cannot be padded to a window of \(8, 8\)"):
        SlidingWindow(nn.Identity(), 8, padding="reflect")(torch.rand(1, 1, 2, 8))
