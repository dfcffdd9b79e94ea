"""Kernels that are laid out once: the same convolutions, by torch's own as the oracle."""

import copy
from collections import Counter
from functools import partial

import pytest
import torch
from networks import batch, two_heads
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode

from advreg import J_IND_reg, J_IND_seg, Keys, Threat, frozen, linf, on, pgd_attack
from advreg import packing as the_module
from advreg.objectives import normalised
from advreg.packing import packed
from advreg.perturbations import Adversary

pytestmark = pytest.mark.skipif(not the_module._available(), reason="needs oneDNN on an x86 processor")
RUN = ("mkldnn._convolution_pointwise", "mkldnn._convolution_transpose_pointwise")
LAID_OUT = ("mkldnn._reorder_convolution_weight", "mkldnn._reorder_convolution_transpose_weight")
LAYERS = {
    "plain": (nn.Conv2d, {}),
    "no bias": (nn.Conv2d, {"bias": False, "padding": 1}),
    "stride": (nn.Conv2d, {"stride": (2, 3), "padding": (1, 0)}),
    "dilation": (nn.Conv2d, {"dilation": 2, "padding": 2, "stride": 2}),
    "groups": (nn.Conv2d, {"groups": 2, "padding": 1}),
    "depthwise": (nn.Conv2d, {"groups": 8}),
    "circular": (nn.Conv2d, {"padding": 1, "padding_mode": "circular"}),
    "volume": (nn.Conv3d, {"stride": 2, "padding": 1}),
    "transposed": (nn.ConvTranspose2d, {}),
    "transposed, stride": (
        nn.ConvTranspose2d,
        {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)},
    ),
    "transposed, dilation": (nn.ConvTranspose2d, {"dilation": 2, "padding": 1, "bias": False}),
    "transposed, groups": (nn.ConvTranspose2d, {"groups": 4, "stride": 2}),
    "transposed, volume": (nn.ConvTranspose3d, {"stride": 2, "padding": 1, "output_padding": 1}),
}


@pytest.fixture(autouse=True)
def small_kernels_count(monkeypatch):
    monkeypatch.setattr(the_module, "LARGE", 1)


class Counting(TorchDispatchMode):
    """Counts torch's operators."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))

    def __getitem__(self, names):
        return sum(self.calls[name] for name in names)


def layer(name):
    kind, options = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(8, 16, 3, **options).requires_grad_(False)


def maps(net, count, side=7):
    size = [count, 8, side, side + 1] + [side - 1] * (net.weight.ndim - 4)
    return torch.randn(size, generator=torch.Generator().manual_seed(count))


def derivatives(net, x):
    """The output, its gradient, and the gradient of a function of the gradient."""
    x = x.clone().requires_grad_()
    output = net(x)
    (first,) = torch.autograd.grad(output.sin().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return output.detach(), first.detach(), second


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_derivatives_are_torchs_own(name):
    net = layer(name)
    inputs = [maps(net, 2), maps(net, 1), maps(net, 1, side=9)]  # one layout serves all sizes
    expected = [derivatives(net, x) for x in inputs]
    with packed(net, inputs[0], steps=10), Counting() as counting:
        found = [derivatives(net, x) for x in inputs]
    for some, others in zip(found, expected, strict=True):
        for one, other in zip(some, others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
            assert one.stride() == other.stride()
    assert counting[RUN] > 3 * len(inputs)
    assert counting[LAID_OUT] == 2  # forward and backward
    assert type(net.weight) is nn.Parameter


def unused(net, x):
    """Whether torch's own convolution has run."""
    with packed(net, x, steps=10), Counting() as counting:
        output = net(x)
    torch.testing.assert_close(output, net(x))
    return counting[RUN] == 0


def test_only_where_it_pays(monkeypatch):
    net = layer("plain")
    assert not unused(net, maps(net, 2, side=7))
    assert not unused(net, maps(net, 28, side=7))  # 28 * 5 * 6 places
    assert unused(net, maps(net, 35, side=7))
    with packed(net, maps(net, 2), steps=9):
        assert type(net.weight) is nn.Parameter
    monkeypatch.setattr(the_module, "SMALL", maps(net, 2).numel() - 1)
    assert unused(net, maps(net, 2))
    monkeypatch.setattr(the_module, "SMALL", 2**18)
    monkeypatch.setattr(the_module, "LARGE", net.weight.numel() + 1)
    assert unused(net, maps(net, 2))


def test_what_is_not_a_plain_convolution_in_float32_is_torchs():
    net, x = layer("plain"), maps(layer("plain"), 2)
    assert unused(copy.deepcopy(net).double(), x.double())
    assert unused(nn.Conv2d(8, 16, 1).requires_grad_(False), x)
    assert unused(nn.Conv2d(8, 16, 3, padding="same").requires_grad_(False), x)
    assert unused(net, x.contiguous(memory_format=torch.channels_last))
    assert unused(net, x[0])
    assert unused(net, x[:0])
    assert unused(copy.deepcopy(net).to(memory_format=torch.channels_last), x)
    assert unused(nn.Conv2d(8, 16, 3), x)  # its kernel is trained
    assert unused(parametrizations.weight_norm(nn.Conv2d(8, 16, 3)).requires_grad_(False), x)
    assert unused(lambda x: x + 1, x)
    torch._C._set_mkldnn_enabled(False)
    try:
        assert unused(net, x)
    finally:
        torch._C._set_mkldnn_enabled(True)
    with torch.autocast("cpu", torch.bfloat16):
        assert unused(net, x)


