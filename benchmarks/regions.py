"""Attacks on masks: the members of `masks()` and others, one by one, on two synthetic sets of scenes.

One has eleven classes that exclude each other, the other one structure. A small network is trained for each.
Members were chosen on the images of another seed, on networks that were trained for less, for longer, and
against an adversary.

    python benchmarks/regions.py
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speed_table import setting
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.functional import cross_entropy as classes_cross_entropy

from advreg import Steepest, Threat, auto_attack, linf, negate, pgd_attack
from advreg.objectives import cross_entropy, masked_cross_entropy
from advreg.rules import Decayed, Shrinking
from advreg.tasks import Member, Task, masks

RESULTS = Path(__file__).parent / "results"
CLASSES, SIZE = 11, 24
BUDGETS = (20, 100)
REPORTED_ON = 3  # the seed of the images; 1 is that of training


def network(channels: int, heads: int, width: int = 16) -> nn.Sequential:
    """Three convolutions that see 15 pixels, and one of a pixel."""
    layers: list[nn.Module] = []
    for place, before in enumerate((channels, width, width)):
        layers += [nn.Conv2d(before, width, 3, padding=2**place, dilation=2**place), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, heads, 1))


def ellipse(g: torch.Generator, least: float, most: float) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    y, x = (torch.rand(2, generator=g) * SIZE).tolist()
    a, b = (least + (most - least) * torch.rand(2, generator=g)).tolist()
    return ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1


def many(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ellipses of ten classes on a background, each with a colour and a grating of its own."""
    g, own = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    colours = 0.1 + 0.8 * torch.rand(CLASSES, 3, generator=own)
    waves = 1.2 * torch.rand(CLASSES, 2, generator=own)
    y = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for image in y:
        for k in (1 + torch.randperm(CLASSES - 1, generator=g)[:6]).tolist():
            image[ellipse(g, 4, 9)] = k
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    grating = torch.sin(waves[:, :1, None] * rows + waves[:, 1:, None] * columns)  # (K, H, W)
    x = colours[y].movedim(-1, 1) + 0.12 * grating.expand(count, -1, -1, -1).gather(1, y[:, None])
    light = 0.04 * torch.randn(count, 3, 1, 1, generator=g)
    return (x + light + 0.06 * torch.randn(x.shape, generator=g)).clamp(0, 1), y


def one(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A bright ellipse among darker ones, grey and noisy."""
    g = torch.Generator().manual_seed(seed)
    x, y = torch.full((count, 1, SIZE, SIZE), 0.35), torch.zeros(count, 1, SIZE, SIZE)
    for image, mask in zip(x, y, strict=True):
        for _ in range(4):
            image[0, ellipse(g, 3, 6)] = 0.5
        inside = ellipse(g, 3, 8)
        image[0, inside], mask[0, inside] = 0.65, 1
    return (x + 0.08 * torch.randn(x.shape, generator=g)).clamp(0, 1), y


@dataclass(frozen=True)
class Scene:
    """A set of images, a network's loss on it, and the task."""

    name: str
    images: Callable[[int, int], tuple[Tensor, Tensor]]
    channels: int
    heads: int
    loss: Callable[[Tensor, Tensor], Tensor]
    task: Task
    options: dict[str, Any]
    radius: float


SCENES = (
    Scene(
        "eleven classes",
        many,
        3,
        CLASSES,
        classes_cross_entropy,
        masks(activation="softmax"),
        {"activation": "softmax"},
        0.05,
    ),
    Scene("one structure", one, 1, 1, binary_cross_entropy_with_logits, masks(), {}, 0.05),
)


def trained(scene: Scene, steps: int = 1000) -> nn.Module:
    torch.manual_seed(0)
    net, (x, y) = network(scene.channels, scene.heads), scene.images(256, 1)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(steps):
        some = slice(step % 16 * 16, step % 16 * 16 + 16)
        optimiser.zero_grad()
        scene.loss(net(x[some]), y[some]).backward()
        optimiser.step()
    return net.eval().requires_grad_(requires_grad=False)


def others(options: dict[str, Any]) -> Iterator[Member]:
    """What the field ascends; the first is the one to beat."""
    signs, radius = Decayed(Steepest(2.0)), Shrinking()
    yield Member("cross-entropy, shrinking radius", partial(cross_entropy, **options), signs, radius)
    balanced = partial(masked_cross_entropy, balanced=True, **options)
    yield Member("balanced cross-entropy of right pixels, shrinking radius", balanced, signs, radius)


def table(scene: Scene, seed: int, count: int) -> Iterator[str]:
    net, (x, y) = trained(scene), scene.images(count, seed)
    threat, metric = Threat(linf, scene.radius), scene.task.metric
    with torch.no_grad():
        clean = metric(net(x), y).mean().item()
    yield f"\n## {scene.name.capitalize()}\n\nClean Dice {clean:.3f}; Linf {scene.radius}; {count} images.\n"
    yield "| attack | 20 passes | 100 |\n|---|---:|---:|"
    members = [("member", member) for member in scene.task.members]
    for kind, member in [*members, *(("", other) for other in others(scene.options))]:
        values = [
            pgd_attack(
                net,
                x,
                y,
                objective=member.objective,
                threat=threat,
                rule=member.rule,
                schedule=member.schedule,
                steps=steps,
                judge=negate(metric),
            ).value
            for steps in BUDGETS
        ]
        cells = " | ".join(f"{-value.mean().item():.3f}" for value in values)
        yield f"| {kind}{': ' if kind else ''}{member.name} | {cells} |"
    found = [
        auto_attack(net, x, y, heads={"": scene.task}, threat=threat, budget=budget)[""].value.mean().item()
        for budget in BUDGETS
    ]
    yield f"| **`auto_attack`** | {' | '.join(f'**{value:.3f}**' for value in found)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=REPORTED_ON, help="of the images that are attacked")
    parser.add_argument("--count", type=int, default=16, help="images")
    parser.add_argument("--out", type=Path, default=RESULTS / "regions.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    text = [
        "# Attacks on masks\n",
        "Mean hard Dice after an attack, lower is stronger.",
        f"{setting('regions.py', {'seed': chosen.seed, 'count': chosen.count})}.",
    ]
    for scene in SCENES:
        for line in table(scene, chosen.seed, chosen.count):
            print(line, flush=True)
            text.append(line)
    chosen.out.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
