"""How much memory an attack needs at its peak, on the paper's network: `pgd_attack` and loops by hand.

Each runs in a process of its own. What counts is the process's peak (`ru_maxrss`) less what it held before
the attack, when all was imported and network and data were made. 1.00 is a loop written out by hand that
takes the gradient of the input alone, but leaves the parameters trainable, as a user has them: convolutions
then keep their inputs for gradients that nobody asks for. The table joins those of `speed.py`.

    python benchmarks/memory.py [--batch 64] [--steps 2] [--width 64]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from speed_table import chosen, folder, publish, save, setting, units
from speed_work import HEADS, by_hand, data, network, ours

from advreg import Execution
from lumbar_disk.network import Block, Merge, UNet, Up

BY_HAND = "by hand, trainable parameters"
CONTESTANTS = {
    BY_HAND: lambda *case: by_hand(*case, trainable=True),
    "by hand, frozen parameters": by_hand,
    "advreg, prune=False": partial(ours, execution=Execution(prune=False)),
    "advreg": ours,
    "advreg, bfloat16": partial(ours, execution=Execution("bfloat16")),
    "advreg, micro_batch=64": partial(ours, execution=Execution(micro_batch=64)),
    "advreg, micro_batch=64, checkpoint": partial(
        ours, execution=Execution(micro_batch=64, checkpoint=(Block, Merge, Up))
    ),
    "advreg, micro_batch=16": partial(ours, execution=Execution(micro_batch=16)),
    "advreg, micro_batch=8, bfloat16": partial(ours, execution=Execution("bfloat16", micro_batch=8)),
}
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def held() -> int:
    """Now, in bytes."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() if status.exists() else peak()


def measured(name: str, head: str, options: argparse.Namespace) -> dict[str, float]:
    """In this process, which is to do nothing else."""
    model, (x, y) = network(UNet, options.width), data(options.batch)
    before, highest, start = held(), peak(), time.perf_counter()
    CONTESTANTS[name](model, x, y, head, options.steps)
    seconds, after = time.perf_counter() - start, peak()
    if after <= highest:
        raise RuntimeError("the attack needed less than its preparation; take a larger batch")
    return {"held": before, "peak": after, "bytes": after - before, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--out", type=Path, default=folder())
    parser.add_argument("--only", nargs=2, metavar=("NAME", "HEAD"), help="measure one, in this process")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(*options.only, options)))
        return
    values = chosen(options, ("batch", "steps", "width"))
    given = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    heads = {}
    names = [name for name in CONTESTANTS if units() or "bfloat16" not in name]
    for head in HEADS:
        rows = heads[head] = {}
        for name in names:
            command = [sys.executable, __file__, *given, "--only", name, head]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - itself
            rows[name] = json.loads(done.stdout.splitlines()[-1])
            rows[name]["ratio"] = rows[name]["bytes"] / rows[BY_HAND]["bytes"]
            print(
                f"  {head}: {name}: {rows[name]['bytes'] / 2**30:.2f} GiB, {rows[name]['ratio']:.3f}",
                flush=True,
            )
    save(options.out, "memory", {"setting": setting("memory.py", values), "options": values, "heads": heads})
    print(publish(options.out), f"wrote {options.out.name}.md, .json and .png", sep="\n")


if __name__ == "__main__":
    main()
