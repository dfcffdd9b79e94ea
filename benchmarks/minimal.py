"""The smallest radius at which a metric crosses a threshold: `critical_radius`, and adv-lib's attacks.

On the study's test discs and one of its trained networks, as `strength.py`: Dice of the mask below 0.7, point
error above 3 pixels. Each method gets the same passes, one forward pass and one gradient of the input for
each disc.

adv-lib's attacks know decisions alone, so they are bent:

- *crossed?*: the network becomes a classifier of whole images with logits `(m, 0)`, class 0 while the metric
  has not crossed: m is the metric less the threshold, with the gradient of a smooth objective. DDN and FMN
  then look for the smallest change of the decision that is asked about.
- *pixels of the disc*: PDPGD, PDGD and ALMA-prox of adv-lib's segmentation room, on class logits of pixels;
  successful where 47 % of the disc's pixels are lost, at which its Dice is below 0.7.

They need not return their best: every point that they evaluate is judged by the metric itself, and the
nearest that crossed counts. Settings of ours were chosen on discs of training patients.

    python benchmarks/minimal.py --study results/medium-spider [--model P10_std] [--discs 50]
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import adv_lib
from peers_views import STUDY, Counting, Pixels, seeded
from speed_table import setting
from torch import Tensor, nn
from trained import Heads, Study

from advreg import J_IND_seg, Threat, l2, linf
from advreg.attacks import critical_radius
from advreg.evaluation import written_whole
from advreg.objectives import absolute_error
from advreg.tasks import Task, masks, points
from advreg.threats import Norm

LOST = 0.47  # of the disc's pixels: 2 (1 - s) / (2 - s) < 0.7 for a share s above 0.462
HEADS: dict[str, tuple[Task, float, Callable, str]] = {
    "mask": (masks(), 0.7, J_IND_seg, "Dice of the mask below 0.7"),
    "contour": (points(), 3.0, absolute_error, "point error above 3 pixels"),
}
NORMS: dict[str, tuple[Norm, float, float]] = {"L2": (l2, 2.0, 40.0), "Linf": (linf, math.inf, 0.3)}
OURS = "critical_radius (ours)"


class Watched(nn.Module):
    """A network that notes, whenever it is run, how far from the clean images the nearest crossing is."""

    def __init__(self, net: nn.Module, x: Tensor, y: Heads, head: str, norm: Norm) -> None:
        super().__init__()
        self.net, self.x, self.y, self.head, self.norm = net, x, y, head, norm
        self.nearest = torch.full((len(x),), math.inf, dtype=torch.float64)

    def forward(self, x: Tensor) -> Heads:
        output = self.net(x)
        task, threshold, *_ = HEADS[self.head]
        with torch.no_grad():
            value = task.metric(output[self.head], self.y[self.head])
            inside = ((x >= 0) & (x <= 1)).flatten(1).all(1)
            crossed = inside & (task.sign * value > task.sign * threshold)
            distance = self.norm.size(x - self.x).double().where(crossed, math.inf)
            self.nearest = torch.minimum(self.nearest, distance)
        return output


class Crossed(nn.Module):
    """A classifier of images, `(m, 0)`: class 1 where the metric has crossed the threshold, `(B, 2)`."""

    def __init__(self, net: nn.Module, head: str, y: Heads) -> None:
        super().__init__()
        self.net, self.head, self.y = net, head, y

    def forward(self, x: Tensor) -> Tensor:
        task, threshold, objective, _ = HEADS[self.head]
        output, target = self.net(x)[self.head], self.y[self.head]
        hard = task.sign * (threshold - task.metric(output, target)).detach()
        soft = -objective(output, target)
        margin = hard + soft - soft.detach()
        return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def peers(head: str, norm: str) -> Iterator[tuple[str, Callable[[nn.Module, Tensor, Heads, int], Any]]]:
    """adv-lib's attacks for a head and a norm: by name, `(net, x, y, passes)`."""
    attacks, order = adv_lib(), NORMS[norm][1]

    def whole(attack: Callable, options: dict[str, Any], net: nn.Module, x: Tensor, y: Heads, passes: int):
        right = torch.zeros(len(x), dtype=torch.long)
        return attack(Crossed(net, head, y), x, right, steps=passes, **options)

    def pixels(attack: Callable, options: dict[str, Any], net: nn.Module, x: Tensor, y: Heads, passes: int):
        alma = attack is attacks.segmentation.alma_prox
        labels = y["mask"][:, 0].long()
        told = {"masks": labels > 0, "adv_threshold": LOST, "num_steps": passes, **options}
        if alma:
            told["constraint_masking"] = False  # it fails where 1 % of a structure is no pixel
        with torch.compiler.set_stance("force_eager"):
            return attack(Pixels(net, STUDY[0], third=alma), x, labels, **told)

    if norm == "L2":
        yield "DDN, crossed?", partial(whole, attacks.ddn, {"levels": None})
    yield "FMN, crossed?", partial(whole, attacks.fmn, {"norm": order})
    if head != "mask":
        return
    dense = attacks.segmentation
    yield "PDPGD, pixels of the disc", partial(pixels, dense.pdpgd, {"norm": order})
    if norm == "L2":
        yield "PDGD, pixels of the disc", partial(pixels, dense.pdgd, {})
    else:
        yield "ALMA-prox, pixels of the disc", partial(pixels, dense.alma_prox, {})


