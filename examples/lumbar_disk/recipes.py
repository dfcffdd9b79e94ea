"""Frozen, complete configurations: a variant edits one with `dataclasses.replace`."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a demo's numbers.

    Attributes:
        patients: How many phantoms to draw; None reads every patient of the SPIDER folder.
        test_patients: How many patients to keep for the test.
        size: Side of a crop in pixels; the paper's is 128.
        width: The network's width; the paper's is 64.
        steps: Training steps.
        batch: Discs per training step, and per attack.
        lr: Adamax's learning rate; the paper's is 0.001.
        radii: Linf radii of the attack, ascending, 0 first: the clean images.
        attack_steps: Steps of each attack; the paper takes 100.
        seed: Decides the phantoms, the split, the training and the attacks' random starts.
    """

    patients: int | None
    test_patients: int
    size: int
    width: int
    steps: int
    batch: int
    lr: float
    radii: tuple[float, ...]
    attack_steps: int
    seed: int


def phantom_recipe() -> Recipe:
    """Return the demo on synthetic patients: under three minutes on two cores."""
    return Recipe(
        patients=54,
        test_patients=6,
        size=128,
        width=16,
        steps=1000,
        batch=16,
        lr=0.001,
        radii=(0.0, 0.01, 0.03, 0.07),
        attack_steps=100,
        seed=0,
    )


def spider_recipe() -> Recipe:
    """Return the demo on real patients; its settings were chosen on held-out training patients alone."""
    return replace(phantom_recipe(), patients=None, steps=4000)
