"""Recipes of the study: frozen, complete configurations; a variant edits one with `dataclasses.replace`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from lumbar_disk.virtual import KernelName

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")

KINDS = ("std", "rand", "adv_r", "adv_s", "adv_rs")
COMPONENTS = (3, 5, 10)
FIFTEEN = tuple(f"P{components}_{kind}" for kind in KINDS for components in COMPONENTS)
PURE = tuple(f"P{components}_rand_pure" for components in COMPONENTS)
RECONSTRUCTING = tuple(f"P{components}_{kind}_rec" for kind in KINDS for components in COMPONENTS)
SIGMAS = (0.25, 0.5, 1.0)
NOISY = tuple(f"P{components}_noise_{sigma}" for sigma in SIGMAS for components in COMPONENTS)


@dataclass(frozen=True)
class StudyRecipe:
    """Recipe of a study: everything that decides its models' numbers, beside the data.

    Attributes:
        models: Which to train, by the paper's names: `P3_std` is trained on virtual discs of three modes
            with the standard loss. The three `P*_rand_pure` read L_rand as the released code does. Ours are
            `P*_noise_0.25` and `P*_noise_0.5`, trained under Gaussian noise of that deviation.
        size: Side of a crop in pixels, a multiple of 64.
        width: Of the network.
        batch: Virtual discs per step.
        virtual: How many virtual discs each shape model makes; a longer training begins them anew.
        stored: Whether to keep them on disk, as float16, for all models of one shape model: right where
            making them costs more than a step of training.
        real: The share of a batch's discs that are real ones as they are, drawn by chance; the paper's is 0.
        std_epochs: Epochs of the std models, from which the others start, and of those for certificates.
        epochs: Of the other models; their noise grows from epoch to epoch.
        batches: Steps per epoch.
        lr: Adamax's learning rate.
        decay: The last share of the steps, over which the rate falls to zero.
        average: Decay of a running average of the weights, which is what is kept; 0 for the last weights, as
            in the paper.
        radius: Linf radius of noise and attacks in training, once it has grown.
        ramp: The first share of the epochs, over which it grows; the paper's is 1, all of them.
        alpha: Step of the attacks in training, in intensities.
        attack_steps: Steps of the attacks in training.
        radii: Linf radii of the evaluation, 0 first.
        eval_steps: Steps of its attacks, Adamax on the sign with alpha = radius / 5.
        auto_passes: Budget of `auto_attack` in the evaluation, for each disc, measure and radius, beside the
            paper's attack; 0 leaves it out.
        eval_batch: Test discs attacked together.
        test_patients: How many patients to keep for the test.
        upright: Whether crops are turned so that each disc lies level; see `lumbar_disk.data.crop`.
        kernel: Of the thin-plate splines.
        precision: "float32", or "bfloat16" for autocast in training.
        compile: Whether to compile the network for training.
        seed: Of everything.
    """

    models: tuple[str, ...] = (*FIFTEEN, *PURE)
    size: int = 128
    width: int = 64
    batch: int = 64
    virtual: int = 640_000
    stored: bool = False
    real: float = 0.0
    std_epochs: int = 100
    epochs: int = 100
    batches: int = 100
    lr: float = 0.001
    decay: float = 0.0
    average: float = 0.0
    radius: float = 0.07
    ramp: float = 1.0
    alpha: float = 0.01
    attack_steps: int = 20
    radii: tuple[float, ...] = (0.0, 0.01, 0.03, 0.05, 0.07, 0.1, 0.2)
    eval_steps: int = 100
    auto_passes: int = 100
    eval_batch: int = 64
    test_patients: int = 6
    upright: bool = True
    kernel: KernelName = "r2logr"
    precision: str = "float32"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        known = (*FIFTEEN, *PURE, *RECONSTRUCTING, *NOISY)
        if unknown := [name for name in self.models if name not in known]:
            raise ValueError(f"no such model: {', '.join(unknown)}. Choose from {', '.join(known)}.")
        counted = ("batch", "virtual", "std_epochs", "epochs", "batches", "eval_batch", "test_patients")
        for name in (*counted, "attack_steps", "eval_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if not self.radii or self.radii[0] != 0 or list(self.radii) != sorted(set(self.radii)):
            raise ValueError(f"radii must rise from 0, the clean images; got {self.radii}.")
        for name, known in (("precision", ("float32", "bfloat16")), ("kernel", get_args(KernelName))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}.")
        if self.auto_passes < 0:
            raise ValueError(f"auto_passes must be 0, none, or more; got {self.auto_passes}.")
        _check_numbers(self)

    def steps(self, name: str) -> int:
        """A model's optimiser steps."""
        long = start_of(name) is None or sigma_of(name) is not None
        return self.batches * (self.std_epochs if long else self.epochs)


