"""The damage that each member of each task does alone, and that of `auto_attack`, on small trained networks.

For every task that `advreg.tasks` has for a kind of head, beside masks and outlines (`strength.py`), a small
network is trained in seconds on data that scikit-learn or scikit-image ships. Its members attack alone and
together, each with the same passes. The order of the members, and their settings, were chosen on the images
of `--images chosen`; the table is of others, `--images table`.

    python benchmarks/heads.py
    python benchmarks/heads.py --images chosen --tasks labels maps
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import skimage.data
import sklearn.datasets
import torch
from speed_table import setting
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool2d,
    binary_cross_entropy_with_logits,
    cross_entropy,
    grid_sample,
    interpolate,
)

from advreg import Threat, auto_attack, linf
from advreg.tasks import Task, classes, heatmaps, labels, maps, points, values

PARTS = ("training", "chosen", "table")


@dataclass(frozen=True)
class Case:
    """A head, the data for it, cut into `PARTS`, and how it is trained and attacked."""

    task: Task
    radius: float
    data: Callable[[str], tuple[Tensor, Tensor]]
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    what: str


# Data


def digits(part: str, size: int = 8) -> tuple[Tensor, Tensor]:
    """Images `(N, 1, size, size)` in [0, 1] and their digits."""
    found = sklearn.datasets.load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    rows = {"training": slice(0, 1400), "chosen": slice(1400, 1464), "table": slice(1733, 1797)}[part]
    return interpolate(x[rows], (size, size), mode="bilinear"), torch.tensor(found.target)[rows]


def traits(part: str) -> tuple[Tensor, Tensor]:
    """Digits, and whether they are even, prime, 5 or more, have a loop, are multiples of three."""
    x, digit = digits(part)
    sets = ([0, 2, 4, 6, 8], [2, 3, 5, 7], [5, 6, 7, 8, 9], [0, 6, 8, 9], [0, 3, 6, 9])
    return x, torch.stack([torch.isin(digit, torch.tensor(one)) for one in sets], 1).long()


def moments(part: str) -> tuple[Tensor, Tensor]:
    """Digits, and the share of ink, its centre and its spread, in pixels."""
    x, _ = digits(part)
    ink, place = x[:, 0] / x.sum((1, 2, 3))[:, None, None], torch.arange(8.0)
    across, down = (ink.sum(1) * place).sum(1), (ink.sum(2) * place).sum(1)
    spread = (ink.sum(1) * (place - across[:, None]) ** 2).sum(1).sqrt()
    return x, torch.stack([10 * x.mean((1, 2, 3)), across, down, spread], 1)


def extremes(part: str) -> tuple[Tensor, Tensor]:
    """Digits of 12 x 12, and their centre and highest, lowest, leftmost and rightmost points, (x, y)."""
    x, _ = digits(part, 12)
    down, across = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    place = torch.stack([across, down], -1).flatten(0, 1)
    inked = (x[:, 0] > 0.5).flatten(1)
    centre = (inked.float() @ place) / inked.sum(1, keepdim=True)
    keys = (-down - across / 100, down + across / 100, -across - down / 100, across + down / 100)
    far = [place[key.flatten().masked_fill(~inked, -99).argmax(1)] for key in keys]
    return x, torch.stack([centre, *far], 1)


def pairs(part: str, flow: Tensor) -> Tensor:
    """Pairs of patches of photographs, (N, 2, 16, 16), the second moved by a flow, (N, 2, 16, 16)."""
    names = {"training": ("camera", "brick"), "chosen": ("grass",), "table": ("gravel",)}[part]
    chance, side = torch.Generator().manual_seed(PARTS.index(part)), flow.shape[2]
    found = []
    for name, some in zip(names, flow.chunk(len(names)), strict=True):
        image = avg_pool2d(torch.tensor(getattr(skimage.data, name)()).float()[None] / 255, 3)[0]
        height, width = image.shape
        top, left = (
            torch.randint(4, length - side - 4, (len(some), 1, 1), generator=chance)
            for length in (height, width)
        )
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        place = torch.stack([columns + left, rows + top], -1).float()
        size, whole = torch.tensor([width, height]), image.expand(len(some), 1, -1, -1)
        frames = [
            grid_sample(whole, 2 * (at + 0.5) / size - 1, align_corners=False)
            for at in (place, place + some.movedim(1, -1))
        ]
        found.append(torch.cat(frames, 1).clamp(0, 1))
    return torch.cat(found)


def smooth(part: str, channels: int) -> Tensor:
    """Smooth random maps (N, channels, 16, 16), of a mean of 0 and a deviation of about 0.7."""
    chance = torch.Generator().manual_seed(7 + PARTS.index(part))
    coarse = torch.randn(1200 if part == "training" else 32, channels, 3, 3, generator=chance)
    return interpolate(coarse, (16, 16), mode="bicubic", align_corners=True)


def stereo(part: str) -> tuple[Tensor, Tensor]:
    """Pairs of patches, the second moved to the side, and by how much, in pixels; 0 in unknown rows."""
    disparity = (1.5 + 0.6 * smooth(part, 1)).clamp(min=0.3)
    x = pairs(part, torch.cat([disparity, 0 * disparity], 1))
    known = torch.ones_like(disparity)
    known[:, :, :2] = 0
    return x, (known * disparity)[:, 0]


def moving(part: str) -> tuple[Tensor, Tensor]:
    """Pairs of patches, the second moved by a smooth flow, and the flow."""
    flow = 0.8 * smooth(part, 2)
    return pairs(part, flow), flow


# Networks


def vector(outputs: int, size: int) -> nn.Module:
    """Convolutions, then numbers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * (size // 2) ** 2, 64), nn.ReLU(), nn.Linear(64, outputs),
    )  # fmt: skip