def test_a_bias_that_is_computed_keeps_its_gradient():
    class Biased(nn.Conv2d):
        def forward(self, x):
            return nn.functional.conv2d(x, self.weight, x.mean((0, 2, 3)).repeat(2))

    net, x = Biased(8, 16, 3).requires_grad_(False), maps(layer("plain"), 2)
    expected = derivatives(net, x)
    with packed(net, x, steps=10):
        found = derivatives(net, x)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_forward_may_transform_itself_or_its_kernel():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    class Sensitive(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer("plain")

        def forward(self, x):
            return torch.func.grad(lambda x: self.inner(x).square().sum())(x)

    for net in (Standardised(8, 16, 3).requires_grad_(False), Sensitive()):
        assert unused(net, maps(layer("plain"), 2))


def test_a_kernel_that_is_written_is_laid_out_again():
    class Growing(nn.Conv2d):
        def forward(self, x):
            with torch.no_grad():
                self.weight.mul_(2)
            return super().forward(x)

    net, x = Growing(8, 16, 3, bias=False).requires_grad_(False), maps(layer("plain"), 2)
    with packed(net, x, steps=10), Counting() as counting:
        torch.testing.assert_close(net(x) * 2, net(x))
    assert counting[LAID_OUT] == 2
    assert len(net(x)) == 2


def test_errors_are_torchs_own():
    net = layer("plain")
    for x in (torch.rand(2, 7, 7, 7), torch.rand(2, 8, 2, 2)):
        with pytest.raises(RuntimeError) as expected:
            net(x)
        with packed(net, x, steps=10), pytest.raises(RuntimeError) as found:
            net(x)
        assert str(found.value) == str(expected.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own, by compile
def test_what_is_compiled_is_left_alone():
    inner = layer("plain")
    compiled, itself = torch.compile(inner), layer("plain")
    itself._compiled_call_impl = lambda x: x
    model = nn.ModuleList([compiled, itself, layer("no bias")])
    with packed(model, torch.rand(1), steps=10):
        kinds = [type(one.weight) is nn.Parameter for one in (inner, itself, model[2])]
    assert kinds == [True, True, False]


def test_a_model_has_its_own_parameters_again():
    model, (x, _) = two_heads(), batch(2)
    own = dict(model.named_parameters())
    inside = {}

    def run():
        with frozen(model), packed(model, x, steps=10):
            inside.update(model.named_parameters())
            raise KeyError("mask")

    with pytest.raises(KeyError, match="mask"):
        run()
    assert any(inside[name] is not own[name] for name in own)
    assert all(isinstance(parameter, nn.Parameter) for parameter in inside.values())
    assert all(parameter is own[name] for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


OPTIONS = {"objective": on("mask", J_IND_seg), "threat": Threat(linf, 0.1), "steps": 10}


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_attacks_find_the_same(prune, precision):
    model, (x, y) = two_heads(), batch(3)
    attack = partial(pgd_attack, model, x, y, prune=prune, precision=precision, **OPTIONS)
    attack(pack=False)  # which cuts the model
    with Counting() as plain:
        expected = attack(pack=False)
    with Counting() as counting:
        found = attack()
    torch.testing.assert_close(found.x, expected.x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-5, atol=1e-6)
    assert plain[RUN] == 0
    assert counting[RUN] > 0
    kernels = sum(parameter.ndim == 4 and parameter[0, 0].numel() > 1 for parameter in model.parameters())
    assert counting[LAID_OUT] <= 2 * kernels


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint": (nn.Conv2d,)},
        {"micro_batch": 2, "restarts": 3},
        {"objective": normalised((1.0, on("mask", J_IND_seg)), (1.0, on("contour", J_IND_reg)))},
    ],
    ids=["checkpoint", "restarts", "two heads"],
)
def test_other_ways_to_attack_find_the_same(options):
    model, (x, y) = two_heads(), batch(3)
    attack = partial(pgd_attack, model, x, y, **(OPTIONS | options))
    expected = attack(pack=False)
    with Counting() as counting:
        found = attack()
    torch.testing.assert_close(found.value, expected.value, rtol=1e-4, atol=1e-5)
    assert counting[RUN] > 0


def test_adversarial_training_packs_too():
    model, (x, y) = two_heads(), batch(3)
    with Counting() as counting:
        Adversary(on("contour", J_IND_reg), Threat(linf, 0.1), steps=10)(
            model, x, y, Keys(0, torch.arange(3))
        )
    assert counting[RUN] >= 10 * 2
