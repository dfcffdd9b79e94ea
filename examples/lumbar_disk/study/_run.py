"""Run of the study: models trained and evaluated in a folder that several processes may share.

A results folder holds `study.json`, which says what it was made with, one folder per model, and the report.
Whatever is there is complete and is not made again; several processes, on one machine or many, may work on
one folder, each on a model that no other holds. With `torchrun`, the processes of one run share each model.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from lumbar_disk._core import sharing
from lumbar_disk._core.files import differences, read_json, read_tensors, reading, write, write_tensors
from lumbar_disk.data import Options, Prepared, load, planned
from lumbar_disk.network import Checkpoint, UNet, fit, untrained
from lumbar_disk.study._evaluation import Evaluation
from lumbar_disk.study._model import batches, criterion, share_of
from lumbar_disk.study._recipes import StudyRecipe, components_of, reconstructs, start_of
from lumbar_disk.virtual import ShapeModel, Stored, Stream, generate

PAUSE = 2.0  # seconds between two looks at what the others are doing
SHOWN = 2  # test discs whose adversarial images are kept for Figs 8 and 9


@dataclass(frozen=True)
class Work:
    """Work of a study beside the training of its models: how each is evaluated, and what decides that.

    Attributes:
        evaluate: Called in every process of a run with a trained network, the study and the model's folder;
            writes `table.csv` and `examples.npz` into it. A folder `journal` in it may keep what is finished
            until then, and is removed afterwards.
        settings: Its own settings, as JSON holds them; they stand with the recipe's, and decide its numbers.
        identity: What else decides its numbers, as JSON holds it.
        about: What `study.json` says of it beside these.
    """

    evaluate: Callable[[UNet, Study, Path], None]
    settings: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def measured(net: UNet, study: Study, folder: Path) -> None:
    """Attack at every radius; write the table, and the images of a few discs under attack."""
    recipe, test = study.recipe, study.data.test
    evaluation = Evaluation(
        recipe.radii, recipe.eval_steps, recipe.eval_batch, recipe.seed, recipe.auto_passes
    )
    journal = folder / "journal"
    try:
        table = evaluation.table(net, test, device=study.device, journal=journal, progress=study.progress)
    except ValueError as error:
        if str(journal) not in str(error):
            raise
        raise ValueError(
            f"{error}. Here: delete {journal} and run the same command again; the attacks on this model are "
            "then made again."
        ) from error
    if sharing.first():
        places = [(2 * i + 1) * len(test) // (2 * SHOWN) for i in range(SHOWN)]
        shown = evaluation.examples(net, test, places, device=study.device)
        write(folder / "examples.npz", partial(np.savez_compressed, **shown))
        table.save(folder / "table.csv")


ATTACKED = Work(measured)
"""The paper's work: attacks on each head at every radius of the recipe."""