def dense(inputs: int, outputs: int) -> nn.Module:
    """Convolutions that see far, at one resolution."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, 16, 3, padding=1), nn.ReLU()]
    for dilation in (2, 4):
        layers += [nn.Conv2d(16, 16, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, outputs, 3, padding=1))


def cells(y: Tensor) -> Tensor:
    """The nearest cell of each point, row by row."""
    x, down = y.round().long().clamp(0, 11).unbind(-1)
    return 12 * down + x


def gaussians(y: Tensor) -> Tensor:
    """Heat maps, (N, K, 12, 12), of height 1 and a width of 1.5 cells."""
    place = torch.arange(12.0)
    across, down = (torch.exp(-((y[..., one, None] - place) ** 2) / 4.5) for one in (0, 1))
    return down[..., None] * across[..., None, :]


def traits_net() -> nn.Module:
    return vector(5, 8)


def stereo_net() -> nn.Module:
    return nn.Sequential(dense(2, 1), nn.Softplus())


def labels_loss(output: Tensor, y: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(output, y.float())


def depth_loss(output: Tensor, y: Tensor) -> Tensor:
    return ((output[:, 0] - y).abs() * (y > 0)).sum() / (y > 0).sum()


CASES = {
    "classes": Case(
        classes(), 0.15, digits, lambda: vector(10, 8), cross_entropy, "digit of an image, accuracy"
    ),
    "labels": Case(
        labels(), 0.1, traits, traits_net,
        labels_loss, "five traits of a digit, share right",
    ),
    "labels, F1": Case(
        labels(score="f1"), 0.1, traits, traits_net,
        labels_loss, "the same, F1",
    ),
    "values": Case(
        values(), 0.05, moments, lambda: vector(4, 8), lambda o, y: (o - y).abs().mean(),
        "ink, centre and spread of a digit, mean absolute error",
    ),
    "points": Case(
        points(), 0.05, extremes, lambda: nn.Sequential(vector(10, 12), nn.Unflatten(1, (5, 2))),
        lambda o, y: (o - y).abs().mean(), "five points of a digit, pixels",
    ),
    "heatmaps, logits": Case(
        heatmaps(), 0.05, extremes, lambda: dense(1, 5),
        lambda o, y: cross_entropy(o.flatten(2).flatten(0, 1), cells(y).flatten()),
        "the same points, maps trained by cross-entropy, pixels",
    ),
    "heatmaps, Gaussians": Case(
        heatmaps(), 0.05, extremes, lambda: dense(1, 5), lambda o, y: 10 * (o - gaussians(y)).square().mean(),
        "the same points, maps trained by squares, pixels",
    ),
    "maps, abs_rel": Case(
        maps(), 0.03, stereo, stereo_net, depth_loss,
        "disparity of a stereo pair, absolute relative error",
    ),
    "maps, delta": Case(
        maps("delta"), 0.03, stereo, stereo_net, depth_loss,
        "the same, share within 1.25",
    ),
    "maps, rmse": Case(
        maps("rmse", valid=lambda target: target > 0), 0.03, stereo,
        stereo_net, depth_loss, "the same, root mean square, pixels",
    ),
    "maps, end_point_error": Case(
        maps("end_point_error"), 0.03, moving, lambda: dense(2, 2), lambda o, y: (o - y).square().mean(),
        "flow of two frames, pixels",
    ),
}  # fmt: skip


# Measuring


@cache
def trained(
    data: Callable[[str], tuple[Tensor, Tensor]],
    make: Callable[[], nn.Module],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
) -> nn.Module:
    """The network after so many steps of Adam."""
    torch.manual_seed(0)
    model, (x, y) = make(), data("training")
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(steps):
        some = torch.randint(len(x), (64,))
        optimiser.zero_grad()
        loss(model(x[some]), y[some]).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def attacked(model: nn.Module, x: Tensor, y: Tensor, task: Task, radius: float, budget: int) -> Tensor:
    """The metric of each example, clean and worst, `(2, N)`."""
    found = auto_attack(model, x, y, heads={"": task}, threat=Threat(linf, radius), budget=budget)[""]
    return torch.stack([found.clean, found.value])


def order(task: Task, alone: list[Tensor]) -> list[str]:
    """Members by what each adds to those before it, beginning with the strongest."""
    left, damage, best, names = set(range(len(alone))), [task.sign * one for one in alone], None, []
    while left:
        gains = {
            place: (damage[place] if best is None else damage[place].maximum(best)).mean().item()
            for place in left
        }
        place = max(gains, key=lambda one: (gains[one], damage[one].mean().item()))
        best = damage[place] if best is None else damage[place].maximum(best)
        left.remove(place)
        names.append(task.members[place].name)
    return names


def table(name: str, case: Case, part: str, budgets: list[int], steps: int) -> str:
    """The rows of one task."""
    task, model, (x, y) = case.task, trained(case.data, case.model, case.loss, steps), case.data(part)
    rows, longest = {}, []
    for member in task.members:
        each = [
            attacked(model, x, y, replace(task, members=(member,)), case.radius, budget) for budget in budgets
        ]
        rows[member.name] = [one[1].mean().item() for one in each]
        longest.append(each[-1][1])
    whole = [attacked(model, x, y, task, case.radius, budget) for budget in budgets]
    clean = whole[0][0].mean().item()
    about = f"{len(x)} images, Linf {case.radius:g}; clean {clean:.3f}, {task.worse} is worse\n"
    text = [
        f"## {name}: {case.what}\n",
        about,
        f"| member | {' | '.join(f'{budget} passes' for budget in budgets)} |",
        f"|---|{'---:|' * len(budgets)}",
    ]
    text += [f"| {key} | {' | '.join(f'{mean:.3f}' for mean in means)} |" for key, means in rows.items()]
    means = " | ".join(f"**{one[1].mean().item():.3f}**" for one in whole)
    text.append(f"| **auto_attack** | {means} |")
    if part == "chosen":
        text.append(f"\nBy what each adds to those before it: {'; '.join(order(task, longest))}")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", choices=PARTS[1:], default="table")
    parser.add_argument("--tasks", nargs="+", default=list(CASES), help="those whose names begin so")
    parser.add_argument("--budgets", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "heads.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    told = setting("heads.py", {"images": options.images, "budgets": options.budgets, "steps": options.steps})
    versions = f"scikit-learn {sklearn.__version__} and scikit-image {skimage.__version__}"
    text = ["# Attacks on heads beside masks and contours\n", f"{told}; data of {versions}.\n"]
    for name, case in CASES.items():
        if name.startswith(tuple(options.tasks)):
            text.append(table(name, case, options.images, options.budgets, options.steps))
            print(text[-1], flush=True)
    if options.images == "table":
        options.out.write_text("\n".join(text), encoding="utf-8")
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
