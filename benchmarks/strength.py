"""How much damage an attack does with the passes it is allowed: this library, the paper's attack, and peers.

The study's test discs, models and metrics; Linf balls. A pass is one forward pass and one gradient of the
input, per example, counted by a wrapper around the network: `pgd_attack(steps=N)` takes N, and so do the
peers, whose `steps` are chosen for it. Forward passes without a gradient (`pgd_attack` takes two) are
counted apart. What an attack returns is measured by the network itself, with the study's metrics: hard Dice
of the mask; point error in pixels and Dice of the contour.

    python benchmarks/strength.py --study results/small-spider [--models P10_std P10_adv_rs]
        [--passes 20 100 500] [--radii 0.01 0.03 0.07] [--part all|ours|peers|table] [--methods 'foolbox*']

Each cell (model, head, radius, passes, method) is one JSON file in `--work`, written whole. Processes that
run at once share the cells; one that is killed leaves its cell to the others. Delete the cells of a method
whose code has changed. The table is made of all cells that are there.
"""

import argparse
import hashlib
import json
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import strength_plot
import strength_table
import torch
from filelock import FileLock, Timeout
from peers_tried import tried
from peers_views import Counting
from strength_methods import Entry, entries
from torch import Tensor, nn
from trained import Heads, Study, measured, read

from advreg import Threat, __version__, linf
from advreg.evaluation import written_whole


@dataclass(frozen=True)
class Cell:
    model: str
    radius: float
    passes: int
    entry: Entry

    def path(self, work: Path) -> Path:
        entry = self.entry
        text = "".join(c if c.isalnum() or c in ".-" else "_" for c in entry.method)
        short = hashlib.sha256(entry.method.encode()).hexdigest()[:8]
        return work / self.model / f"{entry.head}_{self.radius:g}_{self.passes}" / f"{text[:60]}_{short}.json"


def run(cell: Cell, net: nn.Module, x: Tensor, y: Heads, seed: int) -> dict[str, Any]:
    """Attack, count, check and measure. What a peer raises is its result."""
    counting, entry = Counting(net), cell.entry
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            if entry.group == "peers":
                warnings.simplefilter("ignore")
            found = entry.attack(counting, x, y, cell.radius, cell.passes, seed)
    except Exception as error:
        if entry.group != "peers":
            raise
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    seconds = time.perf_counter() - start
    excess = torch.maximum((found - x).abs() - cell.radius, torch.maximum(-found, found - 1))
    return {
        "values": measured(net, found, y, entry.head),
        "passes": round(counting.gradients / len(x), 3),
        "forwards": round((counting.forwards - counting.gradients) / len(x), 3),
        "seconds": round(seconds, 3),
        "outside": int((~Threat(linf, cell.radius).contains(found, x)).sum()),
        "excess": max(0.0, excess.max().item()),
    }


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a cell, if no other process does; the lock falls with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@cache
def digest(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(cell: Cell, study: Study, seed: int) -> dict[str, Any]:
    """What decides a cell's numbers, but for the code of its method."""
    entry = cell.entry
    return {
        "model": cell.model,
        "weights": digest(study.weights(cell.model)),
        "data": study.data.manifest["arrays"],
        "head": entry.head,
        "radius": cell.radius,
        "passes": cell.passes,
        "group": entry.group,
        "method": entry.method,
        "version": entry.version,
        "torch": torch.__version__,
        "seed": seed,
    }


def save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1) + "\n"
    with written_whole(path) as file:
        file.write(text)


def attack_all(cells: list[Cell], study: Study, work: Path, seed: int) -> None:
    """Make the cells that nobody has made or is making."""
    test, nets = study.data.test, {name: study.net(name) for name in {cell.model for cell in cells}}
    x, y = test.images, test.target()
    for number, cell in enumerate(cells, 1):
        path, known = cell.path(work), identity(cell, study, seed)
        with held(path) as mine:
            if not mine or read(path).get("identity") == known:
                continue
            found = run(cell, nets[cell.model], x, y, seed)
            save(path, {"identity": known, **found})
        where = f"{cell.model} {cell.entry.head} {cell.radius:g} {cell.passes}"
        means = {name: sum(each) / len(each) for name, each in found.get("values", {}).items()}
        text = " ".join(f"{name} {mean:.4f}" for name, mean in means.items()) or found["error"]
        print(f"[{number}/{len(cells)}] {where} {cell.entry.method}: {text}", flush=True)


def setting(study: Study, options: argparse.Namespace, missing: dict[str, str], made: list[Entry]) -> str:
    """With what the numbers were computed."""
    data = study.data
    test, arrays = data.test, data.manifest["arrays"]
    versions = sorted({f"{e.method.split()[0]} {e.version}" for e in made if e.group == "peers"})
    absent = "".join(f"; not here: {name} ({why})" for name, why in missing.items())
    return (
        f"`python benchmarks/strength.py {shlex.join(sys.argv[1:])}`\n\n"
        f"advreg {__version__}, torch {torch.__version__}, {', '.join(versions)}{absent}; "
        f"{platform.machine()}, {options.threads} threads a process; {len(test)} test discs of "
        f"{len(set(test.patients))} patients, data (SHA-256 of images and contours) "
        f"{arrays['images'][:16]}, {arrays['contours'][:16]}; seed {options.seed}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, default=Path("results/small-spider"))
    parser.add_argument("--models", nargs="+", default=["P10_std", "P10_adv_rs"])
    parser.add_argument("--passes", type=int, nargs="+", default=[20, 100, 500])
    parser.add_argument("--radii", type=float, nargs="+", default=[0.01, 0.03, 0.07])
    parser.add_argument("--heads", nargs="+", default=["mask", "contour"], choices=["mask", "contour"])
    parser.add_argument("--part", default="all", choices=["all", "ours", "peers", "table"])
    parser.add_argument(
        "--methods", nargs="+", default=["*"], help="patterns of names, such as 'foolbox PGD*'"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("results/strength"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "strength")
    options = parser.parse_args()

    study = Study(options.study)
    torch.set_num_threads(options.threads)
    made, missing = entries()
    groups = {
        "all": {"paper", "ours", "peers"},
        "ours": {"paper", "ours"},
        "peers": {"peers"},
        "table": set(),
    }
    wanted = [
        entry
        for entry in made
        if entry.group in groups[options.part]
        and entry.head in options.heads
        and any(fnmatch(entry.method, pattern) for pattern in options.methods)
    ]
    cells = [
        Cell(model, radius, passes, entry)
        for passes in options.passes  # the cheap ones first
        for radius in options.radii
        for model in options.models
        for entry in wanted
    ]
    attack_all(cells, study, options.work, options.seed)

    what_came = options.work / "tried.json"
    test = study.data.test
    if options.part in ("all", "peers") and not what_came.exists():
        save(what_came, tried(study.net(options.models[0]), test.images, test.target(), options.radii[-1]))
    found = [read(path) for path in sorted(options.work.glob("*/*/*.json"))]
    calls = json.loads(what_came.read_text(encoding="utf-8")) if what_came.exists() else []
    text, content = strength_table.tables(found, test.patients, calls)
    about = setting(study, options, missing, made)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(options.out.with_suffix(".md")) as file:
        file.write(f"{about}\n\n{text}")
    save(options.out.with_suffix(".json"), {"setting": about, **content})
    with written_whole(options.out.with_suffix(".png"), "wb") as file:
        strength_plot.plot(content["summary"], file)
    print(strength_table.brief(content), f"wrote {options.out}.md, .json and .png", sep="\n")


if __name__ == "__main__":
    main()
