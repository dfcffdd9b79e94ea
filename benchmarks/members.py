"""Members of the ensemble for masks, and every two of them, on training discs: which shall come first.

No test patient is looked at. For each network of a study and each Linf radius every member runs with the
passes of a budget of 20, and every two with those of a budget of 100, the worse of them kept for each disc,
beside the paper's attack.

    python benchmarks/members.py --study results/medium-spider
"""

import argparse
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from speed_table import setting
from torch import Tensor
from tqdm import tqdm
from trained import Study

from advreg import Adamax, J_IND_seg, Threat, linf, negate, on, pgd_attack
from advreg.evaluation import written_whole
from advreg.tasks import Member
from lumbar_disk.study import MASK_DICE

PAPER = "the paper's attack"
ALONE, EACH = 20, 50  # passes of a budget of 20, and of each of the two runs of one of 100
Found = dict[str, Tensor]  # by attack the Dice of each disc


def found(study: Study, model: str, radius: float, count: int) -> Found:
    """What each member, each two of them, and the paper's attack make of some training discs."""
    whole = study.data.train
    discs = whole.take([(2 * i + 1) * len(whole) // (2 * count) for i in range(count)])
    net, x, y = study.net(model), discs.images, discs.target()
    task, threat = MASK_DICE.task((x.shape[-2], x.shape[-1])), Threat(linf, radius)
    attack = partial(pgd_attack, net, x, y, threat=threat)

    def dice(**options: Any) -> Tensor:
        with torch.no_grad():
            return task.metric(net(attack(**options).x)["mask"], y["mask"])

    def run(member: Member, steps: int) -> Tensor:
        return dice(
            objective=on("mask", member.objective),
            judge=on("mask", negate(task.metric)),
            rule=member.rule,
            schedule=member.schedule,
            steps=steps,
        )

    once = {member.name: run(member, ALONE) for member in task.members}
    each = {member.name: run(member, EACH) for member in task.members}
    pairs = combinations(each, 2)
    return {
        PAPER: dice(objective=on("mask", J_IND_seg), rule=Adamax(0.2), steps=100, keep="last"),
        **once,
        **{f"{one} + {other}": torch.minimum(each[one], each[other]) for one, other in pairs},
    }


def table(cells: dict[str, Found]) -> list[str]:
    """Lines of a Markdown table: the Dice of the best, of the paper's attack, and who is how far behind."""
    rows = [name for name in next(iter(cells.values())) if name != PAPER]
    kinds = {f"alone, {ALONE} passes": [], f"two, {EACH} passes each": []}
    for name in rows:
        kinds[list(kinds)[" + " in name]].append(name)
    lines = [f"| | {' | '.join(cells)} | mean |", f"|---|{'---:|' * (len(cells) + 1)}"]
    paper = [f"{cell[PAPER].mean():.3f}" for cell in cells.values()]
    lines.append(f"| Dice, the paper's attack, 100 passes | {' | '.join(paper)} | |")
    for kind, names in kinds.items():
        best = [min(float(cell[name].mean()) for name in names) for cell in cells.values()]
        lines.append(f"| **Dice, the best of {kind}** | {' | '.join(f'{one:.3f}' for one in best)} | |")
        behind = {
            name: [float(cell[name].mean()) - low for cell, low in zip(cells.values(), best, strict=True)]
            for name in names
        }
        for name, far in sorted(behind.items(), key=lambda row: sum(row[1])):
            texts = " | ".join(f"{one:.3f}" for one in far)
            lines.append(f"| {name} | {texts} | {sum(far) / len(far):.4f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="a folder of `lumbar-disk study`")
    parser.add_argument("--models", nargs="+", default=["P10_std", "P10_adv_rs"])
    parser.add_argument("--radii", type=float, nargs="+", default=[0.01, 0.03, 0.07, 0.1, 0.2])
    parser.add_argument("--discs", type=int, default=9, help="training discs, evenly from all of them")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "members.md")
    args = parser.parse_args()
    study, jobs = Study(args.study), [(model, radius) for model in args.models for radius in args.radii]
    cells = {f"{model} {radius:g}": found(study, model, radius, args.discs) for model, radius in tqdm(jobs)}
    told = {"study": f"results/{args.study.name}", "models": args.models, "radii": args.radii}
    about = (
        f"{args.discs} training discs of `{args.study.name}`, Linf. Below the Dice of the best, how far the "
        "others' mean Dice lies behind it."
    )
    text = [
        "# Which attacks on a mask come first",
        "",
        about,
        "",
        *table(cells),
        "",
        setting("members.py", told | {"discs": args.discs}),
        "",
    ]
    with written_whole(args.out) as file:
        file.write("\n".join(text))


if __name__ == "__main__":
    main()
