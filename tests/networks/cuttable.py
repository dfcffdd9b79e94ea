"""Models with parts to leave out, and what holds of a part; shared by the tests of pruning."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from advreg._core.trees import head
from advreg.execution import pruned


class Convolutions(TorchDispatchMode):
    """Count convolutions and matrix products, of whatever runs them."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.convolution, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


def cost(model, x):
    with Convolutions() as counter, torch.no_grad():
        model(x)
    return counter.count


def assert_agree(part, model, x, *keys):
    """Heads and input gradients are bit for bit the whole model's."""
    seen = []
    for run in (part, model):
        point = x.clone().requires_grad_()
        output = run(point)
        found = [head(output, key, "output") for key in keys]
        gradient = torch.autograd.grad(sum(value.square().sum() for value in found), point)[0]
        seen.append((*found, gradient))
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def assert_cuts(model, x, *keys, cost_of_part=None):
    """A cut is found, silently; it runs less, agrees, and serves any number of examples."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = pruned(model, keys, x)
    assert part is not model
    assert set(part(x)) == set(keys)
    for some in (x, x[:1], torch.cat([x, x.flip(-1)])):
        assert_agree(part, model, some, *keys)
    assert cost(part, x) < cost(model, x)
    if cost_of_part is not None:
        assert cost(part, x) == cost_of_part
    return part


def assert_left_alone(model, x, *keys, because):
    with pytest.warns(
        UserWarning, match=rf"(?s)cannot be cut automatically: .*{because}.*heads=.*prune=False"
    ):
        assert pruned(model, keys, x) is model
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert pruned(model, keys, x) is model


def conv(inputs=2, outputs=2, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Net(nn.Module):
    """An encoder and two decoders, whose forward is a function `(net, x) -> output`."""

    def __init__(self, forward=None, **modules):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder, self.contour, self.mask = conv(), conv(), conv()
        for name, module in modules.items():
            setattr(self, name, module)
        self.way = forward
        self.eval()

    def forward(self, x):
        if self.way is not None:
            return self.way(self, x)
        code = self.encoder(x).relu()
        return {"contour": self.contour(code), "mask": self.mask(code)}


def images(count=3, size=8, channels=2):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


class SkipNet(nn.Module):
    """A U-net with skips, odd sizes padded, normalisation, writes in place, two decoders; no heads=."""

    def __init__(self, dim=2, width=4):
        super().__init__()
        layer, norm = (nn.Conv2d, nn.BatchNorm2d) if dim == 2 else (nn.Conv3d, nn.BatchNorm3d)
        pool = nn.MaxPool2d if dim == 2 else nn.MaxPool3d
        with torch.random.fork_rng():
            torch.manual_seed(0)

            def block(inputs, outputs):
                return nn.Sequential(
                    layer(inputs, outputs, 3, padding=1), norm(outputs), nn.ReLU(inplace=True)
                )

            self.down = nn.ModuleList([block(1, width), block(width, 2 * width)])
            self.pool = pool(2)
            self.bottom = block(2 * width, 2 * width)
            self.up = nn.ModuleList([block(4 * width, width), block(2 * width, width)])
            self.mask = layer(width, 1, 1)
            self.depth = nn.Sequential(block(2 * width, width), layer(width, 1, 1))
            self.points = nn.Linear(2 * width, 6)
        self.eval()

    def forward(self, x):
        if x.shape[1] != 1:
            raise ValueError("one channel")
        skips, y = [], x
        for down in self.down:
            y = down(y)
            skips.append(y)
            y = self.pool(y)
        code = y = self.bottom(y)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            y = F.interpolate(y, scale_factor=2)
            if y.shape[2:] != skip.shape[2:]:
                y = F.interpolate(y, size=skip.shape[2:])
            y = up(torch.cat([y, skip], 1))
        points = self.points(code.flatten(2).mean(2)).view(x.shape[0], -1, 2)
        return {"points": points, "mask": self.mask(y), "depth": self.depth(code)}


class Stubborn(nn.Module):
    def forward(self, x):
        rows = [row * (2.0 if float(row.mean()) > 0.5 else 3.0) for row in x]
        return torch.stack(rows)


class Blocked(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            scale = x.mean((1, 2, 3), keepdim=True)
        return x * scale


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Reversed(nn.Module):
    def forward(self, x):
        return Reversal.apply(x)


class Picky(nn.Module):
    def forward(self, x):
        return x * 2 if isinstance(x, torch.Tensor) else x


class Keeps(nn.Module):
    def forward(self, x):
        self.last = x
        return x * 2
