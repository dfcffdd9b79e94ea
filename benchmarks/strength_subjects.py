"""What `strength.py` attacks: the networks of the study, or those of the scenes, each on its images."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import skimage
import sklearn
import torch
from strength_methods import Entry, entries, scene_entries, theirs
from strength_scenes import SCENES
from torch import Tensor, nn
from trained import Heads, Study, measured


@dataclass(frozen=True)
class Subject:
    """What is attacked: a network, images, their targets, and what they are judged by.

    Attributes:
        heads: Those that are attacked.
        groups: Of each image, what the bootstrap keeps together, such as a patient.
        measured: From network, images, target and head to each metric, example by example.
        known: What decides the numbers: digests of weights and data.
    """

    net: nn.Module
    x: Tensor
    y: Heads
    heads: Sequence[str]
    groups: Sequence[str]
    measured: Callable[[nn.Module, Tensor, Heads, str], dict[str, list[float]]]
    known: dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """What is attacked, and by what.

    Attributes:
        subjects: By name, of the same number of images each.
        entries: The methods.
        missing: By library, why its attacks are missing.
        data: The images, in words.
        groups: What the bootstrap resamples, in words.
        work: Where cells are kept.
    """

    subjects: dict[str, Subject]
    entries: list[Entry]
    missing: dict[str, str]
    data: str
    groups: str
    work: Path


def of_study(study: Study, models: Sequence[str], heads: Sequence[str], work: Path) -> Contest:
    """Networks of the study on its test discs, and every method on its heads."""
    subjects = {model: study_subject(study, model, heads) for model in models}
    found, missing = entries()
    patients = len(set(study.data.test.patients))
    groups = f"patients whole; of {patients} patients, so they are the least that the uncertainty may be"
    return Contest(subjects, found, missing, about_study(study), groups, work)


def of_scenes(names: Sequence[str], part: str, work: Path) -> Contest:
    """The networks of scenes on one part of their images."""
    subjects = {name: scene_subject(name, part, work) for name in names}
    scenes = [SCENES[name] for name in names]
    others, missing = theirs([scene.kind for scene in scenes])
    found = [entry for scene in scenes for entry in scene_entries(scene)]
    return Contest(subjects, found + others, missing, about_scenes(subjects, part), "images", work / part)


def study_subject(study: Study, model: str, heads: Sequence[str]) -> Subject:
    """A network of the study, on its test discs."""
    test = study.data.test
    known = {"weights": digest(study.weights(model)), "data": study.data.manifest["arrays"]}
    return Subject(study.net(model), test.images, test.target(), heads, test.patients, measured, known)


def scene_subject(name: str, part: str, work: Path) -> Subject:
    """The network of a scene, on one part of its images."""
    scene, weights = SCENES[name], work / "weights" / f"{name}.pt"
    net, (x, target) = scene.net(weights), scene.data(part)

    def measure(net: nn.Module, x: Tensor, y: Heads, head: str) -> dict[str, list[float]]:
        with torch.no_grad():
            return scene.measured(net(x)[head], y[head])

    arrays = [hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in (x, target)]
    known = {"weights": digest(weights), "data": dict(zip(("images", "targets"), arrays, strict=True))}
    groups = [str(number) for number in range(len(x))]
    return Subject(net, x, {scene.kind.key: target}, (scene.kind.key,), groups, measure, known)


def about_study(study: Study) -> str:
    """The study's data, in words."""
    test, arrays = study.data.test, study.data.manifest["arrays"]
    return (
        f"{len(test)} test discs of {len(set(test.patients))} patients, data (SHA-256 of images and "
        f"contours) {arrays['images'][:16]}, {arrays['contours'][:16]}"
    )


def about_scenes(subjects: dict[str, Subject], part: str) -> str:
    """The scenes' data, and what the networks make of clean images."""
    told = []
    for name, subject in subjects.items():
        head = SCENES[name].kind.key
        means = {
            metric: sum(each) / len(each)
            for metric, each in subject.measured(subject.net, subject.x, subject.y, head).items()
        }
        clean = ", ".join(f"{metric} {mean:.3f}" for metric, mean in means.items())
        told.append(f"{name} ({len(subject.x)} images, clean {clean})")
    packages = f"scikit-learn {sklearn.__version__} and scikit-image {skimage.__version__}"
    return f"images {part!r} of {packages}: {'; '.join(told)}"


@cache
def digest(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
