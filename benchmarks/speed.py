"""How fast attacks and adversarial training are: this library, loops written by hand, other libraries.

- *peers*: PGD with linf on the paper's network, one head at a time, the same steps of the same size for all.
  1.00 is a loop written out by hand, in float32, over the whole network, whose parameters require no gradient
  and whose gradient is that of the input alone; all others get the network as a user has it, with parameters
  that require gradients. Loop and `pgd_attack` begin at the clean input and evaluate the last iterate; the
  other libraries begin where they always do and, as `peers.py` says, may need a pass to be told the loss.
  *peers-1*: the same with one image. *peers-64*: with a batch that `pgd_attack` runs in parts.
- *ways*: the ways in which `pgd_attack` may run a network; also the restarts of one image.
- *scaling*: seconds of a step of `pgd_attack` against batch, size of the image, threads and precision, and
  the fitted model `t = a + b * batch * pixels`.
- *training*: a step of `L_adv_rs`, in float32 and bfloat16, over the naive one of `training.py`.

All of a section run in every round, in turning order, and ratios are taken within a round. Without
`--section`, those run that have not run with the same settings, so a stopped run goes on; a section named is
measured anew. Each is kept in `results/speed/`, or `results/speed-float32/` on a processor without units for
bfloat16, where that is left out; all there are, those of `memory.py` too, make a table and a plot beside it.

    python benchmarks/speed.py [--section peers] [--batch 16] [--steps 10] [--rounds 5] [--width 64]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from peers import LIBRARIES, Peer, peers
from speed_table import chosen, fitted, folder, load, publish, save, setting, spread, units
from speed_ways import section_ways
from speed_work import BY_HAND, HEADS, LOSS, RADIUS, Clock, Undeclared, by_hand, data, in_turn, network, ours
from training import OBJECTIVES, naive
from training import RADIUS as TRAINING_RADIUS

from advreg import Execution, Keys, Threat, linf
from advreg.training import L_adv_rs
from lumbar_disk.network import UNet, loss

SIZES = ((1, 64), (4, 64), (16, 64), (64, 64), (256, 64), (4, 128), (4, 256), (4, 512))
"""Batches and sides of the image, for the scaling."""
PRECISIONS = ("float32", "bfloat16") if units() else ("float32",)


def theirs(head: str) -> dict[str, Peer]:
    """PGD of each library that can be had, by name; with a loss of one's own where it takes one."""
    found = {}
    for peer in peers()[0]:
        attack, how, what, step = [*peer.name.split(", "), "", "", ""][:4]
        if (peer.head, what, step) == (head, LOSS[head], "step 2.5 radius/steps") and attack in (
            "PGD",
            "pgd_linf",
        ):
            name = f"{peer.library} {attack}"
            if name not in found or how == "own loss":
                found[name] = peer
    return found


def contestants(model, undeclared, x, y, head: str) -> dict[str, Callable[[int], torch.Tensor]]:
    """By name what takes a number of steps and returns adversarial inputs."""
    run = partial(ours, x=x, y=y, head=head)
    made = {
        BY_HAND: partial(by_hand, model, x, y, head),
        "advreg, prune=False": lambda steps: run(model, steps=steps, execution=Execution(prune=False)),
        "advreg": lambda steps: run(model, steps=steps),
        "advreg, no heads= declared": lambda steps: run(undeclared, steps=steps),
    }
    if units():
        made["advreg, bfloat16"] = lambda steps: run(model, steps=steps, execution=Execution("bfloat16"))
    for name, peer in theirs(head).items():
        made[name] = lambda steps, peer=peer: peer.attack(model, x, y, RADIUS, steps, seed=0)
    return made


def section_peers(options: argparse.Namespace, batch: str = "batch") -> dict:
    model, undeclared = network(UNet, options.width), network(Undeclared, options.width)
    clock, (x, y) = Clock(model, undeclared), data(getattr(options, batch))
    heads = {}
    for head, objective in HEADS.items():
        runs = contestants(model, undeclared, x, y, head)

        def attacked(name: str, steps: int, runs=runs) -> dict:
            for each in (model, undeclared):
                each.requires_grad_().eval().zero_grad(set_to_none=True)
            return clock.timed(lambda: runs[name](steps), steps)

        with torch.no_grad():
            clean = objective(model(x), y).mean().item()
        rows = {}
        for name, run in runs.items():  # which warms up, and cuts the network that declares nothing
            start = time.perf_counter()
            run(1)
            rows[name] = {"first call": time.perf_counter() - start, "attack": [], "step": []}
        for number in range(options.rounds):
            for name in in_turn(list(runs), number):
                took, row = attacked(name, options.steps), rows[name]
                row["attack"].append(took["attack"])
                row["step"].append(took["step"])
                with torch.no_grad():
                    row["objective"] = objective(model(took["found"]), y).mean().item()
                row["farthest"] = ((took["found"] - x).abs().max() / RADIUS).item()
                seconds = f"{took['attack']:.2f} s, a step {took['step']:.3f}"
                print(f"  {head}, round {number + 1}: {name}: {seconds}", flush=True)
        for row in rows.values():
            for what in ("attack", "step"):
                ratios = [mine / hand for mine, hand in zip(row[what], rows[BY_HAND][what], strict=True)]
                row[f"{what} ratio"] = spread(ratios)
            row["times faster than"] = {
                peer: spread(
                    [slow / fast for slow, fast in zip(rows[peer]["step"], row["step"], strict=True)]
                )
                for peer in theirs(head)
            }
        heads[head] = {"clean": clean, "rows": rows}
    missing = peers()[1]
    versions = {peer.library: peer.version for peer in peers()[0]}
    return {"heads": heads, "versions": versions, "missing": sorted(set(LIBRARIES) & set(missing))}


