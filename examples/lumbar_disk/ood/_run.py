"""Run of out-of-distribution attacks on three networks, and of detectors under them (paper, section 3.2).

Each test disc gets a partner from every source of strange images, and the attack moves the partner until the
network answers as it does for the disc. Three adversaries: none, one that knows of no detector, and one that
lowers a detector's score as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage  # type: ignore[import-untyped]  # scipy ships no types
from torch import Tensor
from tqdm import tqdm

from advreg import (
    Adamax,
    J_OOD_reg,
    J_OOD_seg,
    Threat,
    contour_dice,
    dice,
    l2,
    on,
    ood_attack,
    point_error,
    weighted,
)
from advreg.attacks import nearest_in_distribution
from advreg.detectors import (
    Detector,
    MahalanobisDetector,
    NearestNeighbourDetector,
    ReconstructionDetector,
    aware,
    lower_score,
    scores,
)
from advreg.evaluation import Row, Table
from advreg.execution import Model
from advreg.objectives import PerExample, Within
from lumbar_disk._core import sharing
from lumbar_disk._core.files import checksum, read_tensors, write, write_tensors
from lumbar_disk.data import Heads, Prepared
from lumbar_disk.network import UNet
from lumbar_disk.ood._images import Source, partners
from lumbar_disk.ood._recipe import OODRecipe
from lumbar_disk.ood._tables import (
    AWARE,
    DETECTOR,
    FINISHED,
    IN,
    L2_NORM,
    NEAREST,
    NONE,
    OTHERS,
    OWN,
    STEP,
    UNAWARE,
    WALK,
)
from lumbar_disk.study import CONTOUR_DICE, MASK_DICE, POINT_ERROR, Study, Work

SHOWN = 3  # test discs whose images are kept for the figures
LAYER = "bottleneck"  # the encoder's code, which the detectors of features look at


def contours_agree(output: Tensor, target: Tensor) -> Tensor:
    """Minus the mean squared distance of the coordinates, the released code's term: `(B,)`."""
    return -(output - target).square().flatten(1).mean(1)


def masks_agree(output: Tensor, target: Tensor) -> Tensor:
    """The Dice of two decided masks, given as logits: `(B,)`."""
    return dice(output, (target > 0).to(output))


JOINT = weighted((1.0, on("contour", contours_agree)), (1.0, on("mask", J_OOD_seg)))
HEADWISE: dict[str, PerExample] = {"reg": on("contour", J_OOD_reg), "seg": on("mask", J_OOD_seg)}


@dataclass(frozen=True)
class Adversary:
    """Adversary of a trial: one way to attack.

    Attributes:
        name: "reg", "seg", "unaware", "walk" or "aware:DETECTOR".
        objective: What it maximises.
        heads: Those that must match for a pair to be finished; none for an adversary that runs to the end.
        detector: The one whose score it lowers too.
        walk: Whether it begins at the point of the ball that is nearest to the disc, and not at the image.
    """

    name: str
    objective: PerExample
    heads: tuple[str, ...]
    detector: Detector | None = None
    walk: bool = False


def ood_work(recipe: OODRecipe, sources: tuple[Source, ...]) -> Work:
    """Work of the out-of-distribution study: each network attacked from every source by every adversary.

    Args:
        recipe: Of the attacks.
        sources: Where they start.

    Returns:
        What `lumbar_disk.study.Study` takes as its work.
    """

    def evaluate(net: UNet, study: Study, folder: Path) -> None:
        if sharing.first():
            training = study.recipe
            trial = Trial(
                net, study.data, recipe, study.device, batch=training.eval_batch, seed=training.seed
            )
            table, shown = trial.run(sources, folder / "journal", progress=study.progress)
            arrays: dict[str, Any] = {
                key: np.asarray(value.cpu() if isinstance(value, Tensor) else value)
                for key, value in shown.items()
            }
            write(folder / "examples.npz", partial(np.savez_compressed, **arrays))
            table.save(folder / "table.csv")
        sharing.wait()

    images = {
        one.name: {"images": len(one.images), "sha256": checksum(one.images.numpy())} for one in sources
    }
    told = {one.name: {"images": len(one.images), "skipped": list(one.skipped)} for one in sources}
    return Work(evaluate, asdict(recipe), {"sources": images}, {"ood": {"sources": told}})


