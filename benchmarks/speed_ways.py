"""The ways in which `pgd_attack` may run a network, timed beside each other; a section of `speed.py`."""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from speed_table import spread, units
from speed_work import BY_HAND, HEADS, by_hand, data, in_turn, network, ours

from advreg import Adamax, Execution, Steepest, Threat, linf, pgd_attack
from lumbar_disk.network import Block, Merge, UNet, Up

STEPS = 4  # timed: attacks of one and of five steps, so that what is done once drops out
WAYS = {
    "whole network": Execution(prune=False),
    "pruned": Execution(),
    "in parts of 8": Execution(micro_batch=8),
    "in parts of 4": Execution(micro_batch=4),
    "checkpoints": Execution(checkpoint=(Block, Merge, Up)),
    "channels-last": Execution(channels_last=True),
    "torch.compile": Execution(compiled=True),
}
LOW = {
    "bfloat16": Execution("bfloat16"),
    "bfloat16, channels-last": Execution("bfloat16", channels_last=True),
    "bfloat16, torch.compile": Execution("bfloat16", compiled=True),
    "float16": Execution("float16"),
}
RESTARTS = 10


def autocast(model, x, y, head: str, steps: int) -> torch.Tensor:
    """The loop by hand under torch's own mixed precision."""
    with torch.autocast("cpu", torch.bfloat16):
        return by_hand(model, x, y, head, steps)


def restarted(model, x, y, head: str, steps: int, micro_batch: int | None) -> torch.Tensor:
    """Restarts for the first image."""
    y = {key: value[:1] for key, value in y.items()}
    options = {"threat": Threat(linf, 0.03), "rule": Adamax(0.2), "steps": steps, "restarts": RESTARTS}
    execution = Execution(micro_batch=micro_batch)
    return pgd_attack(model, x[:1], y, objective=HEADS[head], execution=execution, **options).x


def each_head(model, x, y, _: str, steps: int) -> None:
    """Both heads of the first image, one after the other."""
    for head in HEADS:
        ours(model, x[:1], {key: value[:1] for key, value in y.items()}, head, steps)


def both_heads(model, x, y, _: str, steps: int) -> None:
    """The same as one batch: the whole network, each head's objective for one of two copies."""

    def objective(output, target):
        return torch.cat([f(output, target)[place : place + 1] for place, f in enumerate(HEADS.values())])

    twice = {key: value[:1].repeat(2, *[1] * (value.ndim - 1)) for key, value in y.items()}
    options = {"threat": Threat(linf, 0.03), "rule": Steepest(0.2), "steps": steps, "random_start": False}
    pgd_attack(model, x[:1].repeat(2, 1, 1, 1), twice, objective=objective, keep="last", **options)


def seconds(run: Callable[[int], torch.Tensor], steps: int) -> float:
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start


def section_ways(options: argparse.Namespace) -> dict:
    (x, y), heads = data(options.batch), {}
    for head in HEADS:
        model = network(UNet, options.width)
        case = (model, x, y, head)
        runs = {BY_HAND: partial(by_hand, *case)}
        runs |= {"by hand, bfloat16 autocast": partial(autocast, *case)} if units() else {}
        ways = WAYS | (LOW if units() else {})
        runs |= {name: partial(ours, *case, execution=way) for name, way in ways.items()}
        runs |= {
            f"one image, {RESTARTS} restarts, one by one": partial(restarted, *case, micro_batch=1),
            f"one image, {RESTARTS} restarts, together": partial(restarted, *case, micro_batch=None),
            "one image, both heads, one by one": partial(each_head, *case),
            "one image, both heads, together": partial(both_heads, *case),
        }
        firsts = {name: seconds(partial(_own, run, model), 1) for name, run in runs.items()}
        rows = {name: {"first call": firsts[name], "step": []} for name in runs}
        for number in range(options.rounds):
            for name in in_turn(list(runs), number):
                once, more = (seconds(partial(_own, runs[name], model), steps) for steps in (1, 1 + STEPS))
                rows[name]["step"].append((more - once) / STEPS)
                print(f"  {head}, round {number + 1}: {name}: {rows[name]['step'][-1]:.3f} s", flush=True)
        for name, row in rows.items():
            base = rows[name.replace("together", "one by one") if "one image" in name else BY_HAND]["step"]
            row["ratio"] = spread([mine / hand for mine, hand in zip(row["step"], base, strict=True)])
        heads[head] = rows
    return {"heads": heads}


def _own(run: Callable[[int], torch.Tensor], model: torch.nn.Module, steps: int) -> torch.Tensor:
    """With parameters that require gradients, as a user has them."""
    model.requires_grad_()
    return run(steps)
