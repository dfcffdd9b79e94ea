"""Honest networks and objectives of many kinds are attacked, without a word, and their values are right.

Each is attacked at once and in parts, with restarts; its values are those of each example alone.
"""

from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from networks import uniform
from torch import nn
from torch.nn import functional as F

from advreg import Execution, J_IND_reg, Threat, linf, pgd_attack

COUNT = 5


class Kind(NamedTuple):
    """A network and what is asked of it.

    Attributes:
        net: The network.
        x: Inputs.
        y: Their target.
        objective: What is ascended.
        share: How far values may be from those of one example alone, relative to the largest.
        still: Whether no gradient is to be expected.
    """

    net: Any
    x: torch.Tensor
    y: Any = None
    objective: Any = None
    share: float = 1e-5
    still: bool = False


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = make()
    return made.eval() if isinstance(made, nn.Module) else made


def images():
    return uniform(COUNT, 3, 8, 8)


def vectors():
    return uniform(COUNT, 6)


def sequences():
    return uniform(COUNT, 7, 4)


class Wrapped(nn.Module):
    """A layer, and a function of its output."""

    def __init__(self, layer, function):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x):
        return self.function(self.layer(x))


def after(function, layer=lambda: nn.Linear(6, 4)):
    """A linear layer and a function."""
    return Kind(seeded(lambda: Wrapped(layer(), function)), vectors())


def sequential(*layers, x=images, **options):
    return Kind(seeded(lambda: nn.Sequential(*layers)), x(), **options)


def squares(output, target):
    """The squares of all numbers of an output of one tensor, without a target."""
    del target
    return output.float().flatten(1).square().sum(1) if output[0].numel() else output.new_zeros(len(output))


# Networks


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.core = kind(4, 8, batch_first=True, bidirectional=True, num_layers=2)

    def forward(self, x):
        return self.core(x)[0][:, -1]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.core(x, x, x, need_weights=False)[0].mean(1)


class Tokens(nn.Module):
    """Numbers become tokens, whose embeddings are scaled by them."""

    def __init__(self):
        super().__init__()
        self.table = nn.EmbeddingBag(10, 4, mode="mean")
        self.words = nn.Embedding(10, 4)

    def forward(self, x):
        tokens = (9 * x.detach()).long()
        return self.table(tokens) + (self.words(tokens) * x[..., None]).sum(1)


class Grouped(nn.Module):
    """The batch inside the channels of a grouped convolution, as in weight demodulation."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x):
        style = x.mean((2, 3))
        weight = self.weight[None] * (1 + style[:, None, :, None, None])
        found = F.conv2d(x.reshape(1, -1, 8, 8), weight.flatten(0, 1), groups=len(x))
        return found.reshape(len(x), 4, -1).mean(2)


class Merged(nn.Module):
    """Time is folded into the batch and out again."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.flatten(0, 1)).unflatten(0, (len(x), -1)).mean(1)


class Cached(nn.Module):
    """Keeps what does not change: a grid by its size, made at the first call."""

    def __init__(self):
        super().__init__()
        self.grids, self.calls, self.layer = {}, 0, nn.Conv2d(5, 2, 3)

    def forward(self, x):
        self.calls += 1
        size = tuple(x.shape[2:])
        if size not in self.grids:
            self.grids[size] = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).float()
        return self.layer(torch.cat([x, self.grids[size].expand(len(x), -1, -1, -1)], 1)).mean((2, 3))


class Lazy(nn.Module):
    """Makes a buffer at its first call, as large as the batch, and larger ones when they are needed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("ones", None)
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        if self.ones is None or len(self.ones) < len(x):
            self.ones = x.new_ones(len(x), 1)
        return self.layer(x) + self.ones[: len(x)]


class Workspace(nn.Module):
    """Writes its outputs into memory that it keeps."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(6, 2), None

    def forward(self, x):
        self.last = self.layer(x)
        return self.last