class Trial:
    """Trial of one network: its detectors fitted, its adversaries attacking from every source.

    Args:
        net: The trained network.
        data: The split discs; detectors are fitted to the training discs, the test discs are attacked.
        recipe: Of the attacks.
        device: Where to compute.
        batch: Discs attacked together.
        seed: Of the attacks' chance.
    """

    def __init__(
        self,
        net: UNet,
        data: Prepared,
        recipe: OODRecipe,
        device: torch.device,
        *,
        batch: int,
        seed: int,
    ) -> None:
        self.net, self.recipe, self.device, self.batch, self.seed = net, recipe, device, batch, seed
        self.test = data.test.to(device)
        self.discs = torch.cat([data.train.images.to(device), self.test.images])
        self.detectors: dict[str, Detector] = {}
        if "reconstruction" not in net.heads:
            heads = zip(HEADWISE.items(), ("contour", "mask"), strict=True)
            self.adversaries = [Adversary(name, objective, (head,)) for (name, objective), head in heads]
            return
        train = torch.split(data.train.images.to(device), batch)
        self.detectors = {
            "reconstruction": ReconstructionDetector(net),
            "mahalanobis": MahalanobisDetector(net, LAYER).fit(train),
            "knn": NearestNeighbourDetector(net, LAYER).fit(train),
        }
        both = ("contour", "mask")
        self.adversaries = [Adversary(UNAWARE, JOINT, both), Adversary(WALK, JOINT, both, walk=True)]
        for name, detector in self.detectors.items():
            weight = recipe.ood_weight / float(scores(detector, train).std())
            self.adversaries.append(Adversary(f"{AWARE}{name}", lower_score(JOINT, weight), (), detector))

    def run(
        self, sources: tuple[Source, ...], journal: Path, *, progress: bool
    ) -> tuple[Table, dict[str, Any]]:
        """Attack from every source with every adversary.

        Args:
            sources: Where the attacks start.
            journal: A folder for what is finished, source by source and adversary by adversary.
            progress: Whether to show a progress bar.

        Returns:
            The table, and arrays of the first discs with the first source, for the figures.
        """
        journal.mkdir(parents=True, exist_ok=True)
        starts = {name: x.to(self.device) for name, x in partners(sources, len(self.test)).items()}
        first = "lung_ct" if "lung_ct" in starts else next(iter(starts))
        rows = self.scored(IN, 0.0, self.test.images, self.detectors)
        shown = {
            "source": first,
            "patients": self.test.patients[:SHOWN],
            "levels": self.test.levels[:SHOWN],
            **self.pictures(IN, self.test.images),
            **self.pictures(NONE, starts[first]),
        }
        jobs = [(source, adversary) for source in starts for adversary in self.adversaries]
        with tqdm(jobs, desc="ood", unit="attack", disable=not progress) as bar:
            for source, adversary in bar:
                bar.set_postfix(source=source, adversary=adversary.name)
                if adversary is self.adversaries[0]:
                    clean = f"{source}/{NONE}"
                    rows += self.scored(clean, 0.0, starts[source], self.detectors)
                    rows += self.compared(clean, 0.0, starts[source])
                    nearest = nearest_in_distribution(starts[source], self.discs)
                    rows += self.rows(clean, 0.0, {NEAREST: nearest.distance})
                file = journal / f"{source}-{adversary.name.replace(':', '_')}.pt"
                if not file.exists():
                    write_tensors(file, self.attack(adversary, starts[source]))
                found = read_tensors(file, self.device, "x", "step", "finished")
                rows += self.attacked(adversary, source, starts[source], found)
                if source == first:
                    shown |= self.pictures(adversary.name.replace(":", "_"), found["x"])
        return Table(tuple(rows)), shown

    def attack(self, adversary: Adversary, x_out: Tensor) -> dict[str, Tensor]:
        """Attack all discs' partners; return `x`, `step` and `finished`."""
        recipe = self.recipe
        conditions = {
            "contour": Within(on("contour", point_error), high=recipe.contour_within),
            "mask": Within(on("mask", masks_agree), low=recipe.mask_within),
        }
        model: Model = self.net if adversary.detector is None else aware(self.net, adversary.detector)
        parts = []
        for some in torch.split(torch.arange(len(x_out)), self.batch):
            found = ood_attack(
                model,
                self.test.images[some],
                x_out[some],
                objective=adversary.objective,
                threat=Threat(l2, recipe.ood_radius),
                rule=Adamax(recipe.ood_alpha, relative=False),
                steps=recipe.ood_steps,
                random_start=False,
                walk=adversary.walk,
                match={head: conditions[head] for head in adversary.heads},
                seed=self.seed,
                index=some,
            )
            parts.append({"x": found.x, "step": found.step, "finished": found.finished})
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def attacked(self, adversary: Adversary, source: str, x_out: Tensor, found: Heads) -> list[Row]:
        """Everything that is measured on adversarial images."""
        name, radius, x = f"{source}/{adversary.name}", self.recipe.ood_radius, found["x"]
        change = x - x_out
        own, others = disc_likeness(change, self.test.masks)
        measured = {
            STEP: found["step"],
            FINISHED: found["finished"],
            L2_NORM: change.flatten(1).norm(dim=1),
            OWN: own,
            OTHERS: others,
        }
        seen = {
            key: detector
            for key, detector in self.detectors.items()
            if adversary.detector in (None, detector)
        }
        return [
            *self.compared(name, radius, x),
            *self.rows(name, radius, measured),
            *self.scored(name, radius, x, seen),
        ]

    def compared(self, name: str, radius: float, x: Tensor) -> list[Row]:
        """Compare the network's answers to `x` with those to the test discs."""
        mine, theirs = self.answers(x), self.answers(self.test.images)
        size = (x.shape[-2], x.shape[-1])
        measured = {
            CONTOUR_DICE.column: contour_dice(mine["contour"], theirs["contour"], size=size),
            POINT_ERROR.column: point_error(mine["contour"], theirs["contour"]),
            MASK_DICE.column: masks_agree(mine["mask"], theirs["mask"]),
        }
        return self.rows(name, radius, measured)

    def scored(self, name: str, radius: float, x: Tensor, detectors: Mapping[str, Detector]) -> list[Row]:
        """Let detectors judge images."""
        parts = torch.split(x, self.batch)
        measured = {(DETECTOR, key): scores(detector, parts) for key, detector in detectors.items()}
        return self.rows(name, radius, measured)

    def rows(self, name: str, radius: float, measured: Mapping[tuple[str, str], Tensor]) -> list[Row]:
        """Measures `(N,)` as rows of the table."""
        return [
            Row(index, self.test.patients[index], radius, name, head, metric, float(value))
            for (head, metric), values in measured.items()
            for index, value in enumerate(values.tolist())
        ]

    def answers(self, x: Tensor) -> Heads:
        """The network's answers, all heads."""
        with torch.no_grad():
            parts = [self.net(part) for part in torch.split(x, self.batch)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def pictures(self, name: str, x: Tensor) -> dict[str, Tensor]:
        """The first images with the network's answers, as `x_NAME`, `contour_NAME` and so on."""
        some = x[:SHOWN]
        found = {f"{key}_{name}": value for key, value in self.answers(some).items() if key != "image"}
        return {f"x_{name}": some, **found}


def disc_likeness(change: Tensor, masks: Tensor, blur: float = 1 / 32) -> tuple[Tensor, Tensor]:
    """Correlate smoothed perturbations with the masks of discs.

    Args:
        change: `(N, 1, S, S)` perturbations; the i-th was made to look like the i-th disc.
        masks: `(N, 1, S, S)` the discs.
        blur: Standard deviation of the smoothing, as a share of the side.

    Returns:
        Magnitudes of the correlation over pixels: with each perturbation's own disc `(N,)`, and the mean
        over all other discs `(N,)`, which is what any disc in the middle of the image would give.
    """
    sigma = blur * change.shape[-1]
    smooth = ndimage.gaussian_filter(change[:, 0].cpu().double().numpy(), (0, sigma, sigma))
    signals, shapes = torch.from_numpy(smooth).flatten(1), masks.cpu().double().flatten(1)

    def unit(values: Tensor) -> Tensor:
        centred = values - values.mean(1, keepdim=True)
        size = centred.norm(dim=1, keepdim=True)
        return centred / torch.where(size > 0, size, 1)

    table = (unit(signals) @ unit(shapes).mT).abs()
    own = table.diagonal()
    return own, (table.sum(1) - own) / max(1, len(table) - 1)
