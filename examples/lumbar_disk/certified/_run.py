"""Run of the certificates: each network under noise certified from below, and attacked from above."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from advreg import Threat, auto_attack, l2, radius_curve
from advreg.attacks import critical_radius
from advreg.certificates import certified_curve, certified_radius, draws, over_draws, under_noise
from advreg.evaluation import Row, Table
from advreg.execution import Model
from advreg.tasks import Task
from lumbar_disk._core import sharing
from lumbar_disk._core.files import read_tensors, write_tensors
from lumbar_disk.certified._recipe import CertifiedRecipe
from lumbar_disk.data import Discs, Heads
from lumbar_disk.network import UNet
from lumbar_disk.study import MASK_DICE, POINT_ERROR, SIGMAS, Measure, Study, Work, sigma_of

MEASURED = (MASK_DICE, POINT_ERROR)  # of both heads one
CRITICAL = "critical radius"  # the attack's name, and the metric's, in the table
FOLLOWED, JUDGED = 1, 2  # seeds of the noise that attacks follow, and over which they are judged
TOGETHER = 2  # discs at once, each under all its draws
STRETCHED = (0.8, 1.6)  # of a change, between which other draws agree that it crosses
HALVINGS = 6  # of that interval: to a hundredth of the radius

Given = tuple[Tensor, Heads, Tensor]  # images, target, places


@dataclass(frozen=True)
class Expectation:
    """Attack on the median of a measure over noise: `auto_attack` on the expectation over fresh draws.

    Attributes:
        net: The network without noise.
        sigma: Deviation of the noise.
        draws: How many it follows in each pass.
        head: The head that is attacked.
        task: Of the head, without noise.
        passes: Budget, each a pass of all draws.
    """

    net: Model
    sigma: float
    draws: int
    head: str
    task: Task
    passes: int

    def __call__(self, model: Model, x: Tensor, y: Heads, **told: Any) -> Any:
        """The attack's result; `model`, what it is measured on, has other draws."""
        del model
        noisy = draws(self.net, self.sigma, self.draws, seed=FOLLOWED, fresh=True)
        return auto_attack(noisy, x, y, heads={self.head: under_noise(self.task)}, budget=self.passes, **told)


def certified_work(recipe: CertifiedRecipe) -> Work:
    """Work of the certificates, as `lumbar_disk.study.Study` takes it: what is guaranteed, and what is found.

    Args:
        recipe: Of both.
    """

    def evaluate(net: UNet, study: Study, folder: Path) -> None:
        if sharing.first():
            discs = spread(study.data.test, recipe.cert_discs)
            sigma = sigma_of(folder.name) or min(SIGMAS)
            trial = Trial(net, sigma, discs.to(study.device), recipe, study.recipe.seed, study.progress)
            journal = folder / "journal"
            table = trial.guaranteed(journal) + trial.found(journal) + trial.critical(journal)
            table.save(folder / "table.csv")
        sharing.wait()

    return Work(evaluate, asdict(recipe), about={"certified": {"sigma": {"others": min(SIGMAS)}}})