class Checked(nn.Module):
    """Looks at values in Python: another way for each example."""

    def forward(self, x):
        return torch.stack([one.square() if float(one.detach().sum()) > 3 else one.sin() for one in x])


class Rounded(torch.autograd.Function):
    """Rounding, with a gradient passed straight through."""

    @staticmethod
    def forward(ctx, x):
        return (16 * x).round() / 16

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Scalar(nn.Module):
    """A temperature beside the outputs."""

    def __init__(self):
        super().__init__()
        self.layer, self.log = nn.Linear(6, 3), nn.Parameter(torch.tensor([0.5, 0.2]))

    def forward(self, x):
        return {"points": self.layer(x), "scales": self.log, "one": self.log[0]}


def conv():
    return nn.Conv2d(3, 4, 3)


def frequencies(x):
    spectrum = torch.fft.rfft(x, dim=1)
    return torch.cat([spectrum.abs(), spectrum.angle()], 1)


def complex_output(x):
    return torch.view_as_complex(x.unflatten(1, (-1, 2)))


def scripted():
    net = torch.jit.script(
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).eval()
    )
    return Kind(net, vectors())


def traced():
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    return Kind(torch.jit.trace(net, vectors()), vectors())


def compiled():
    return Kind(
        torch.compile(seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh())), backend="eager"), vectors()
    )


def exported():
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)))
    sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    return Kind(torch.export.export(net, (vectors(),), dynamic_shapes=sizes).module(), vectors())


def half(dtype):
    def squared(output, target):
        del target
        return output.float().square().sum(1)

    net = seeded(lambda: nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 4))).to(dtype)
    return Kind(net, vectors().to(dtype), None, squared, 0.05)


def low_inside():
    """A network that computes in half precision what it returns in single precision."""
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 4)))

    def run(x):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x).float()

    return Kind(run, vectors(), share=0.05)


def split_decisions():
    """A sigmoid so steep that it is 0 or 1 nearly everywhere."""
    return after(lambda x: torch.sigmoid(60 * x))


# Outputs


@dataclass
class Record:
    """An output."""

    points: torch.Tensor
    more: Any = None


class ModelOutput(OrderedDict):
    """A mapping with attributes and places."""

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


def selected(output):
    """As after non-maximum suppression: those of each image that score best, dropped where too low."""
    found = []
    for one in output.unflatten(1, (-1, 2)):
        order = one[:, 0].detach().argsort(descending=True)[:3]
        kept = one[order]
        found.append({"boxes": kept[kept[:, 0] > 0], "scores": kept[kept[:, 0] > 0, 0], "all": one})
    return found


def of_selected(output, target):
    del target
    return torch.stack(
        [one["boxes"].square().sum() + one["scores"].sum() + one["all"].sum() for one in output]
    )


def heads(make, read):
    net = seeded(lambda: Wrapped(nn.Linear(6, 4), make))
    return Kind(net, vectors(), None, lambda output, _: read(output).square().sum(1))


# Objectives


def objective(function, y=None, share=1e-5, still=False):
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)))
    return Kind(net, vectors(), y, function, share, still)


def loss_by_hand(output, target):
    """Cross-entropy of logits of a million: what rounding leaves of large numbers."""
    big = output + 1e6
    return big.logsumexp(1) - big.gather(1, target[:, None])[:, 0]


def distance_by_products(output, target):
    """Squared distances as differences of large products."""
    a, b = output + 30, target + 30
    return (a * a).sum(1) - 2 * torch.einsum("bi,bi->b", a, b) + (b * b).sum(1)


def own_answer(net, x):
    return net(x).detach()


def at_the_answer():
    """The target is the model's own answer, so that the clean value is zero."""
    kind = objective(lambda o, t: (o - t).square().sum(1))
    return kind._replace(y=own_answer(kind.net, kind.x))


