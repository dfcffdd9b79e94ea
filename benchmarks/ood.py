"""What an out-of-distribution attack costs, and what is saved as finished examples leave the batch.

Cost: `ood_attack` with the paper's rule (Adamax on the normalised gradient, L2 ball, box) on the paper's
full-width network, over the same loop written out by hand, which takes one forward pass and the gradient of
the input alone per step, and the outputs to be matched before. Saving: the same attack with and without
conditions at which a pair is finished, on a narrow network trained for a minute on synthetic discs, from
uniform noise. Runs take turns within a round, and each ratio is taken within a round.

    python benchmarks/ood.py [--batch 8] [--steps 20] [--rounds 7] [--width 64]
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from advreg import (
    Adamax,
    J_OOD_reg,
    J_OOD_seg,
    Threat,
    __version__,
    l2,
    on,
    ood_attack,
    point_error,
    weighted,
)
from advreg.objectives import Within
from lumbar_disk import network, ood
from lumbar_disk.data import crops, phantoms
from lumbar_disk.network import UNet
from lumbar_disk.study import CLEAN
from lumbar_disk.virtual import ShapeModel, Stream

OBJECTIVE = weighted((0.01, on("contour", J_OOD_reg)), (1.0, on("mask", J_OOD_seg)))
RADIUS, ALPHA = 40.0, 0.01


def by_hand(model, x_in, x_out, steps):
    """Adamax on the normalised gradient, ball, box: as a user would write it."""
    with torch.no_grad():
        wanted = model(x_in)
        mask = (wanted["mask"] > 0).float()

    def objective(output):
        probability = output["mask"].sigmoid()
        overlap = 2 * (probability * mask).sum((1, 2, 3)) / (probability.sum((1, 2, 3)) + mask.sum((1, 2, 3)))
        return overlap - 0.01 * (output["contour"] - wanted["contour"]).abs().sum((1, 2))

    x = x_out.clone()
    mean, peak = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, steps + 1):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(model(x)).sum(), x)
        with torch.no_grad():
            direction = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
            mean = 0.9 * mean + 0.1 * direction
            peak = torch.maximum(0.999 * peak, direction.abs() + 1e-8)
            d = x + ALPHA * mean / ((1 - 0.9**step) * peak) - x_out
            d = d * (RADIUS / d.flatten(1).norm(dim=1)[:, None, None, None]).clamp(max=1)
            x = (x_out + d).clamp(0, 1)
    with torch.no_grad():
        return x, objective(model(x))


def ours(model, x_in, x_out, steps):
    return ood_attack(
        model,
        x_in,
        x_out,
        objective=OBJECTIVE,
        threat=Threat(l2, RADIUS),
        rule=Adamax(ALPHA, relative=False),
        steps=steps,
        random_start=False,
    )


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(runs, rounds):
    """The ratio of the first run's time to the second's, in each round."""
    ratios = []
    for number in range(rounds):
        names = list(runs) if number % 2 else list(runs)[::-1]
        times = {name: timed(runs[name]) for name in names}
        first, second = runs
        ratios.append(times[first] / times[second])
        print(f"  round {number + 1}: {times} ratio {ratios[-1]:.3f}", flush=True)
    return ratios


def trained():
    """A narrow network that finds synthetic discs."""
    discs = crops(phantoms(8, seed=1), size=64)
    stream = Stream(discs, ShapeModel.fit(discs.contours, 10), seed=0)

    def batch(step):
        samples = stream.at(torch.arange(32 * step, 32 * step + 32))
        return samples.images, samples.target(), samples.index

    net = network.untrained(8, 64, seed=0)
    network.fit(net, batch, lambda _: CLEAN, steps=200, decay=1 / 3, progress=True)
    return net, crops(phantoms(6, seed=2), size=64).images


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ood")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = UNet(width=options.width).eval().requires_grad_(requires_grad=False)
    x_in, x_out = torch.rand(2, options.batch, 1, 128, 128)
    (mine, _), found = by_hand(model, x_in, x_out, 2), ours(model, x_in, x_out, 2)
    apart = (mine - found.x).abs().max().item()
    print(f"after 2 steps the images differ by {apart:.1e} at most", flush=True)
    cost = interleaved(
        {
            "advreg": lambda: ours(model, x_in, x_out, options.steps),
            "by hand": lambda: by_hand(model, x_in, x_out, options.steps),
        },
        options.rounds,
    )

    net, discs = trained()
    noise = ood.partners(ood.made_images(len(discs), 64, 0), len(discs))["uniform"]
    match = {
        "contour": Within(on("contour", point_error), high=0.5),
        "mask": Within(on("mask", ood.masks_agree), low=0.95),
    }

    def attack(conditions):
        return ood_attack(
            net,
            discs,
            noise,
            objective=ood.JOINT,
            threat=Threat(l2, 20.0),
            rule=Adamax(ALPHA, relative=False),
            steps=400,
            random_start=False,
            match=conditions,
        )

    result = attack(match)
    saving = interleaved({"leaving": lambda: attack(match), "staying": lambda: attack(None)}, 3)
    share, steps = result.finished.float().mean().item(), result.step.float().mean().item()
    rows = {"ood_attack over the loop by hand": cost, "finished examples leave, over staying": saving}
    setting = (
        f"advreg {__version__}, torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} "
        f"threads; cost: width {options.width}, batch {options.batch}, {options.steps} steps, "
        f"{options.rounds} rounds; saving: width 8, 64 pixels, {len(discs)} pairs, 400 steps; "
        f"{100 * share:.0f} % matched to 0.5 pixels and Dice 0.95, the kept points at step {steps:.0f} on "
        f"average; median (range) of time ratios; images of both loops differ by {apart:.1e} after 2 steps"
    )
    lines = ["| what | ratio |", "|---|---|"]
    for name, ratios in rows.items():
        lines.append(f"| {name} | {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |")
    text = "\n".join([setting, "", *lines, ""])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(text)
    options.out.with_suffix(".json").write_text(
        json.dumps({"setting": setting, "ratios": rows}, indent=1) + "\n"
    )
    print(text, f"wrote {options.out}.md and .json", sep="\n")


if __name__ == "__main__":
    main()