def _check_numbers(recipe: StudyRecipe) -> None:
    """Insist on rates and sizes that are numbers, and on the right side of zero."""
    for name in ("lr", "alpha"):
        if not 0 < getattr(recipe, name) < math.inf:
            raise ValueError(f"{name} must be a positive number; got {getattr(recipe, name)}.")
    if not all(map(math.isfinite, recipe.radii)) or not 0 <= recipe.radius < math.inf:
        raise ValueError(
            f"radius and radii must be numbers, at least 0; got {recipe.radius}, {recipe.radii}."
        )
    for name in ("decay", "real", "ramp"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise ValueError(f"{name} must be a share from 0 to 1; got {getattr(recipe, name)}.")
    if not 0 <= recipe.average < 1:
        raise ValueError(f"average must be a decay from 0 up to, but not, 1; got {recipe.average}.")
    if recipe.seed < 0:
        raise ValueError(f"seed must be at least 0; got {recipe.seed}.")


def paper_recipe() -> StudyRecipe:
    """The study as published: for a GPU."""
    return StudyRecipe(precision="bfloat16")


def small_recipe() -> StudyRecipe:
    """The study with smaller images, a narrower network and fewer steps, for two CPU cores."""
    return StudyRecipe(
        size=64,
        width=8,
        batch=32,
        virtual=32_000,
        stored=True,
        std_epochs=60,
        epochs=20,
        batches=50,
        decay=1 / 3,
        lr=0.003,
        alpha=0.04,
        attack_steps=3,
        auto_passes=20,
        eval_batch=16,
    )


def medium_recipe() -> StudyRecipe:
    """The study at the paper's image size with a quarter of its width, for some hours on two CPU cores."""
    return replace(
        small_recipe(),
        size=128,
        width=16,
        std_epochs=80,
        epochs=16,
        alpha=0.02,
        attack_steps=6,
        auto_passes=100,
        eval_batch=25,
    )


def smoke_recipe() -> StudyRecipe:
    """The study's every part on two models, for a test."""
    return replace(
        small_recipe(),
        models=("P10_std", "P10_adv_rs"),
        width=2,
        batch=8,
        virtual=120,
        std_epochs=6,
        epochs=3,
        batches=5,
        attack_steps=2,
        eval_steps=5,
        auto_passes=4,
        radii=(0.0, 0.03, 0.07),
    )


SIZES = {"smoke": smoke_recipe, "small": small_recipe, "medium": medium_recipe, "paper": paper_recipe}


def components_of(name: str) -> int:
    """How many modes of shape a model is trained on.

    Example:
        >>> components_of("P10_adv_rs"), kind_of("P10_adv_rs")
        (10, 'adv_rs')
    """
    return int(name.split("_", maxsplit=1)[0].removeprefix("P"))


def kind_of(name: str) -> str:
    """Which loss a model is trained with; see `components_of`, and `reconstructs`."""
    return name.split("_", 1)[1].removesuffix("_rec")


def sigma_of(name: str) -> float | None:
    """The deviation of the noise that a model is trained under; None for the others.

    Example:
        >>> sigma_of("P10_noise_0.25"), sigma_of("P10_rand")
        (0.25, None)
    """
    kind, _, sigma = kind_of(name).partition("_")
    return float(sigma) if kind == "noise" else None


def reconstructs(name: str) -> bool:
    """Whether a model also answers with the image itself, and learns to (section 2.5)."""
    return name.endswith("_rec")


def start_of(name: str) -> str | None:
    """The model from whose weights another one starts; None for the std models.

    Example:
        >>> start_of("P10_adv_rs_rec"), start_of("P10_std")
        ('P10_std_rec', None)
    """
    start = f"P{components_of(name)}_std" + ("_rec" if reconstructs(name) else "")
    return None if name == start else start


def edited(recipe: R, settings: Iterable[str], *others: DataclassInstance) -> R:
    """Change fields of a recipe by text, as on a command line.

    Args:
        recipe: The recipe.
        settings: `name=value` each; a tuple's values are separated by commas.
        others: Recipes that the settings are for as well; their fields are left to them.

    Raises:
        ValueError: If there is no such field, or the value is not of its kind.

    Example:
        >>> edited(small_recipe(), ["width=16", "radii=0,0.03", "stored=no"]).radii
        (0.0, 0.03)
    """
    own = [field.name for field in fields(recipe)]
    recipes: list[DataclassInstance] = [recipe, *others]
    known = {field.name: getattr(one, field.name) for one in recipes for field in fields(one)}
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in known:
            raise ValueError(
                f"expected name=value, a field of the recipe; got {setting!r}. Fields: {', '.join(known)}."
            )
        if name not in own:
            continue
        try:
            changes[name] = _parsed(text, known[name])
        except ValueError:
            raise ValueError(f"{name}: expected a value like {known[name]!r}; got {text!r}.") from None
    return replace(recipe, **changes)


def _parsed(text: str, like: Any) -> Any:
    """Read a value of the same kind as another."""
    if isinstance(like, bool):
        if text.lower() not in ("yes", "no", "true", "false"):
            raise ValueError(text)
        return text.lower() in ("yes", "true")
    if isinstance(like, tuple):
        return tuple(type(like[0])(part) for part in text.split(","))
    return type(like)(text)