KINDS = {
    "convolution": lambda: sequential(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "GroupNorm": lambda: sequential(conv(), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3)),
    "BatchNorm in eval mode": lambda: sequential(conv(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)),
    "InstanceNorm": lambda: sequential(conv(), nn.InstanceNorm2d(4), nn.ReLU(), nn.Flatten()),
    "LayerNorm": lambda: sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2), x=vectors),
    "dropout in eval mode": lambda: sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 2), x=vectors),
    "LSTM": lambda: Kind(seeded(lambda: Recurrent(nn.LSTM)), sequences()),
    "GRU": lambda: Kind(seeded(lambda: Recurrent(nn.GRU)), sequences()),
    "attention": lambda: Kind(seeded(Attention), sequences()),
    "transformer": lambda: Kind(
        seeded(lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)), sequences()
    ),
    "embedding": lambda: Kind(seeded(Tokens), vectors()),
    "grouped convolution over the batch": lambda: Kind(seeded(Grouped), images()),
    "time folded into the batch": lambda: Kind(seeded(Merged), sequences()),
    "cache that changes nothing": lambda: Kind(seeded(Cached), images()),
    "buffer made at the first call": lambda: Kind(seeded(Lazy), vectors()),
    "keeps its last output": lambda: Kind(seeded(Workspace), vectors()),
    "looks at values": lambda: Kind(Checked(), vectors()),
    "float16": lambda: half(torch.float16),
    "bfloat16": lambda: half(torch.bfloat16),
    "float64": lambda: Kind(seeded(lambda: nn.Linear(6, 2)).double(), vectors().double()),
    "half precision inside": low_inside,
    "complex inside": lambda: after(frequencies),
    "complex outputs": lambda: heads(complex_output, torch.view_as_real)._replace(
        objective=lambda o, _: o.abs().square().sum(1)
    ),
    "rounding": lambda: after(Rounded.apply),
    "steps and a line": lambda: after(lambda x: (4 * x).round() + 0.1 * x),
    "saturated sigmoid": split_decisions,
    "logits of a million": lambda: after(lambda x: 1e6 * x),
    "outputs of 1e-12": lambda: after(lambda x: 1e-12 * x),
    "one output larger by far": lambda: after(lambda x: x * x.new_tensor([1e6, 1.0, 1e-6, 1.0])),
    "argmax inside": lambda: after(lambda x: x * (1 + x.argmax(1, keepdim=True))),
    "sort inside": lambda: after(lambda x: x.sort(1).values),
    "top-k inside": lambda: after(lambda x: x.topk(2, 1).values),
    "softmax": lambda: after(lambda x: (30 * x).softmax(1)),
    "infinite logits": lambda: Kind(
        seeded(
            lambda: Wrapped(nn.Linear(6, 4), lambda x: x.masked_fill(x < x.amax(1, keepdim=True), -torch.inf))
        ),
        vectors(),
        None,
        lambda o, _: o.amax(1),
    ),
    "scripted": scripted,
    "traced": traced,
    "compiled": compiled,
    "exported with a free batch": exported,
    "a plain function": lambda: Kind(lambda x: x.square().cumsum(1), vectors()),
    "selected boxes": lambda: heads(selected, None)._replace(objective=of_selected),
    "a head without entries": lambda: heads(lambda x: (x, x[:, :0]), lambda o: torch.cat(o, 1)),
    "dict": lambda: heads(lambda x: {"a": x, "none": None, "text": "a"}, lambda o: o["a"]),
    "default dict": lambda: heads(lambda x: defaultdict(list, a=x), lambda o: o["a"]),
    "user dict": lambda: heads(lambda x: UserDict(a=x), lambda o: o["a"]),
    "dataclass": lambda: heads(Record, lambda o: o.points),
    "model output": lambda: heads(lambda x: ModelOutput(logits=x), lambda o: o.logits),
    "list of layers": lambda: heads(lambda x: [x, [x[:, :2], (x.square(),)]], lambda o: o[1][1][0]),
    "numbers beside": lambda: Kind(
        seeded(Scalar), vectors(), None, lambda o, _: o["points"].sum(1) * o["scales"].sum() * o["one"]
    ),
    "constant objective": lambda: objective(lambda o, _: 0 * o.sum(1) + 3, still=True),
    "zero everywhere": lambda: objective(lambda o, _: o.sum(1).clamp(min=99) - 99, still=True),
    "zero at the clean inputs": at_the_answer,
    "large less large": lambda: objective(loss_by_hand, torch.tensor([0, 1, 2, 3, 0]), share=0.3),
    "differences of products": lambda: objective(distance_by_products, uniform(COUNT, 4), share=1e-3),
    "objective of each": lambda: objective(lambda o, _: torch.stack([one.norm() for one in o])),
    "objective in float64": lambda: objective(lambda o, _: o.double().square().sum(1)),
    "negative": lambda: objective(lambda o, _: -o.square().sum(1)),
    "rank among its own": lambda: objective(lambda o, _: (o * o.argsort(1)).sum(1)),
    "detached in part": lambda: objective(
        lambda o, _: (o - o.detach().mean(1, keepdim=True) + o[:, :1]).sum(1)
    ),
}


