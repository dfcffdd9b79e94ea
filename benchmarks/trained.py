"""The test discs and the trained networks of a study, for benchmarks that need real ones."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advreg import contour_dice, dice, point_error
from lumbar_disk.data import Prepared, load
from lumbar_disk.network import untrained

Heads = dict[str, Tensor]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@dataclass(frozen=True)
class Study:
    """The study's test discs and trained networks."""

    folder: Path

    @cached_property
    def data(self) -> Prepared:
        return load(self.folder / "data.npz")

    def weights(self, model: str) -> Path:
        return self.folder / "models" / model / "weights.pt"

    def net(self, model: str) -> nn.Module:
        recipe = read(self.folder / "study.json")["recipe"]
        net = untrained(recipe["width"], recipe["size"], recipe["seed"])
        net.load_state_dict(torch.load(self.weights(model), weights_only=True)["net"])
        return net.eval().requires_grad_(requires_grad=False)


def measured(net: nn.Module, x: Tensor, y: Heads, head: str) -> dict[str, list[float]]:
    """Each metric of a head, example by example."""
    with torch.no_grad():
        output = net(x)[head]
    if head == "mask":
        return {"dice": dice(output, y[head]).tolist()}
    size = (x.shape[-2], x.shape[-1])
    return {
        "point_error": point_error(output, y[head]).tolist(),
        "contour_dice": contour_dice(output, y[head], size=size).tolist(),
    }
