"""What adversarial training costs: one step of L_adv_rs on the paper's network, against the naive way.

Naive is how such a step is often written, and how the paper's released code does it: two attacks on the whole
network whose parameters require gradients, `backward` for the input's gradient, and a training pass for each
of the three batches. Both do the same steps from the same starts; the adversarial images are compared. They
run in every round, in turning order, and each ratio is taken within a round; the table gives the median and
the quartiles.

    python benchmarks/training.py [--batch 8] [--steps 20] [--rounds 5] [--width 64]
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from advreg import J_IND_reg, J_IND_seg, Keys, Steepest, Threat, __version__, linf, on
from advreg.training import L_adv_rs
from lumbar_disk.network import UNet, loss

RADIUS, ALPHA = 0.07, 0.01
OBJECTIVES = {"reg": on("contour", J_IND_reg), "seg": on("mask", J_IND_seg)}


def naive(model, x, y, starts, steps):
    """Two whole attacks with `backward`, then three passes."""
    found = []
    for name, objective in OBJECTIVES.items():
        adversarial = starts[name].clone()
        for _ in range(steps):
            adversarial.requires_grad_()
            objective(model(adversarial), y).sum().backward()
            with torch.no_grad():
                moved = adversarial + ALPHA * adversarial.grad.sign()
                adversarial = (x + (moved - x).clamp(-RADIUS, RADIUS)).clamp(0, 1)
        found.append(adversarial.detach())
    model.zero_grad()
    reg, seg = found
    total = (
        0.5 * loss(model(x), y).mean() + 0.25 * loss(model(reg), y).mean() + 0.25 * loss(model(seg), y).mean()
    )
    total.backward()
    return total.item(), [parameter.grad.clone() for parameter in model.parameters()]


def ours(model, x, y, steps):
    threat, rule = Threat(linf, RADIUS), Steepest(ALPHA, relative=False)
    model.zero_grad()
    total, _ = L_adv_rs(loss, **OBJECTIVES, threat=threat, rule=rule, steps=steps)(model, x, y, seed=0)
    total.backward()
    return total.item(), [parameter.grad.clone() for parameter in model.parameters()]


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = UNet(width=options.width)
    x = torch.rand(options.batch, 1, 128, 128)
    y = {"contour": 128 * torch.rand(options.batch, 176, 2), "mask": (torch.rand_like(x) > 0.5).float()}
    keys = Keys(0, torch.arange(options.batch))
    starts = {
        name: Threat(linf, RADIUS).sample(x, keys.fold_in(number)) for number, name in enumerate(OBJECTIVES)
    }
    (mine, my_gradients), (theirs, their_gradients) = ours(model, x, y, 2), naive(model, x, y, starts, 2)
    flat, other = (
        torch.cat([g.flatten().double() for g in grads]) for grads in (my_gradients, their_gradients)
    )
    cosine = torch.nn.functional.cosine_similarity(flat, other, dim=0).item()
    agreement = f"after 2 steps the loss is {mine:.4f} and {theirs:.4f}, the gradients' cosine {cosine:.4f}"
    print(agreement, flush=True)
    runs = {
        "naive": lambda: naive(model, x, y, starts, options.steps),
        "advreg": lambda: ours(model, x, y, options.steps),
    }
    ratios = []
    for number in range(options.rounds):
        names = list(runs) if number % 2 else list(runs)[::-1]
        times = {name: timed(runs[name]) for name in names}
        ratios.append(times["advreg"] / times["naive"])
        print(f"  round {number + 1}: {times} ratio {ratios[-1]:.3f}", flush=True)
    low, median, high = statistics.quantiles(ratios, n=4)
    setting = (
        f"advreg {__version__}, torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} "
        f"threads, float32; width {options.width}, batch {options.batch}, {options.steps} attack steps, "
        f"{options.rounds} rounds; median (quartiles) of time ratios; {agreement}"
    )
    table = (
        f"| step | over the naive step |\n|---|---|\n| L_adv_rs | {median:.3f} ({low:.3f} to {high:.3f}) |\n"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(f"{setting}\n\n{table}")
    options.out.with_suffix(".json").write_text(
        json.dumps({"setting": setting, "ratios": ratios}, indent=1) + "\n"
    )
    print(table, f"wrote {options.out}.md and .json", sep="\n")


if __name__ == "__main__":
    main()
