"""What the check of an attack's assumptions costs: its share of the time of an attack.

`pgd_attack` on the paper's full-width network, each head, with a metric without a gradient as judge and
without one. The clock runs inside the attack: the whole call, the check in it, and, of the check, the pass of
the clean batch, whose values the attack needs anyway where it begins at a random point.

    python benchmarks/assumptions.py [--batch 16] [--steps 20] [--rounds 5] [--width 64]
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from speed_table import setting
from speed_work import HEADS, RADIUS, data

from advreg import Threat, dice, linf, negate, on, pgd_attack, point_error
from advreg.execution import running
from lumbar_disk.network import UNet

JUDGES = {"mask": negate(on("mask", dice)), "contour": on("contour", point_error)}


@contextmanager
def clocked(net: UNet, x: torch.Tensor) -> Iterator[list[tuple[float, float]]]:
    """The seconds of each check, and of the passes of the clean batch in it."""
    with running(net, None, x) as network:
        kind = type(network)
    own, times = kind.examine, []

    def timed(self, batch, functions, *, resized):
        starts, passes = [], []
        before = net.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))

        def after(_, inputs, __):
            if sum(count for count, _ in passes) < len(batch.x):
                passes.append((len(inputs[0]), time.perf_counter() - starts[-1]))

        after = net.register_forward_hook(after)
        start = time.perf_counter()
        try:
            found = own(self, batch, functions, resized=resized)
        finally:
            before.remove(), after.remove()
        times.append((time.perf_counter() - start, sum(seconds for _, seconds in passes)))
        return found

    kind.examine = timed
    try:
        yield times
    finally:
        kind.examine = own


def shares(net, x, y, head, judge, options):
    """The share of an attack's time that its check takes beyond the clean pass, and with it."""
    with clocked(net, x) as times:
        start = time.perf_counter()
        pgd_attack(net, x, y, objective=HEADS[head], judge=judge, threat=Threat(linf, RADIUS), **options)
        whole = time.perf_counter() - start
    ((check, clean),) = times
    return (check - clean) / whole, check / whole


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(0)
    net, (x, y) = UNet(width=options.width).eval(), data(options.batch)
    rows = []
    settings = [(head, judged) for head in HEADS for judged in (False, True)]
    found = {setting: [] for setting in settings}
    for number in range(options.rounds):
        for head, judged in settings if number % 2 else settings[::-1]:
            judge = JUDGES[head] if judged else None
            found[head, judged].append(shares(net, x, y, head, judge, {"steps": options.steps}))
            print(f"  round {number + 1}: {head}, judge {judged}: {found[head, judged][-1]}", flush=True)
    for (head, judged), measured in found.items():
        beyond, whole = (statistics.median(column) for column in zip(*measured, strict=True))
        rows.append({"head": head, "judge": "yes" if judged else "no", "beyond": beyond, "whole": whole})
    told = setting("assumptions.py", vars(options))
    lines = [
        "# The check of an attack's assumptions",
        "",
        f"{told}. Medians of the rounds.",
        "",
        "| head | judge | of an attack's time, beyond the pass of the clean batch | with it |",
        "|---|---|---|---|",
        *("| {head} | {judge} | {beyond:.2%} | {whole:.2%} |".format(**row) for row in rows),
        "",
    ]
    results = Path(__file__).with_name("results")
    results.mkdir(exist_ok=True)
    (results / "assumptions.md").write_text("\n".join(lines))
    (results / "assumptions.json").write_text(json.dumps({"setting": told, "rows": rows}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
