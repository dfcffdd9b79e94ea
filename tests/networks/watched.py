"""A network to watch over and the detectors that several tests share."""

import torch
from torch import nn

from advreg import J_IND_reg, on
from advreg.detectors import (
    DisagreementDetector,
    MahalanobisDetector,
    NearestNeighbourDetector,
    ReconstructionDetector,
)
from networks import notes


class Net(nn.Module):
    """A contour (B, 3, 2) and a reconstruction of an image (B, 1, 6, 6), with features of 4 channels."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh())
        self.noise = nn.Sequential(nn.Dropout2d(0.3), nn.Dropout(0.3))
        self.contour, self.reconstruction = nn.Linear(4 * 36, 6), nn.Conv2d(4, 1, 1)

    @property
    def runs(self):
        return len(notes(self))

    def forward(self, x, heads=("contour", "reconstruction")):
        notes(self).append(1)
        code = self.noise(self.encoder(x))
        found = {}
        if "contour" in heads:
            found["contour"] = self.contour(code.flatten(1)).unflatten(1, (3, 2))
        if "reconstruction" in heads:
            found["reconstruction"] = self.reconstruction(code)
        return found


def net(dtype=torch.float64, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Net().to(dtype)
        model(torch.rand(9, 1, 6, 6, dtype=dtype))  # statistics that are not those of a new BatchNorm
    notes(model).clear()
    return model.eval()


def images(count, seed=1, dtype=torch.float64):
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)


KINDS = {
    "reconstruction": ReconstructionDetector,
    "root mean square": lambda model: ReconstructionDetector(model, norm="l2"),
    "mahalanobis": lambda model: MahalanobisDetector(model, "encoder").fit([images(20)]),
    "neighbour": lambda model: NearestNeighbourDetector(model, "encoder.0", k=3).fit([images(20)]),
    "dropout": lambda model: DisagreementDetector(model, on("contour", J_IND_reg), samples=3),
    "ensemble": lambda model: DisagreementDetector([model, net(seed=5)], on("contour", J_IND_reg)),
}


def spoilt(value):
    x = images(6)
    x[4, 0, 0, 0] = value
    return x
