"""Fourteen examples of seven patients, measured under two attacks: what the tests of evaluation share."""

from functools import partial

import torch

from advreg import J_IND_reg, J_IND_seg, dice, on, pgd_attack, point_error, radius_curve
from networks import batch, two_heads

METRICS = {"contour": {"error": point_error}, "mask": {"dice": dice}}
ATTACKS = {
    "contour": partial(pgd_attack, objective=on("contour", J_IND_reg), steps=3),
    "mask": partial(pgd_attack, objective=on("mask", J_IND_seg), steps=3),
}
RADII = (0.0, 0.02, 0.05)
GROUPS = [f"patient {i // 4}" for i in range(14)]


def batches(sizes=(4, 4, 4, 2), shift=0.0):
    x, y = batch(14)
    at = 0
    for size in sizes:
        part = slice(at, at + size)
        yield (x[part] * (1 - shift), {key: value[part] for key, value in y.items()}, torch.arange(14)[part])
        at += size


def curve(model=None, sizes=(4, 4, 4, 2), **options):
    given = {
        "batches": list(batches(sizes)),
        "metrics": METRICS,
        "attacks": ATTACKS,
        "radii": RADII,
    } | options
    return radius_curve(model or two_heads(), groups=GROUPS, **given)


def other_weights():
    model = two_heads()
    with torch.no_grad():
        model.mask.bias += 1e-6
    return model