def value_alone(kind, function, x):
    """Of each example, one at a time."""
    with torch.no_grad():
        return torch.cat(
            [
                function(kind.net(x[at : at + 1].clone()), None if kind.y is None else kind.y[at : at + 1])
                for at in range(len(x))
            ]
        )


def attacked(kind, **options):
    function = squares if kind.objective is None else kind.objective
    found = pgd_attack(
        kind.net, kind.x, kind.y, objective=function, threat=Threat(linf, 0.05), steps=3, **options
    )
    expected, clean = (value_alone(kind, function, x) for x in (found.x, kind.x))
    allowed = kind.share * float(expected.abs().max()) + 1e-30
    assert (found.value.double() - expected.double()).abs().max() <= allowed
    assert (found.value - found.gain - clean.to(found.value)).abs().max() <= 3 * allowed
    return found


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of the compiler's own
@pytest.mark.parametrize("parts", [None, 2], ids=["at once", "in parts"])
@pytest.mark.parametrize("name", KINDS)
def test_an_honest_kind_is_not_refused(name, parts):
    kind = KINDS[name]()
    options = {"restarts": 2, "execution": Execution(micro_batch=parts)}
    if kind.still:
        with pytest.warns(UserWarning, match="gradient is zero at every step"):
            attacked(kind, **options)
        return
    found = attacked(kind, **options)
    assert (found.gain >= 0).all()
    assert (found.gain > 0).any()


@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
def test_an_infinite_judge(infinity):
    net, x, y = seeded(lambda: nn.Linear(6, 4)), vectors(), uniform(COUNT, 4)
    limit = (net(x) - y).detach().square().sum(1).median()

    def judge(output, target):
        error = (output - target).square().sum(1)
        return torch.where(error > limit, infinity, error)

    with torch.no_grad():
        clean = judge(net(x), y)
    assert 0 < clean.isinf().sum() < COUNT
    found = pgd_attack(net, x, y, objective=J_IND_reg, judge=judge, threat=Threat(linf, 0.05), steps=3)
    with torch.no_grad():
        torch.testing.assert_close(found.value, judge(net(found.x), y))
    assert not found.gain.isnan().any()


@pytest.mark.parametrize("count", [1, 2, 9, 33])
def test_batches_of_any_size(count):
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)))
    x, y = uniform(count, 6), uniform(count, 2)
    found = pgd_attack(net, x, y, objective=J_IND_reg, threat=Threat(linf, 0.05), steps=2)
    torch.testing.assert_close(found.value, J_IND_reg(net(found.x), y).detach())


def test_a_network_on_large_images_of_which_one_differs_by_rounding():
    """Kernels for one image and for several add in another order."""
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 16, 7, padding=3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Tanh())
    )
    x = uniform(3, 3, 48, 48)
    found = pgd_attack(
        net,
        x,
        None,
        objective=lambda o, _: (o > 0.1).flatten(1).float().mean(1) + o.flatten(1).sum(1),
        threat=Threat(linf, 0.05),
        steps=1,
    )
    assert (found.gain >= 0).all()