def spread(discs: Discs, each: int) -> Discs:
    """So many discs of each patient, from everywhere in the patient's list."""
    places: dict[str, list[int]] = {}
    for place, patient in enumerate(discs.patients):
        places.setdefault(patient, []).append(place)
    chosen = []
    for own in places.values():
        count = min(each, len(own))
        chosen += [own[(2 * i + 1) * len(own) // (2 * count)] for i in range(count)]
    return discs.take(chosen)


@dataclass(frozen=True)
class Trial:
    """Trial of one network under noise: what is guaranteed of it, and what is found.

    Attributes:
        net: The trained network.
        sigma: Deviation of the noise.
        discs: The discs, where to compute.
        recipe: Of certificates and attacks.
        seed: Of their chance.
        progress: Whether to show progress bars.
    """

    net: UNet
    sigma: float
    discs: Discs
    recipe: CertifiedRecipe
    seed: int
    progress: bool = False

    @property
    def tasks(self) -> dict[Measure, Task]:
        """The task of each measure."""
        size = (self.discs.images.shape[-2], self.discs.images.shape[-1])
        return {measure: measure.task(size) for measure in MEASURED}

    def batches(self) -> Iterator[Given]:
        """The discs, a few at a time."""
        for places in torch.split(torch.arange(len(self.discs)), TOGETHER):
            part = self.discs.take(places.tolist())
            yield part.images, part.target(), places

    def guaranteed(self, journal: Path) -> Table:
        """What no perturbation makes worse, at each radius: the rows of `advreg.certificates.certify`."""
        recipe = self.recipe
        return certified_curve(
            self.net,
            self.batches(),
            {one.head: {one.metric: task} for one, task in self.tasks.items()},
            sigma=self.sigma,
            radii=(0.0, *recipe.cert_radii),
            samples=recipe.cert_samples,
            confidence=recipe.cert_confidence,
            groups=self.discs.patients,
            journal=journal / "guaranteed",
            seed=self.seed,
            progress=self.progress,
        )

    def found(self, journal: Path) -> Table:
        """What attacks on each measure reach at each radius: the median over draws that they did not see."""
        recipe = self.recipe
        attacks: dict[str, Callable[..., Any]] = {
            one.attack("auto"): Expectation(
                self.net, self.sigma, recipe.cert_draws, one.head, task, recipe.cert_passes
            )
            for one, task in self.tasks.items()
        }
        return radius_curve(
            draws(self.net, self.sigma, recipe.cert_judged, seed=JUDGED),
            self.batches(),
            {one.head: {one.metric: over_draws(task.metric)} for one, task in self.tasks.items()},
            attacks,
            (0.0, *recipe.cert_radii),
            threat=Threat(l2, 0.0),
            groups=self.discs.patients,
            journal=journal / "found",
            seed=self.seed,
            progress=self.progress,
        )

    def critical(self, journal: Path) -> Table:
        """The radius of each disc at which each measure's median crosses its threshold, from both sides."""
        thresholds = {MASK_DICE: self.recipe.cert_dice, POINT_ERROR: self.recipe.cert_error}
        jobs = [(one, given) for one in MEASURED for given in self.batches()]
        rows = []
        for one, given in tqdm(jobs, CRITICAL, unit="job", disable=not self.progress):
            file = journal / f"{one.name}-{int(given[2][0])}.pt"
            if not file.exists():
                low, high = self._bracket(given, one, self.tasks[one], thresholds[one])
                write_tensors(file, {"guaranteed": low, "found": high})
            kept = read_tensors(file, torch.device("cpu"), "guaranteed", "found")
            for bound in ("guaranteed", "found"):
                for place, value in zip(given[2].tolist(), kept[bound].tolist(), strict=True):
                    patient = self.discs.patients[place]
                    rows.append(Row(place, patient, 0.0, CRITICAL, one.head, CRITICAL, value, bound))
        return Table(tuple(rows))

    def _bracket(self, given: Given, one: Measure, task: Task, threshold: float) -> tuple[Tensor, Tensor]:
        """The radius within which the median cannot cross, and one at which it does, `(b,)` float64."""
        recipe, (x, y, places) = self.recipe, given
        low = certified_radius(
            self.net,
            x,
            y,
            task,
            threshold,
            sigma=self.sigma,
            head=one.head,
            samples=recipe.cert_samples,
            confidence=recipe.cert_confidence,
            seed=self.seed,
            index=places,
        )
        threat = Threat(l2, recipe.cert_largest)
        found = critical_radius(
            draws(self.net, self.sigma, recipe.cert_draws, seed=FOLLOWED),
            x,
            y,
            under_noise(task),
            threshold,
            threat,
            head=one.head,
            budget=recipe.cert_critical,
            seed=self.seed,
            index=places,
        )
        # a crossing of the draws that were followed; how much further until the median of others crosses
        judge, metric = draws(self.net, self.sigma, recipe.cert_judged, seed=JUDGED), over_draws(task.metric)
        high = torch.full_like(low, torch.inf)
        short, far = (x.new_full((len(x), 1, 1, 1), value) for value in STRETCHED)
        stretch = far
        for _ in range(1 + HALVINGS):
            point = (x + stretch * (found.x - x)).clamp(0, 1)
            with torch.no_grad():
                value = metric(judge(point)[one.head], y[one.head])
            crossed = task.sign * value > task.sign * threshold
            high = torch.where(crossed.cpu(), threat.distance(point, x).double().cpu(), high)
            beyond = crossed.reshape(short.shape)
            short, far = torch.where(beyond, short, stretch), torch.where(beyond, stretch, far)
            stretch = (short + far) / 2
        return low, high
