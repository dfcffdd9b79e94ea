"""How near an attack comes to what the machine can do, and how long the paper's whole study would take on it.

The ceiling is the rate of large matrix products in the same precision, measured beside. What a step needs is
counted by torch's `FlopCounterMode`: the forward pass of the part that the head needs, and as much again for
the gradient of the input. The study's time is that of its steps: for each of the fifteen models and each of
its training steps a pass with gradients of the parameters, and the steps of its attacks; then the evaluation,
on the test discs of six patients. Making virtual discs, reading and writing are left out.

    python benchmarks/throughput.py [--device cuda] [--batches 64 256] [--seconds 2] [--width 64]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from speed_table import chosen, markdown, setting, units
from speed_work import HEADS, data, network, ours
from torch.utils.flop_counter import FlopCounterMode

from advreg import Execution
from advreg.execution import heads as part_of
from advreg.training import L_adv_rs
from lumbar_disk.network import UNet, loss
from lumbar_disk.study import FIFTEEN, kind_of, paper_recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIDE = {"cpu": 2048}  # of the matrices; 8192 elsewhere
DISCS = 30  # five of each of the six test patients
ATTACKED = {"adv_r": ("contour",), "adv_s": ("mask",), "adv_rs": ("contour", "mask")}


def seconds(call: Callable[[], object], device: torch.device, least: float) -> float:
    """The median time of a call, over as many as take so long, three at least."""
    call()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < least:
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def ceiling(device: torch.device, precision: str, least: float) -> float:
    """Operations a second, a multiplication and an addition being two."""
    side = SIDE.get(device.type, 8192)
    a = torch.randn(side, side, device=device, dtype=DTYPES[precision])
    return 2 * side**3 / seconds(lambda: a @ a, device, least)


def needed(model: UNet, head: str, x: torch.Tensor) -> int:
    """Operations of one step for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part_of(model, [head])(x[:1])
    return 2 * counter.get_total_flops()


def study(step: dict[str, float], training: float) -> dict[str, float]:
    """Hours, from the seconds of a step on each head for one image, and of a training pass for one image."""
    recipe, both = paper_recipe(), sum(step.values())
    trained = attacked = 0.0
    for name in FIFTEEN:
        images = recipe.steps(name) * recipe.batch
        kind = kind_of(name)
        trained += images * training * {"std": 1, "adv_rs": 3}.get(kind, 2)
        attacked += images * recipe.attack_steps * sum(step[head] for head in ATTACKED.get(kind, ()))
    cells = len(FIFTEEN) * (len(recipe.radii) - 1) * recipe.eval_steps
    parts = {"training passes": trained, "attacks in training": attacked, "evaluation": cells * DISCS * both}
    return {name: value / 3600 for name, value in parts.items()}


def measured(options: argparse.Namespace, precision: str) -> dict:
    device, least = torch.device(options.device), options.seconds
    model = network(UNet, options.width).to(device)
    top, rows = ceiling(device, precision, least), []
    for batch in options.batches:
        x, y = data(batch)
        x, y = x.to(device), {key: value.to(device) for key, value in y.items()}
        for head in HEADS:
            more, once = (
                seconds(lambda: ours(model, x, y, head, count, Execution(precision)), device, least)  # noqa: B023 - called at once
                for count in (1 + options.steps, 1)
            )
            step = (more - once) / options.steps
            share = needed(model, head, x) * batch / step / top
            rows.append({"batch": batch, "head": head, "step": step, "share": share})
            print(f"  {precision}, {rows[-1]}", flush=True)
    x, y = x[: options.batches[0]], {key: value[: options.batches[0]] for key, value in y.items()}
    model.train()
    nothing = L_adv_rs(loss, reg=HEADS["contour"], seg=HEADS["mask"], steps=0)

    def passes() -> None:
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            total, _ = nothing(model, x, y, seed=0)
        total.backward()

    training = seconds(passes, device, least) / (3 * len(x))  # clean images and two attacked
    first = {row["head"]: row["step"] / row["batch"] for row in rows if row["batch"] == options.batches[0]}
    return {"ceiling": top, "rows": rows, "training": training, "study": study(first, training)}


def table(found: dict[str, dict]) -> str:
    title = ["precision", "batch", "head", "steps a second", "images a second", "TFLOP/s", "of the ceiling"]
    body = [
        [
            precision,
            str(row["batch"]),
            row["head"],
            f"{1 / row['step']:.3g}",
            f"{row['batch'] / row['step']:.3g}",
            f"{row['share'] * part['ceiling'] / 1e12:.3g} of {part['ceiling'] / 1e12:.3g}",
            f"{row['share']:.0%}",
        ]
        for precision, part in found.items()
        for row in part["rows"]
    ]
    hours = {precision: part["study"] for precision, part in found.items()}
    names = list(next(iter(hours.values())))
    times = [
        [precision, *(f"{hour[name]:.3g}" for name in names), f"{sum(hour.values()):.3g}"]
        for precision, hour in hours.items()
    ]
    study = "The paper's whole study, fifteen models at 128 pixels and width 64, in hours:"
    return f"{markdown(title, body)}\n\n{study}\n\n{markdown(['precision', *names, 'all'], times)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, at least")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--out", type=Path, help="by default results/throughput-DEVICE")
    options = parser.parse_args()
    kind = torch.device(options.device).type
    out = options.out or Path(__file__).parent / "results" / f"throughput-{kind}"
    low = kind != "cpu" or bool(units())
    found = {precision: measured(options, precision) for precision in DTYPES if low or precision == "float32"}
    values = chosen(options, ("device", "batches", "steps", "seconds", "width"))
    name = f"{torch.cuda.get_device_name()}; " if kind == "cuda" else ""
    about = name + setting("throughput.py", values)
    text = f"{table(found)}\n\n{about}\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text)
    out.with_suffix(".json").write_text(json.dumps({"setting": about} | found, indent=1) + "\n")
    print(text, f"wrote {out}.md and .json", sep="\n")


if __name__ == "__main__":
    main()
