"""Guaranteed detection of strange images by a 1-Lipschitz critic, each kind with that kind left out.

For each kind of outlier a critic is trained on discs of training patients, varied, and on all other kinds;
then it meets the kind. Guaranteed AUROC needs no attack; found is PGD on the critic's own score. Beside it
the distance from the nearest training disc, which is 1-Lipschitz too and needs no training.

    python benchmarks/detection.py --data ../shared/data --choose   # judged by training patients
    python benchmarks/detection.py --data ../shared/data            # judged by test patients, once
"""

import argparse
import json
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from speed_table import setting
from torch import Tensor
from tqdm import tqdm

from advreg import Adamax, Threat, l2, pgd_attack
from advreg.attacks import nearest_in_distribution
from advreg.certificates import guaranteed_auroc
from advreg.detectors import LipschitzCritic
from advreg.evaluation import written_whole
from lumbar_disk.data import Discs, Options, build
from lumbar_disk.ood import made_images, outliers, read_images, varied

RADII = (0.0, 2.0, 4.0, 6.0, 8.0, 12.0)
PAPER = 40.0
ALLOWANCE = 1e-3  # rounding of a score of size 10 in float32, with room
EACH = 1200  # images of each kind of outlier, varied where they are fewer
Kinds = Mapping[str, Tensor]


def sides(folder: Path, size: int, *, choose: bool) -> tuple[Discs, Discs]:
    """Discs to train on, and discs of other patients that judge: training patients alone, or the test."""
    table = folder / "spider_overview.csv"
    data = build(Options("spider", folder / "spider", size=size, overview=table, slices=3))
    if not choose:
        return data.train, data.test
    names = sorted(set(data.train.patients))[::4]
    judged = [patient in names for patient in data.train.patients]
    numbers = range(len(judged))
    return tuple(data.train.take([n for n in numbers if judged[n] is one]) for one in (False, True))


def kinds_of(discs: Discs, folder: Path, seed: int) -> Kinds:
    """Images of every kind: files, noise, and what is made of these discs."""
    size = discs.images.shape[-1]
    made = (one for one in made_images(60, size, seed) if one.name != "painted")
    files = {one.name: one.images for one in (*read_images(folder / "ood", size), *made)}
    return {**files, **outliers(discs, seed)}


class Images(NamedTuple):
    """Images of one seed: discs and outliers to train on, outliers that judge, those made of discs."""

    inside: Tensor
    train: Kinds
    test: Kinds
    of_discs: frozenset[str]


