"""What the input gradient of a sliding window costs, against that of all windows with their graph kept.

MONAI's `BasicUNet` on a volume of 8 and of 27 windows that overlap by half. The gradient, with frozen
parameters, of the network on one window alone; of `SlidingWindow`; and of MONAI's `sliding_window_inference`,
whose graph holds all windows. Each in a process of its own: what counts is its peak (`ru_maxrss`) less what
it held before, when all was imported and network and volume were made. 1.00 is one window. Memory that is
freed goes back to the system at once (`MALLOC_MMAP_THRESHOLD_`), so that gaps in the heap do not count.

    python benchmarks/sliding.py [--size 32] [--width 16]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from memory import held, peak
from monai.inferers import sliding_window_inference
from monai.networks.nets import BasicUNet
from speed_table import setting

from advreg import J_IND_seg
from advreg.execution import SlidingWindow, frozen

SIDES = {8: 3, 27: 4}
"""For each number of windows the side of the volume, in half windows."""
ABOUT = (
    "MONAI's BasicUNet in 3D, windows that overlap by half, Gaussian importance. 1.00 is the peak of memory "
    "of one window alone; the last column is the largest difference of the gradient from that of all windows "
    "with their graph kept, relative to its largest entry."
)


def network(width: int) -> torch.nn.Module:
    torch.manual_seed(0)
    features = (width, width, 2 * width, 4 * width, 8 * width, width)
    return BasicUNet(spatial_dims=3, in_channels=1, out_channels=1, features=features).eval()


def contestants(net: torch.nn.Module, size: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    return {
        "one window": net,
        "SlidingWindow": SlidingWindow(net, size),
        "all windows, graph kept": lambda x: sliding_window_inference(
            x, (size,) * 3, 1, net, 0.5, mode="gaussian"
        ),
    }


def measured(name: str, windows: int, options: argparse.Namespace) -> dict[str, float]:
    """In this process, which is to do nothing else."""
    net, side = network(options.width), options.size
    x = torch.rand((1, 1, *[side if name == "one window" else side // 2 * SIDES[windows]] * 3))
    y = (x > 0.5).float()
    run = contestants(net, side)[name]
    with frozen(net):
        before, highest, start = held(), peak(), time.perf_counter()
        x = x.requires_grad_()
        (gradient,) = torch.autograd.grad(J_IND_seg(run(x), y).sum(), x)
        seconds, after = time.perf_counter() - start, peak()
    if after <= highest:
        raise RuntimeError("the gradient needed less than its preparation; take a larger window")
    torch.save(gradient, options.gradient)
    return {"bytes": after - before, "seconds": seconds}


def in_a_process_of_its_own(name: str, windows: int, options: argparse.Namespace, gradient: Path) -> dict:
    words = ["--size", options.size, "--width", options.width, "--gradient", gradient]
    command = [sys.executable, __file__, *map(str, words), "--only", name, str(windows)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    done = subprocess.run(  # noqa: S603 - itself
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--gradient", type=Path, help="where one process leaves its gradient")
    parser.add_argument("--only", nargs=2, metavar=("NAME", "WINDOWS"), help="measure one, in this process")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(options.only[0], int(options.only[1]), options)))
        return
    rows = []
    names = list(contestants(torch.nn.Identity(), options.size))
    for windows in SIDES:
        found, gradients = {}, {}
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "gradient.pt"
                found[name] = in_a_process_of_its_own(name, windows, options, path)
                gradients[name] = torch.load(path)
            print(f"  {windows} windows: {name}: {found[name]}", flush=True)
        mine, theirs = gradients["SlidingWindow"], gradients["all windows, graph kept"]
        apart = float((mine - theirs).abs().max() / theirs.abs().max())
        rows += [
            {
                "windows": windows, "name": name, **row, "ratio": row["bytes"] / found["one window"]["bytes"],
                "apart": apart if name == "SlidingWindow" else None,
            }
            for name, row in found.items()
        ]  # fmt: skip
    told = setting("sliding.py", {"size": options.size, "width": options.width})
    lines = [
        "# The input gradient of a sliding window",
        "",
        f"{told}. {ABOUT}",
        "",
        "| windows | what | peak, MiB | of one window | seconds | gradient apart |",
        "|---:|---|---:|---:|---:|---:|",
        *(
            f"| {row['windows']} | {row['name']} | {row['bytes'] / 2**20:.0f} | {row['ratio']:.2f} | "
            f"{row['seconds']:.1f} | {'' if row['apart'] is None else format(row['apart'], '.1e')} |"
            for row in rows
        ),
        "",
    ]
    results = Path(__file__).with_name("results")
    results.mkdir(exist_ok=True)
    (results / "sliding.md").write_text("\n".join(lines))
    (results / "sliding.json").write_text(json.dumps({"setting": told, "rows": rows}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