@dataclass(frozen=True)
class Study:
    """Study in one results folder: its models trained, and each evaluated by the study's work.

    Attributes:
        recipe: What decides the numbers.
        data: The split discs.
        out: The folder.
        device: Where to compute.
        work: How the models are evaluated; by default attacked at every radius of the recipe.
        checkpoint_every: Seconds between two checkpoints of a training.
        progress: Whether to show progress bars.
    """

    recipe: StudyRecipe
    data: Prepared
    out: Path
    device: torch.device
    work: Work = ATTACKED
    checkpoint_every: float = 30.0
    progress: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The models to make: the std models, from which the others start, first."""
        wanted = self.recipe.models
        starts = [start_of(name) or name for name in wanted]
        return tuple(dict.fromkeys([*starts, *wanted]))

    def folder(self, name: str) -> Path:
        """A model's folder."""
        return self.out / "models" / name

    def done(self, name: str) -> bool:
        """Whether a model is trained and evaluated."""
        return (self.folder(name) / "model.json").exists()

    def weights(self, name: str) -> Path:
        """The file of a model's weights."""
        return self.folder(name) / "weights.pt"

    def identity(self) -> dict[str, Any]:
        """What decides every number of the folder."""
        manifest = self.data.manifest
        decided = self._settings() | {
            "arrays": manifest["arrays"],
            "test": sorted(manifest["test_patients"]),
            **self.work.identity,
        }
        return {key: value for key, value in decided.items() if key != "models"}

    def check(self) -> None:
        """Refuse, before anything is written, what this folder or these data cannot be used for.

        Raises:
            ValueError: If the folder was begun with another recipe or other data, the message says which; if
                what it says of a finished model is damaged; if the shapes do not vary in as many modes as a
                model needs, or processes cannot share a batch.
        """
        path = self.out / "study.json"
        if path.exists():
            known = read_json(
                path, "identity", remedy=f"Restore it, or choose another folder than {self.out}."
            )
            if changed := differences(known["identity"], self.identity()):
                raise ValueError(
                    f"{self.out} was begun with another recipe or other data: {'; '.join(changed)}. Go on "
                    "with those, or choose another --out."
                )
        self._times()
        share_of(self.recipe)
        for components in {components_of(name) for name in self.names}:
            ShapeModel.fit(self.data.train.contours, components)

    def run(self, command: str) -> None:
        """Make what is missing.

        Args:
            command: What the user typed; kept in `study.json`.

        Raises:
            ValueError: As for `check`; if a file of the folder is damaged.
        """
        if sharing.first():
            path = self.out / "study.json"
            with sharing.alone(self.out):
                self.check()
                if not path.exists():
                    _write_json(path, self.about(command))
        while True:
            with self._next() as name:
                if name is None:
                    break
                self._make(name)
        if sharing.first():
            self._close()

    def about(self, command: str) -> dict[str, Any]:
        """What `study.json` says."""
        data = self.data
        sides = {"train": data.train, "test": data.test}
        return {
            "command": command,
            "environment": _environment(self.device),
            "recipe": self._settings(),
            "identity": self.identity(),
            "data": data.manifest,
            "patients": {side: len(set(discs.patients)) for side, discs in sides.items()},
            "discs": {side: len(discs) for side, discs in sides.items()},
            "wall_seconds": None,
            **self.work.about,
        }

    def _settings(self) -> dict[str, Any]:
        """The settings of recipe and work together."""
        return {**asdict(self.recipe), **self.work.settings}

    def _close(self) -> None:
        """Write how long it took, from the first model's beginning to the last one's end."""
        path = self.out / "study.json"
        with sharing.alone(self.out):
            began, ended = zip(*self._times(), strict=True)
            wall = max(ended) - min(began)
            _write_json(path, read_json(path) | {"wall_seconds": round(wall, 1)})

    def _times(self) -> list[tuple[float, float]]:
        """When each finished model was begun and ended."""
        made = [read_json(file, "began", "ended") for file in self.out.glob("models/*/model.json")]
        return [(model["began"], model["ended"]) for model in made]

    @contextmanager
    def _next(self) -> Iterator[str | None]:
        """Hold a model that nobody has made or is making; wait where all that is left is in other hands.

        Yields:
            Its name; the same in every process of a run. None when all are made.
        """
        choice: list[str | None] = [None]
        lock = None
        while sharing.first() and lock is None and not all(map(self.done, self.names)):
            for name in self.names:
                start = start_of(name)
                if not self._wanted(name) or (start and not self.weights(start).exists()):
                    continue
                lock = sharing.taken(self.folder(name))
                if lock is not None and not self._wanted(name):  # it was finished in between
                    lock.release()
                    lock = None
                if lock is not None:
                    choice[0] = name
                    break
            else:
                time.sleep(PAUSE)
        if distributed.is_initialized():
            distributed.broadcast_object_list(choice)
        try:
            yield choice[0]
        finally:
            if lock is not None:
                lock.release()

    def _wanted(self, name: str) -> bool:
        """Whether a model is to be made, or its weights, gone since, for one that starts from them."""
        followers = [other for other in self.names if start_of(other) == name and not self.done(other)]
        return not self.done(name) or (bool(followers) and not self.weights(name).exists())

    def _make(self, name: str) -> None:
        """Train and evaluate a model."""
        began, folder, done = time.time(), self.folder(name), self.done(name)
        net, seconds = self.trained(name)
        start = time.perf_counter()
        if not done:
            self.work.evaluate(net, self, folder)
        if sharing.first() and not done:
            _write_json(
                folder / "model.json",
                {
                    "name": name,
                    "steps": self.recipe.steps(name),
                    "warm_start": start_of(name),
                    "parameters": sum(parameter.numel() for parameter in net.parameters()),
                    "seconds_training": round(seconds, 1),
                    "seconds_evaluation": round(time.perf_counter() - start, 1),
                    "began": began,
                    "ended": time.time(),
                },
            )
            shutil.rmtree(folder / "journal", ignore_errors=True)
        if sharing.first():
            (folder / "checkpoint.pt").unlink(missing_ok=True)
        sharing.wait()

    def trained(self, name: str) -> tuple[UNet, float]:
        """A network, trained as far as it was not yet, and the seconds that its training took."""
        recipe, folder = self.recipe, self.folder(name)
        net = untrained(recipe.width, recipe.size, recipe.seed, reconstruction=reconstructs(name)).to(
            self.device
        )
        weights = self.weights(name)
        if weights.exists():
            return net.eval(), self._filled(net, name)
        if start := start_of(name):
            self._filled(net, start)
        if recipe.compile:
            net.compile()
        seconds = fit(
            net,
            batches(recipe, self._source(name), self.data.train.to(self.device)),
            lambda step: criterion(recipe, name, step // recipe.batches),
            steps=recipe.steps(name),
            lr=recipe.lr,
            decay=recipe.decay,
            average=recipe.average,
            seed=recipe.seed,
            precision=recipe.precision,
            checkpoint=Checkpoint(
                folder / "checkpoint.pt", {"model": name} | self.identity(), self.checkpoint_every
            ),
            name=name,
            progress=self.progress and sharing.first(),
        )
        if sharing.first():
            write_tensors(weights, {"net": net.state_dict(), "seconds": seconds})
        return net, seconds

    def _filled(self, net: UNet, name: str) -> float:
        """Give a network the weights of a model; the seconds that its training took."""
        path = self.weights(name)
        kept = read_tensors(path, self.device, "net", "seconds")
        with reading(path):
            net.load_state_dict(kept["net"])
        return float(kept["seconds"])

    def _source(self, name: str) -> Stream | Stored:
        """A model's virtual discs; those on disk are made by whichever process comes first."""
        recipe, discs = self.recipe, self.data.train.to(self.device)
        model = ShapeModel.fit(discs.contours, components_of(name))
        stream = Stream(discs, model, seed=recipe.seed, kernel=recipe.kernel)
        if not recipe.stored:
            return stream
        folder = self.out / "virtual" / f"P{components_of(name)}"
        if sharing.first():
            with sharing.alone(folder):
                generate(stream, folder, recipe.virtual, shard=2048, progress=self.progress)
        sharing.wait()
        return Stored(folder)


def begun(options: Options, out: Path, make: Callable[[Prepared], Study], *, command: str) -> Study:
    """Prepare the data into a results folder, once for all processes, and make the study of them.

    Nothing is written before the data are made and `Study.check` has had its say.

    Args:
        options: What to prepare.
        out: The results folder; left as it was, or not made, where something is refused.
        make: Makes the study of the split discs.
        command: What the user typed.

    Raises:
        FileNotFoundError: As `lumbar_disk.data.prepare`.
        ValueError: As there; as `Study.check`.
    """
    path = out / "data.npz"
    study: Study | None = None
    if sharing.first():
        with sharing.alone(out):
            plan = planned(options, path, command=command, progress=True)
            study = make(plan.data())
            study.check()
            plan.write()
    sharing.wait()
    return study or make(load(path))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write(path, json.dumps(content, indent=1) + "\n")


def _environment(device: torch.device) -> dict[str, Any]:
    """What the numbers were computed with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("advreg", "torch", "numpy", "scipy")},
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": sharing.place()[1],
    }


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