def images(seen: Discs, judges: Discs, folder: Path, seed: int) -> Images:
    """All images of a seed; kinds of fewer than `EACH` are varied."""
    train, test = (kinds_of(discs, folder, place) for place, discs in ((seed, seen), (1000 + seed, judges)))
    many = {
        name: varied(one, -(-EACH // len(one)), seed) if len(one) < EACH else one
        for name, one in train.items()
    }
    of_discs = frozenset(outliers(judges.take([0]), 0))
    return Images(varied(seen.images, 24, seed), many, test, of_discs)


def fitted(own: Images, kind: str, seed: int, args: argparse.Namespace) -> LipschitzCritic:
    """A critic trained on discs and on all kinds but this one."""
    out = {name: [x] for name, x in own.train.items() if name != kind}
    critic = LipschitzCritic(pool=args.pool, width=args.width, depth=args.depth)
    return critic.fit([own.inside], out, margin=args.margin, steps=args.steps, seed=seed)


def lowered(critic: LipschitzCritic, x: Tensor, radius: float) -> Tensor:
    """The least scores that an attack on the critic alone finds."""
    if not radius:
        return critic.score(x)
    attack = partial(pgd_attack, critic.score, x, None, objective=lambda score, _: -score)
    return critic.score(attack(threat=Threat(l2, radius), rule=Adamax(0.1), steps=30, random_start=False).x)


def met(
    kind: str, seed: int, made: Images, seen: Discs, judges: Discs, args: argparse.Namespace
) -> dict[str, Any]:
    """Detection of a kind by a critic that never saw it, at each radius, guaranteed and found."""
    critic = fitted(made, kind, seed, args)
    x, inside = made.test[kind], critic.score(judges.images)
    nearest, own = (nearest_in_distribution(one, seen.images).distance for one in (x, judges.images))
    groups = {"groups_in": judges.patients} | (
        {"groups_out": judges.patients} if kind in made.of_discs else {}
    )
    found = {}
    for radius in RADII:
        held = guaranteed_auroc(
            inside, critic.score(x), radius, critic.lipschitz, allowance=ALLOWANCE * bool(radius), **groups
        )
        above = guaranteed_auroc(inside, lowered(critic, x, radius), 0.0, **groups)
        pixels = guaranteed_auroc(own, nearest, radius, **groups)
        found[f"{radius:g}"] = {"guaranteed": held, "found": above.mean, "pixels": pixels.mean}
    return {
        "kind": kind,
        "seed": seed,
        "lipschitz": critic.lipschitz,
        "images": len(x),
        "nearest": float(nearest.median()),
        "inside": float((nearest <= PAPER).double().mean()),
        "radii": found,
    }


def mean(rows: list[dict[str, Any]], radius: str, what: str, place: int | None = None) -> float:
    values = [row["radii"][radius][what] for row in rows]
    return sum(value if place is None else value[place] for value in values) / len(values)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of a Markdown table, a row for each kind."""
    radii = list(rows[0]["radii"])
    heads = [
        "kind",
        "images",
        "nearest",
        f"inside {PAPER:g}",
        *(f"r = {radius}" for radius in radii),
        "seeds",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        cells = [
            f"**{mean(own, r, 'guaranteed', 0):.3f}** ({mean(own, r, 'guaranteed', 1):.2f} to "
            f"{mean(own, r, 'guaranteed', 2):.2f}), {mean(own, r, 'found'):.3f}; {mean(own, r, 'pixels'):.3f}"
            for r in radii
        ]
        first = own[0]
        lines.append(
            f"| {kind} | {first['images']} | {first['nearest']:.1f} | {first['inside']:.0%} | "
            f"{' | '.join(cells)} | {len(own)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder with spider/, its table, and ood/")
    parser.add_argument(
        "--choose", action="store_true", help="judge by training patients, to choose settings"
    )
    parser.add_argument("--kinds", nargs="+", help="by default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--pool", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--margin", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="by default results/detection.md, or detection-chosen.md")
    args = parser.parse_args()
    name = "detection-chosen.md" if args.choose else "detection.md"
    out = args.out or Path(__file__).parent / "results" / name
    seen, judges = sides(args.data, args.size, choose=args.choose)
    kinds = args.kinds or list(kinds_of(judges, args.data, 0))
    settings = ("size", "pool", "width", "depth", "margin", "steps")
    told = {key: getattr(args, key) for key in settings}
    kept = out.with_suffix(".json")
    held = json.loads(kept.read_text()) if kept.exists() else {"told": told, "rows": []}
    rows = held["rows"] if held["told"] == told else []
    done = {(row["kind"], row["seed"]) for row in rows}
    of_seed = lru_cache(1)(partial(images, seen, judges, args.data))
    for kind, seed in tqdm([(kind, seed) for seed in args.seeds for kind in kinds]):
        if (kind, seed) in done:
            continue
        rows.append(met(kind, seed, of_seed(seed), seen, judges, args))
        with written_whole(kept) as file:
            json.dump({"told": told, "rows": rows}, file, indent=1)
        patients = f"{len(set(judges.patients))} {'training' if args.choose else 'test'} patients"
        broken = sum(one["found"] < one["guaranteed"][0] for row in rows for one in row["radii"].values())
        about = (
            f"{len(judges)} discs of {patients}, {args.size} pixels, L2 radius r; each critic is trained on "
            f"{len(seen)} discs of other patients and on all kinds but its own. **Guaranteed** AUROC (95 % "
            "interval over patients), AUROC found by PGD on the critic; AUROC guaranteed by distance from "
            "the nearest training disc. Nearest: median distance of that disc; inside: share of the images "
            f"that have one within the paper's radius {PAPER:g}. Means over seeds. Found is below guaranteed "
            f"in {broken} of {len(rows) * len(RADII)} comparisons."
        )
        text = ["# Guaranteed detection", "", about, "", *table(rows), ""]
        with written_whole(out) as file:
            file.write(
                "\n".join(
                    [
                        *text,
                        setting(
                            "detection.py",
                            told | {"seeds": args.seeds} | ({"choose": ""} if args.choose else {}),
                        ),
                        "",
                    ]
                )
            )


if __name__ == "__main__":
    main()
