"""Features of layers of every layout, against numpy."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from advreg.detectors import MahalanobisDetector, NearestNeighbourDetector, aware
from advreg.metrics import auroc


@dataclass
class ModelOutput(OrderedDict):
    """As those of transformers are: a mapping with fields."""

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None

    def __post_init__(self):
        for name in ("last_hidden_state", "pooler_output"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)


class Layer(nn.Module):
    """A layer with parameters that returns its output in some form."""

    def __init__(self, shape, wrap):
        super().__init__()
        self.weight = nn.Linear(10, int(np.prod(shape))).double()
        self.shape, self.wrap = shape, wrap

    def forward(self, x):
        return self.wrap(self.weight(x).tanh().unflatten(1, self.shape))


class Net(nn.Module):
    def __init__(self, shape, wrap=lambda out: out):
        super().__init__()
        torch.manual_seed(0)
        self.layer = Layer(shape, wrap)

    def forward(self, x):
        self.layer(x)
        return x


def inputs(count, seed=1):
    return torch.randn(count, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def raw(net, x):
    with torch.no_grad():
        return net.layer.weight(x).tanh().reshape(-1, *net.layer.shape).numpy()


def mahalanobis(known, found):
    """The distances, with a covariance shrunk by a tenth."""
    sample = np.cov(known.T, bias=True)
    covariance = 0.9 * sample + 0.1 * np.trace(sample) / len(sample) * np.eye(len(sample))
    apart = found - known.mean(0)
    return np.sqrt(np.einsum("bi,ij,bj->b", apart, np.linalg.inv(covariance), apart))


def neighbour(known, found):
    known, found = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (known, found))
    return np.sort(np.linalg.norm(found[:, None] - known[None], axis=2), axis=1)[:, 2]


TOKENS, SWIN, VIDEO, SIGNAL, MAP = (6, 5), (4, 4, 7), (3, 4, 4, 9), (5, 6), (8, 4, 6)
LAYOUTS = [
    (TOKENS, {"channels": -1}, lambda out: out.mean(1)),
    (TOKENS, {"channels": 2}, lambda out: out.mean(1)),
    (TOKENS, {"pool": "cls"}, lambda out: out[:, 0]),
    (TOKENS, {"pool": "cls", "channels": -1}, lambda out: out[:, 0]),
    (TOKENS, {"pool": lambda tokens: tokens[:, 1:].amax(1)}, lambda out: out[:, 1:].max(1)),
    (SIGNAL, {"channels": 1}, lambda out: out.mean(2)),
    (SIGNAL, {"channels": -2}, lambda out: out.mean(2)),
    (SWIN, {"channels": -1}, lambda out: out.mean((1, 2))),
    (SWIN, {"channels": 1}, lambda out: out.mean((2, 3))),
    (VIDEO, {"channels": -1}, lambda out: out.mean((1, 2, 3))),
    (VIDEO, {"channels": 3}, lambda out: out.mean((1, 2, 4))),
    (MAP, {}, lambda out: out.mean((2, 3))),
    (MAP, {"channels": 1}, lambda out: out.mean((2, 3))),
    ((5,), {}, lambda out: out),
    ((5,), {"channels": -1}, lambda out: out),
]


@pytest.mark.parametrize(("shape", "options", "pooled"), LAYOUTS)
def test_each_layout_gives_the_features_that_numpy_gives(shape, options, pooled):
    net, seen, x = Net(shape), inputs(40), inputs(6, seed=2)
    known, found = pooled(raw(net, seen)), pooled(raw(net, x))
    batches = [seen[:25], (seen[25:], "target")]
    distance = MahalanobisDetector(net, "layer", 0.1, **options).fit(batches)
    np.testing.assert_allclose(distance.score(x), mahalanobis(known, found), rtol=1e-7)
    nearest = NearestNeighbourDetector(net, "layer", 3, **options).fit(batches)
    np.testing.assert_allclose(nearest.score(x), neighbour(known, found), rtol=1e-7)
    for detector in (distance, nearest):
        alone = torch.cat([detector.score(x[place : place + 1]) for place in range(6)])
        torch.testing.assert_close(alone, detector.score(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("wrap", "options"),
    [
        (lambda out: (out,), {}),
        (lambda out: [out], {}),
        (lambda out: {"out": out, "none": None}, {}),
        (ModelOutput, {}),
        (ModelOutput, {"head": "last_hidden_state"}),
        (lambda out: ModelOutput(out, out[:, 0]), {"head": "last_hidden_state"}),
        (lambda out: (out[:, :1], out), {"head": 1}),
        (lambda out: [out[:, :1], out], {"head": -1}),
        (lambda out: {"low": out[:, :1], "high": {"a": out}}, {"head": "high"}),
        (lambda out: (out, [out]), {"pool": lambda found: found[1][0].mean(1)}),
    ],
)
def test_the_tensor_is_found_in_a_structure(wrap, options):
    if "pool" not in options:
        options = {"channels": -1, **options}
    net, seen, x = Net(TOKENS, wrap), inputs(40), inputs(6, seed=2)
    detector = MahalanobisDetector(net, "layer", 0.1, **options).fit([seen])
    expected = mahalanobis(raw(net, seen).mean(1), raw(net, x).mean(1))
    np.testing.assert_allclose(detector.score(x), expected, rtol=1e-7)


def test_tokens_of_a_transformer_tell_strange_inputs_from_ordinary_ones():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    net = nn.Sequential(nn.Linear(4, 32), encoder, nn.LayerNorm(32)).eval()
    shifts = ((400, 0.0), (100, 0.0), (100, 1.5))
    seen, x_in, x_out = (0.3 * torch.randn(n, 6, 4) + shift for n, shift in shifts)
    strange = torch.arange(200) >= 100

    def area(**options):
        detector = MahalanobisDetector(net, "2", **options).fit([seen])
        return auroc(torch.cat([detector.score(x_in), detector.score(x_out)]), strange)

    assert area(channels=-1) > 0.999
    assert area(pool="cls") > 0.99
    assert area(channels=1) < 0.8  # tokens taken for channels


def test_the_gradient_reaches_the_input_through_every_pool():
    for options in ({"channels": -1}, {"pool": "cls"}, {"pool": lambda tokens: tokens.amax(1)}):
        net = Net(TOKENS)
        detector = MahalanobisDetector(net, "layer", **options).fit([inputs(30)])
        x = inputs(3, seed=2).requires_grad_()
        score = aware(net, detector)(x)["score"]
        (gradient,) = torch.autograd.grad(score.sum(), x)
        assert (gradient != 0).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(dtype):
    net = Net((300, 4), lambda out: out.to(dtype))
    x = inputs(20)
    detector = NearestNeighbourDetector(net, "layer", 3, channels=-1).fit([x])
    assert detector.bank.dtype == torch.float32
    with torch.no_grad():
        means = net.layer(x).double().mean(1)
    expected = means / means.norm(dim=1, keepdim=True)
    torch.testing.assert_close(detector.bank.double(), expected, rtol=1e-5, atol=1e-6)


def first_token(tokens):
    return tokens[:, 0]


@pytest.mark.parametrize(
    "kind", [partial(MahalanobisDetector, shrinkage=0.1), partial(NearestNeighbourDetector, k=2)]
)
def test_files_keep_how_features_were_read(kind, tmp_path):
    x = inputs(5, seed=2)
    for number, options in enumerate(({"head": 1, "channels": -1}, {"head": 1, "pool": "cls"})):
        net = Net(TOKENS, lambda out: (out[:, :1], out))
        detector = kind(net, "layer", **options).fit([inputs(30)])
        back = kind.func.load(detector.save(tmp_path / f"{number}.npz"), net)
        assert (back.head, back.channels, back.pool) == (detector.head, detector.channels, detector.pool)
        assert torch.equal(back.score(x), detector.score(x))
        with pytest.raises(ValueError, match=r"pooled by a word.*leave pool= out"):
            kind.func.load(tmp_path / f"{number}.npz", net, pool=first_token)
    net = Net(TOKENS)
    detector = kind(net, "layer", pool=first_token).fit([inputs(30)])
    path = detector.save(tmp_path / "function.npz")
    with pytest.raises(ValueError, match=r"pooled by first_token; got pool=None: pass pool=first_token"):
        kind.func.load(path, net)
    assert torch.equal(kind.func.load(path, net, pool=first_token).score(x), detector.score(x))


def scored(shape, wrap=lambda out: out, **options):
    return MahalanobisDetector(Net(shape, wrap), "layer", **options).fit([inputs(9)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: scored(TOKENS),
            r"'layer' returns \(9, 6, 5\).*channels=-1 for 6 tokens of 5.*channels=1 for 6 channels at 5 pl",
        ),
        (
            lambda: scored(SWIN),
            r"\(9, 4, 4, 7\).*channels=-1 for 7 channels at 4 x 4 places.*channels=1 for 4 channels at 4 x 7",
        ),
        (lambda: scored((7, 5, 24)), r"two ways"),
        (lambda: scored(VIDEO), r"two ways.* 9 channels at 3 x 4 x 4 places"),
        (lambda: scored(TOKENS, channels=0), r"not 0, the batch; got 0"),
        (lambda: scored(TOKENS, channels="last"), "got 'last'"),
        (lambda: scored(TOKENS, channels=3), r"a dimension of what the layer 'layer' returns.*got 3"),
        (lambda: scored(TOKENS, channels=-3), "after the batch; got -3"),
        (lambda: scored(TOKENS, pool="clas"), "pool must be 'mean' or 'cls'; got 'clas'.*function"),
        (lambda: scored(TOKENS, pool="cls", channels=1), r'pool="cls" takes the first of the tokens'),
        (lambda: scored(SWIN, pool="cls"), r'"cls".*returns \(9, 4, 4, 7\).*take pool="mean"'),
        (lambda: scored((5,), pool="cls"), r'"cls".*returns \(9, 5\)'),
        (lambda: scored(TOKENS, pool=torch.Tensor.mean), r"features \(B, D\) with B = 9 .* got \(\)"),
        (lambda: scored(TOKENS, pool=lambda out: out), r"got \(9, 6, 5\)"),
        (lambda: scored(TOKENS, pool=lambda out: None), "got NoneType"),
        (
            lambda: scored(TOKENS, lambda out: ModelOutput(out, out[:, 0]), channels=-1),
            r"ModelOutput with 2, \{'last_hidden_state': \(9, 6, 5\).*head='last_hidden_state'",
        ),
        (lambda: scored(MAP, lambda out: [out, out]), r"list with 2, \{0: .*say which, head=0"),
        (lambda: scored(MAP, lambda out: [out, out], head=2), r"has no head 2; it is a list with heads"),
        (lambda: scored(MAP, lambda out: "mask"), "got str: choose a layer inside"),
        (lambda: scored(MAP, lambda out: out[0]), r"with B = 9; got \(8, 4, 6\)"),
    ],
)
def test_what_cannot_be_told_is_refused(call, message):
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        call()


def test_maps_of_convolutions_need_nothing_said():
    for shape in ((8, 4, 4), (64, 6, 4), (3, 9, 9), (16, 4, 8, 8), (4, 4, 4)):
        assert scored(shape).mean.shape == shape[:1]
