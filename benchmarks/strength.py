"""How much damage an attack does with the passes it is allowed: this library, the paper's attack, and peers.

The study's test discs, models and metrics, or with `--scenes` those of `strength_scenes.py`; Linf balls. A
pass is one forward pass and one gradient of the input, per example, counted by a wrapper around the network:
`pgd_attack(steps=N)` takes N, and so do the peers, whose `steps` are chosen for it. Forward passes without a
gradient (`pgd_attack` takes two) are counted apart. What an attack returns is measured by the network itself,
with the study's metrics, hard Dice of the mask, point error and Dice of the contour, or with the scene's.

    python benchmarks/strength.py --study results/small-spider [--models P10_std P10_adv_rs]
        [--passes 20 100 500] [--radii 0.01 0.03 0.07] [--part all|ours|peers|table] [--methods 'foolbox*']
    python benchmarks/strength.py --scenes segmentation points depth --passes 20 100 --radii 0.02 0.05
        [--images chosen]

With `--images chosen` a scene's images are those on which the settings of attacks were chosen.

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
from pathlib import Path
from typing import Any

import strength_plot
import strength_table
import torch
from filelock import FileLock, Timeout
from peers_tried import tried
from peers_views import Counting
from speed_table import processor
from strength_methods import Entry
from strength_scenes import SCENES
from strength_subjects import Contest, Subject, of_scenes, of_study
from trained import Study, read

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


def run(cell: Cell, subject: Subject, seed: int) -> dict[str, Any]:
    """Attack, count, check and measure. What a peer raises is its result."""
    net, x, y, entry = subject.net, subject.x, subject.y, cell.entry
    counting = Counting(net)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            if entry.group == "peers":
                warnings.simplefilter("ignore")
            found = entry.attack(counting, x, y, cell.radius, cell.passes, seed)
    except Exception as error:  # a peer may raise anything; the table says so
        if entry.group != "peers":
            raise
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    seconds = time.perf_counter() - start
    excess = torch.maximum((found - x).abs() - cell.radius, torch.maximum(-found, found - 1))
    return {
        "values": subject.measured(net, found, y, entry.head),
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


def identity(cell: Cell, subject: Subject, seed: int) -> dict[str, Any]:
    """What decides a cell's numbers, but for the code of its method."""
    entry = cell.entry
    return {
        "model": cell.model,
        **subject.known,
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


def attack_all(cells: list[Cell], contest: Contest, seed: int) -> None:
    """Make the cells that nobody has made or is making."""
    for number, cell in enumerate(cells, 1):
        subject = contest.subjects[cell.model]
        path, known = cell.path(contest.work), identity(cell, subject, seed)
        with held(path) as mine:
            if not mine or read(path).get("identity") == known:
                continue
            found = run(cell, subject, seed)
            save(path, {"identity": known, **found})
        where = f"{cell.model} {cell.entry.head} {cell.radius:g} {cell.passes}"
        means = {name: sum(each) / len(each) for name, each in found.get("values", {}).items()}
        text = " ".join(f"{name} {mean:.4f}" for name, mean in means.items()) or found["error"]
        print(f"[{number}/{len(cells)}] {where} {cell.entry.method}: {text}", flush=True)


def setting(options: argparse.Namespace, contest: Contest) -> str:
    """With what the numbers were computed."""
    versions = sorted({f"{e.method.split()[0]} {e.version}" for e in contest.entries if e.group == "peers"})
    absent = "".join(f"; not here: {name} ({why})" for name, why in contest.missing.items())
    name = processor().get("model name", platform.machine())
    return (
        f"`python benchmarks/strength.py {shlex.join(sys.argv[1:])}`\n\n"
        f"advreg {__version__}, torch {torch.__version__}, {', '.join(versions)}{absent}; "
        f"{name}, {options.threads} threads a process; {contest.data}; seed {options.seed}"
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
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), help="in place of the study")
    parser.add_argument("--images", choices=["chosen", "table"], default="table", help="of scenes")
    parser.add_argument("--work", type=Path, help="where cells are kept")
    parser.add_argument("--out", type=Path, help="the table, without its ending")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    if options.scenes:
        contest = of_scenes(options.scenes, options.images, options.work or Path("results/strength-heads"))
    else:
        study, work = Study(options.study), options.work or Path("results/strength")
        contest = of_study(study, options.models, options.heads, work)
    wanted = {
        "all": {"paper", "by hand", "ours", "peers"},
        "ours": {"paper", "by hand", "ours"},
        "peers": {"peers"},
        "table": set(),
    }[options.part]
    cells = [
        Cell(model, radius, passes, entry)
        for passes in options.passes  # the cheap ones first
        for radius in options.radii
        for model, subject in contest.subjects.items()
        for entry in contest.entries
        if entry.group in wanted
        and entry.head in subject.heads
        and any(fnmatch(entry.method, pattern) for pattern in options.methods)
    ]
    attack_all(cells, contest, options.seed)
    calls = [] if options.scenes else called(study, contest, options)
    report(options, contest, calls)


def called(study: Study, contest: Contest, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What came of calling peers as they are, on the first of the study's models."""
    path, test = contest.work / "tried.json", study.data.test
    if options.part in ("all", "peers") and not path.exists():
        net = contest.subjects[options.models[0]].net
        save(path, tried(net, test.images, test.target(), options.radii[-1]))
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def report(options: argparse.Namespace, contest: Contest, calls: list[dict[str, Any]]) -> None:
    """Write the tables of all cells; of images on which settings were chosen, show the summary alone."""
    found = [read(path) for path in sorted(contest.work.glob("*/*/*.json"))]
    groups = next(iter(contest.subjects.values())).groups
    text, content = strength_table.tables(found, groups, calls, contest.groups)
    print(strength_table.brief(content))
    if options.scenes and options.images == "chosen" and options.out is None:
        return
    name = "strength-heads" if options.scenes else "strength"
    out, about = options.out or Path(__file__).parent / "results" / name, setting(options, contest)
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out.with_suffix(".md")) as file:
        file.write(f"{about}\n\n{text}")
    save(out.with_suffix(".json"), {"setting": about, **content})
    if not options.scenes:
        with written_whole(out.with_suffix(".png"), "wb") as file:
            strength_plot.plot(content["summary"], file)
    print(f"wrote {out}.md and .json")


if __name__ == "__main__":
    main()
