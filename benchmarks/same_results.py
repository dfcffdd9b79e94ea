"""Whether a change leaves results bit for bit as they were: the same attacks at two commits.

Each of the attacks below (norms, rules, heads, restarts, stop, schedule, out of distribution, automatic,
without a gradient, training losses, evaluation) is run on a small network with two heads, on one thread, and
all that it returns is digested. Run it in two work trees and compare the files:

    git worktree add ../before COMMIT
    PYTHONPATH=../before/src python benchmarks/same_results.py --out /tmp/before.json
    python benchmarks/same_results.py --out /tmp/after.json
    python benchmarks/same_results.py --compare /tmp/before.json /tmp/after.json

It reads the names of version 0.1's flat layout as well as those of the rooms.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import advreg

COUNT = 7  # examples
SIZE = 16  # rows and columns

FLAT = {  # where version 0.1 had what is in a room now
    "Adaptive": "adaptive",
    "Adversary": "training",
    "AdversarialLoss": "training",
    "Decayed": "rules",
    "L_adv_r": "training",
    "L_adv_rs": "training",
    "L_adv_s": "training",
    "L_rand": "training",
    "NearestNeighbourDetector": "ood",
    "SegPGD": "surrogates",
    "SharpenedDice": "tasks",
    "Shrinking": "attacks",
    "Within": "attacks",
    "aware": "ood",
    "cross_entropy": "surrogates",
    "detection": "detection",
    "lower_score": "ood",
    "masks": "tasks",
    "normalised": "objectives",
    "outlines": "tasks",
    "points": "tasks",
    "power_start": "starts",
    "random_noise": "gradient_free",
    "score_attack": "gradient_free",
    "square_attack": "gradient_free",
    "tradeoff": "fronts",
    "worst_head": "objectives",
}
ROOMS = ("attacks", "detectors", "objectives", "rules", "tasks", "training")


def named(name: str) -> Any:
    """A public name of the library, in whichever layout this is."""
    if hasattr(advreg, name):
        return getattr(advreg, name)
    if not hasattr(advreg, "Execution"):
        return getattr(import_module(f"advreg.{FLAT[name]}"), name)
    rooms = [import_module(f"advreg.{room}") for room in ROOMS]
    return next(getattr(room, name) for room in rooms if name in room.__all__)


def run_by(**options: Any) -> dict[str, Any]:
    """The arguments that say how the network is run."""
    whole = hasattr(advreg, "Execution")
    return {"execution": named("Execution")(**options)} if whole else options


class Net(nn.Module):
    """A contour (B, 6, 2) in pixels and mask logits (B, 1, H, W) of one image (B, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 6, 3, padding=1)
        )
        self.contour, self.mask = nn.Linear(6 * 16, 12), nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        code = self.encoder(x)
        small = nn.functional.adaptive_avg_pool2d(code, 4).flatten(1)
        return {"contour": 8 + 4 * self.contour(small).unflatten(1, (6, 2)), "mask": 3 * self.mask(code)}


def data() -> tuple[Tensor, dict[str, Tensor]]:
    """Images and the targets of both heads."""
    chance = torch.Generator().manual_seed(1)
    x = torch.rand(COUNT, 1, SIZE, SIZE, generator=chance)
    contour = 16 * torch.rand(COUNT, 6, 2, generator=chance)
    return x, {"contour": contour, "mask": (nn.functional.avg_pool2d(x, 3, 1, 1) > 0.5).float()}