def measured(
    study: Study, model: str, discs: int, passes: tuple[int, ...], cells: Path
) -> dict[str, dict[str, Any]]:
    """The radii of each disc, by head, norm, method and passes; what is in `cells` is not made again."""
    found = json.loads(cells.read_text()) if cells.exists() else {}
    net, test = study.net(model), study.data.test
    x = test.images[:discs]
    y = {head: target[:discs] for head, target in test.target().items()}
    for head, (task, threshold, *_) in HEADS.items():
        for name, (norm, _, largest) in NORMS.items():
            methods = [(OURS, None), *peers(head, name)]
            for method, run in methods:
                for count in passes:
                    key = f"{head}|{name}|{method}|{count}"
                    if key in found:
                        continue
                    counting = Counting(net)
                    if run is None:
                        threat = Threat(norm, largest)
                        result = critical_radius(
                            counting, x, y, task, threshold, threat, head=head, budget=count
                        )
                        radii = result.radius
                    else:
                        watched = Watched(counting, x, y, head, norm)
                        with seeded(0):
                            run(watched, x, y, count)
                        radii = watched.nearest
                    # an attack of ours puts back what its network counts
                    spent = counting.gradients / len(x) if run else float(result.passes.double().mean())
                    found[key] = {"radii": radii.tolist(), "passes": spent}
                    print(f"{key}: median {radii.median():.4g}", flush=True)
                    with written_whole(cells) as file:
                        json.dump(found, file)
    return found


def table(found: dict[str, dict[str, Any]], passes: tuple[int, ...]) -> list[str]:
    """The medians, as Markdown."""
    lines = []
    for head, (*_, text) in HEADS.items():
        for norm in NORMS:
            kept = {key: one for key, one in found.items() if key.startswith(f"{head}|{norm}|")}
            methods = list(dict.fromkeys(key.split("|")[2] for key in kept))
            heads = [f"{count} passes: median | crossed | nearer than ours" for count in passes]
            lines += ["", f"## {text}, {norm}", "", f"| method | {' | '.join(heads)} |"]
            lines += ["|---|" + "---:|---:|---:|" * len(passes)]
            for method in methods:
                cells = []
                for count in passes:
                    radii, ours = (
                        torch.tensor(kept[f"{head}|{norm}|{one}|{count}"]["radii"], dtype=torch.float64)
                        for one in (method, OURS)
                    )
                    nearer = "" if method == OURS else f"{(radii < ours).double().mean():.0%}"
                    cells += [f"{radii.median():.4f}", f"{radii.isfinite().double().mean():.0%}", nearer]
                lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="a folder of `lumbar-disk study`")
    parser.add_argument("--model", default="P10_std")
    parser.add_argument("--discs", type=int, default=50, help="test discs, the first ones")
    parser.add_argument("--passes", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "minimal.md")
    args = parser.parse_args()
    passes = tuple(args.passes)
    cells = args.study / f"minimal-{args.model}-{args.discs}.json"
    found = measured(Study(args.study), args.model, args.discs, passes, cells)
    told = {
        "study": f"results/{args.study.name}",
        "model": args.model,
        "discs": args.discs,
        "passes": args.passes,
    }
    medians = (
        f"{args.model} of `{args.study.name}`, {args.discs} test discs. Medians over discs, smaller is "
        "stronger; of the peers the nearest crossing among all points that they evaluated."
    )
    text = [
        "# The smallest radius at which a metric crosses a threshold",
        "",
        medians,
        *table(found, passes),
        "",
        setting("minimal.py", told),
        "",
    ]
    with written_whole(args.out) as file:
        file.write("\n".join(text))


if __name__ == "__main__":
    main()
