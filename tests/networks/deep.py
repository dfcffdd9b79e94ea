"""A network whose blocks keep much for the backward pass, one of them in vain."""

import torch
from torch import nn

from networks import TwoHeads


class Block(nn.Module):
    """Keeps much more than its input."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh()) for _ in range(5))
        )

    def forward(self, x, scale=1.0):
        return x + scale * self.inside(x)


class Deep(TwoHeads):
    def __init__(self, *, nested=False):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(Block()) if nested else Block() for _ in range(4))
            self.unread = Block()

    def forward(self, x):
        code = self.encoder(x)
        for block in self.blocks:
            code = block(code)
        return {"contour": self.contour(code.flatten(1)), "mask": self.mask(code), "more": self.unread(code)}
