"""What the engine costs: `pgd_attack` over loops written out by hand, on the paper's full-width network.

The hand-written loops take one forward pass and the gradient of the input alone per step, with parameters
that do not require gradients; they check nothing and keep nothing. "bare" is that and no more; "reporting"
evaluates the objective at the clean input and at the last iterate as well, as any loop must that is to say
what it achieved. The three run in every round, in turning order, and each ratio is taken within a round; the
table gives the median and the quartiles.

    python benchmarks/engine.py [--batch 8] [--steps 20] [--rounds 7] [--width 64]
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
    J_IND_reg,
    J_IND_seg,
    Steepest,
    Threat,
    __version__,
    l2,
    linf,
    on,
    pgd_attack,
    soft_dice,
)
from lumbar_disk.network import UNet

RADIUS = {"linf": 0.03, "l2": 2.0}
HEADS = {"contour": on("contour", J_IND_reg), "mask": on("mask", J_IND_seg)}


def by_hand(model, x, y, head, norm, steps, *, reporting):
    """Plain PGD as a user would write it, and with `reporting` the objective before and after."""
    radius, alpha = RADIUS[norm], RADIUS[norm] / 5

    def objective(output):
        if head == "contour":
            return (output["contour"] - y["contour"]).square().flatten(1).sum(1)
        return 1 - soft_dice(output["mask"], y["mask"])

    clean = last = None
    if reporting:
        with torch.no_grad():
            clean = objective(model(x))
    adversarial = x.clone()
    for _ in range(steps):
        adversarial.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(model(adversarial)).sum(), adversarial)
        with torch.no_grad():
            if norm == "linf":
                moved = adversarial + alpha * gradient.sign()
                adversarial = (x + (moved - x).clamp(-radius, radius)).clamp(0, 1)
            else:
                size = gradient.flatten(1).norm(dim=1)[:, None, None, None]
                d = adversarial + alpha * gradient / size - x
                d = d * (radius / d.flatten(1).norm(dim=1)[:, None, None, None]).clamp(max=1)
                adversarial = (x + d).clamp(0, 1)
    if reporting:
        with torch.no_grad():
            last = objective(model(adversarial)) - clean
    return adversarial, last


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(model, x, y, head, norm, rule, options):
    threat = Threat(linf if norm == "linf" else l2, RADIUS[norm])
    runs = {
        "bare": lambda: by_hand(model, x, y, head, norm, options.steps, reporting=False),
        "reporting": lambda: by_hand(model, x, y, head, norm, options.steps, reporting=True),
        "advreg": lambda: pgd_attack(
            model,
            x,
            y,
            objective=HEADS[head],
            threat=threat,
            rule=rule,
            steps=options.steps,
            random_start=False,
        ),
    }
    names = list(runs)
    rounds = []
    for number in range(options.rounds):
        order = names[number % 3 :] + names[: number % 3]
        times = {name: timed(runs[name]) for name in order}
        rounds.append({name: times["advreg"] / times[name] for name in ("reporting", "bare")})
        print(f"  {head} {norm} {type(rule).__name__} round {number + 1}: " + str(rounds[-1]), flush=True)
    quartiles = {name: statistics.quantiles([r[name] for r in rounds], n=4) for name in ("reporting", "bare")}
    return {"head": head, "norm": norm, "rule": type(rule).__name__, "quartiles": quartiles}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engine")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = UNet(width=options.width).eval().requires_grad_(requires_grad=False)
    x = torch.rand(options.batch, 1, 128, 128)
    y = {"contour": 128 * torch.rand(options.batch, 176, 2), "mask": (torch.rand_like(x) > 0.5).float()}
    by_hand(model, x, y, "mask", "linf", 2, reporting=True)  # warm up
    cases = [
        ("mask", "linf", Steepest(0.2)),
        ("contour", "linf", Steepest(0.2)),
        ("mask", "linf", Adamax(0.2)),
        ("mask", "l2", Steepest(0.2)),
    ]
    table = [measure(model, x, y, *case, options) for case in cases]

    lines = ["| head | norm | rule | over the reporting loop | over the bare loop |", "|---|---|---|---|---|"]
    for row in table:
        cells = [
            "{1:.3f} ({0:.3f} to {2:.3f})".format(*row["quartiles"][name]) for name in ("reporting", "bare")
        ]
        lines.append(f"| {row['head']} | {row['norm']} | {row['rule']} | " + " | ".join(cells) + " |")
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    setting = (
        f"advreg {__version__}, torch {torch.__version__}, {machine}; "
        f"width {options.width}, batch {options.batch}, {options.steps} steps, "
        f"{options.rounds} rounds; "
        "median (quartiles) of time ratios"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = f"{setting}\n\n" + "\n".join(lines) + "\n"
    options.out.with_suffix(".md").write_text(text)
    options.out.with_suffix(".json").write_text(
        json.dumps({"setting": setting, "table": table}, indent=1) + "\n"
    )
    print(text, f"wrote {options.out}.md and .json", sep="\n")


if __name__ == "__main__":
    main()