def section_scaling(options: argparse.Namespace) -> dict:
    rows = []
    before = torch.get_num_threads()
    try:
        for batch, size in SIZES:
            model = network(UNet, options.scaling_width, size)
            clock, (x, y) = Clock(model), data(batch, size)
            for threads in (1, 2):
                torch.set_num_threads(threads)
                for precision in PRECISIONS:
                    for head in HEADS:
                        run = partial(ours, model, x, y, head, execution=Execution(precision))
                        guess = clock.timed(partial(run, steps=2), 2)["step"]
                        steps = 1 + min(max(round(options.seconds / guess), 2), 50)
                        step = clock.timed(partial(run, steps=steps), steps)["step"]
                        rows.append(
                            {
                                "head": head, "precision": precision, "threads": threads,
                                "batch": batch, "size": size, "step": step,
                            }
                        )  # fmt: skip
                        print(f"  {rows[-1]}", flush=True)
    finally:
        torch.set_num_threads(before)
    groups = {}
    for row in rows:
        groups.setdefault((row["head"], row["precision"], row["threads"]), []).append(row)
    fits = [
        dict(zip(("head", "precision", "threads"), key, strict=True)) | fitted(g) for key, g in groups.items()
    ]
    return {"rows": rows, "fits": fits}


def section_training(options: argparse.Namespace) -> dict:
    model, (x, y) = network(UNet, options.width).train(), data(options.training_batch)
    keys, threat = Keys(0, torch.arange(len(x))), Threat(linf, TRAINING_RADIUS)
    starts = {name: threat.sample(x, keys.fold_in(number)) for number, name in enumerate(OBJECTIVES)}

    def step(steps: int, precision: str) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        execution = Execution(precision)
        total, _ = L_adv_rs(loss, **OBJECTIVES, steps=steps, execution=execution)(model, x, y, seed=0)
        total.backward()
        return total.item(), [parameter.grad.clone() for parameter in model.parameters()]

    runs = {"naive": lambda steps: naive(model, x, y, starts, steps)}
    runs |= {f"L_adv_rs, {p}": partial(step, precision=p) for p in PRECISIONS}
    found = {name: run(2) for name, run in runs.items()}  # which warms up as well
    flat = {
        name: torch.cat([g.flatten().double() for g in gradients]) for name, (_, gradients) in found.items()
    }
    rows = {
        name: {
            "loss": found[name][0],
            "cosine": torch.nn.functional.cosine_similarity(flat[name], flat["naive"], dim=0).item(),
            "seconds": [],
        }
        for name in runs
    }
    del found, flat
    for number in range(options.training_rounds):
        for name in in_turn(list(runs), number):
            start = time.perf_counter()
            runs[name](options.training_steps)
            rows[name]["seconds"].append(time.perf_counter() - start)
            print(f"  round {number + 1}: {name}: {rows[name]['seconds'][-1]:.2f} s", flush=True)
    for row in rows.values():
        row["ratio"] = spread([a / b for a, b in zip(row["seconds"], rows["naive"]["seconds"], strict=True)])
    return {"rows": rows}


SECTIONS = {
    "peers": (section_peers, ("batch", "steps", "rounds", "width")),
    "peers-1": (partial(section_peers, batch="small_batch"), ("small_batch", "steps", "rounds", "width")),
    "peers-64": (partial(section_peers, batch="large_batch"), ("large_batch", "steps", "rounds", "width")),
    "ways": (section_ways, ("batch", "rounds", "width")),
    "scaling": (section_scaling, ("scaling_width", "seconds")),
    "training": (section_training, ("training_batch", "training_steps", "training_rounds", "width")),
}
"""What measures a section, and the options that it depends on."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--section", choices=SECTIONS, action="append", help="may be given several times")
    parser.add_argument("--width", type=int, default=64, help="of the network; the paper's is 64")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--small-batch", type=int, default=1, help="of the section peers-1")
    parser.add_argument("--large-batch", type=int, default=64, help="of the section peers-64")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scaling-width", type=int, default=16)
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of each measurement of the scaling, about"
    )
    parser.add_argument("--training-batch", type=int, default=8)
    parser.add_argument("--training-steps", type=int, default=20)
    parser.add_argument("--training-rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=folder())
    options = parser.parse_args()
    for name, (measure, needed) in SECTIONS.items():
        values = chosen(options, needed)
        if options.section is None and load(options.out, name).get("options") == values:
            print(f"{name}: measured already with these settings; --section {name} measures it anew")
        elif options.section is None or name in options.section:
            print(f"{name}:", flush=True)
            start = time.perf_counter()
            content = {"setting": setting("speed.py", values | {"section": name}), "options": values}
            content |= measure(options)
            save(options.out, name, content | {"took": round(time.perf_counter() - start, 1)})
    print(publish(options.out), f"wrote {options.out.name}.md, .json and .png", sep="\n")


if __name__ == "__main__":
    main()