def attacks() -> dict[str, Callable[[], Any]]:
    """Every attack by its name, as a function that returns what is to be the same."""
    net, (x, y) = Net().eval(), data()
    other = torch.rand(COUNT, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    on, weighted, negate, dice, threat = map(named, ("on", "weighted", "negate", "dice", "Threat"))
    reg, seg = on("contour", named("J_IND_reg")), on("mask", named("J_IND_seg"))
    ball = {name: threat(named(name), radius) for name, radius in (("linf", 0.05), ("l2", 0.8), ("l1", 5.0))}
    pgd = partial(named("pgd_attack"), net, x, y, threat=ball["linf"], steps=12)
    adamax, steepest, momentum = named("Adamax")(0.2), named("Steepest")(0.2), named("Momentum")(0.2)
    decayed, apgd = named("Decayed")(named("Steepest")(2.0)), named("Adaptive")()
    stop = named("Within")(on("mask", dice), high=0.6)
    narrow = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    narrow[3:12, 2:9] = True
    uneven = threat(named("l2"), torch.linspace(0.1, 1.0, COUNT), (torch.zeros(1, 1, 1), 1.0), narrow)
    ood = partial(named("ood_attack"), net, x, other, steps=12)
    matching = {"points": named("Within")(on("contour", named("point_error")), high=2.5)}
    masks, points = named("masks"), named("points")
    auto = partial(named("auto_attack"), net, x, y, threat=ball["linf"])
    free = {"objective": seg, "threat": ball["linf"]}
    loss = weighted((0.01, reg), (1.0, seg))
    ramp = {"threat": ball["linf"], "steps": 5}

    def learned(made: Callable[..., Any], **options: Any) -> Any:
        net = Net().train()
        total, parts = made(loss, **options)(net, x, y, seed=3)
        total.backward()
        return total, parts, [parameter.grad for parameter in net.parameters()]

    def detected() -> Any:
        detector = named("NearestNeighbourDetector")(net, "encoder", k=2).fit([x])
        model, objective = named("aware")(net, detector), named("lower_score")(on("mask", named("J_OOD_seg")))
        return ood.func(model, x, other, objective=objective, threat=ball["l2"], rule=adamax, steps=8)

    def curve() -> Any:
        attack = partial(named("pgd_attack"), objective=seg, steps=5)
        metrics = {"mask": {"dice": dice}, "contour": {"error": named("point_error")}}
        table = named("radius_curve")(net, [(x, y)], metrics, {"mask": attack}, [0.0, 0.02, 0.05])
        return [tuple(row) for row in table]

    def diagnosed() -> Any:
        told = named("diagnose")(net, x, y, objective=seg, threat=ball["linf"], steps=10, queries=40)
        return [(check.name, check.verdict, dict(check.evidence)) for check in told.checks]

    return {
        **{f"pgd, Adamax, {name}, mask": partial(pgd, objective=seg, threat=ball[name]) for name in ball},
        **{
            f"pgd, Steepest, {name}, contour": partial(pgd, objective=reg, threat=ball[name], rule=steepest)
            for name in ball
        },
        "pgd, Momentum, linf, mask": partial(pgd, objective=seg, rule=momentum),
        "pgd, Momentum, l2, contour": partial(pgd, objective=reg, rule=momentum, threat=ball["l2"]),
        "pgd, APGD, linf, contour": partial(pgd, objective=reg, rule=apgd),
        "pgd, APGD, l2, mask, shrinking": partial(
            pgd, objective=seg, rule=apgd, threat=ball["l2"], schedule=named("Shrinking")()
        ),
        "pgd, decayed signs, shrinking": partial(
            pgd, objective=seg, rule=decayed, schedule=named("Shrinking")()
        ),
        "pgd, both heads, weighted": partial(pgd, objective=loss),
        "pgd, both heads, normalised": partial(pgd, objective=named("normalised")((1.0, reg), (2.0, seg))),
        "pgd, worst head": partial(pgd, objective=named("worst_head")((0.01, reg), (1.0, seg))),
        "pgd, restarts": partial(pgd, objective=reg, restarts=3),
        "pgd, stop": partial(pgd, objective=seg, stop=stop),
        "pgd, restarts and stop": partial(pgd, objective=seg, stop=stop, restarts=3),
        "pgd, judge": partial(
            pgd, objective=on("mask", named("cross_entropy")), judge=negate(on("mask", dice))
        ),
        "pgd, SegPGD": partial(pgd, objective=on("mask", named("SegPGD")()), rule=steepest),
        "pgd, sharpened Dice": partial(pgd, objective=on("mask", named("SharpenedDice")())),
        "pgd, last": partial(pgd, objective=seg, keep="last"),
        "pgd, own start": partial(pgd, objective=seg, start=other, random_start=False),
        "pgd, radii, bounds and mask": partial(pgd, objective=seg, threat=uneven),
        "pgd, parts of 3": partial(pgd, objective=seg, restarts=2, **run_by(micro_batch=3)),
        "pgd, bfloat16": partial(pgd, objective=seg, **run_by(precision="bfloat16")),
        "ood, contour": partial(
            ood, objective=on("contour", named("J_OOD_reg")), threat=ball["l2"], match=matching
        ),
        "ood, mask, own step": partial(
            ood,
            objective=on("mask", named("J_OOD_seg")),
            threat=ball["l2"],
            rule=named("Adamax")(0.01, relative=False),
        ),
        "ood, aware of a detector": detected,
        "auto, mask, 20": partial(auto, heads={"mask": masks()}, budget=20),
        "auto, three tasks, 100": partial(
            auto, heads={"mask": masks(), "contour": named("outlines")((SIZE, SIZE))}, budget=100
        ),
        "auto, points, 100": partial(auto, heads={"contour": points()}, budget=100),
        "trade-off": partial(
            named("tradeoff"),
            net,
            x,
            y,
            heads={"contour": points(), "mask": masks()},
            threat=ball["linf"],
            points=3,
            steps=8,
        ),
        "start by the power method": partial(
            named("power_start"), net, x, threat=ball["l2"], head="contour", iterations=3
        ),
        "square": partial(named("square_attack"), net, x, y, queries=30, **free),
        "score": partial(named("score_attack"), net, x, y, steps=6, draws=3, **free),
        "noise": partial(named("random_noise"), net, x, y, draws=10, **free),
        "L_adv_rs": partial(learned, named("L_adv_rs"), reg=reg, seg=seg, **ramp),
        "L_adv_r": partial(learned, named("L_adv_r"), reg=reg, **ramp),
        "L_adv_s": partial(learned, named("L_adv_s"), seg=seg, **ramp),
        "L_rand": partial(learned, named("L_rand"), threat=ball["linf"]),
        "radius_curve": curve,
        "diagnose": diagnosed,
    }


def entries(result: Any) -> Any:
    """What a result holds, as values that can be digested."""
    if isinstance(result, Tensor):
        return [str(result.dtype), list(result.shape), hashlib.sha256(result.detach().numpy()).hexdigest()]
    if is_dataclass(result):
        return {field.name: entries(getattr(result, field.name)) for field in fields(result)}
    if isinstance(result, Mapping):
        return {str(key): entries(value) for key, value in result.items()}
    return [entries(each) for each in result] if isinstance(result, (list, tuple)) else repr(result)


def main() -> None:
    """Run the attacks, or compare two files of theirs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2)
    chosen = parser.parse_args()
    if chosen.compare:
        before, after = (json.loads(path.read_text()) for path in chosen.compare)
        for name in {**before, **after}:
            same = before.get(name) == after.get(name)
            print(f"{'equal' if same else 'DIFFERS':8} {name}")
        equal = sum(before.get(name) == after.get(name) for name in {**before, **after})
        print(f"{equal} of {len({**before, **after})} are bit-equal")
        return
    torch.set_num_threads(1)
    found = {}
    for name, attack in attacks().items():
        found[name] = entries(attack())
    text = json.dumps(found, indent=1)
    if chosen.out:
        chosen.out.write_text(text + "\n")
    print(f"{len(found)} attacks of advreg in {Path(advreg.__file__).parent.name}", end="; ")
    print(hashlib.sha256(text.encode()).hexdigest()[:16])


if __name__ == "__main__":
    main()
