"""Whether what makes an attack cheap changes what it finds: on trained models, at equal steps.

The paper's attack (Adamax, alpha a fifth of the radius, a random start) on the study's test discs, one head
at a time. Each way to run the network is compared with the plain one: the whole network (`prune=False`), in
float32, all examples at once. "share of the gain" is how much the mean objective grew, over how much it grew
the plain way: below 1 a way is weaker; in brackets the study's metric under attack. The last column is by how
much the objective of any one disc changed, in shares of the mean gain: over many steps rounding alone sends
single discs to other maxima.

    python benchmarks/agreement.py --study results/small-spider [--steps 100] [--radii 0.01 0.03 0.07]
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from speed_table import setting
from torch import Tensor, nn
from trained import Heads, Study, measured

from advreg import Adamax, Execution, J_IND_reg, J_IND_seg, Threat, linf, on, pgd_attack
from advreg.evaluation import written_whole
from lumbar_disk.network import Block, Merge, UNet, Up

HEADS = {"mask": on("mask", J_IND_seg), "contour": on("contour", J_IND_reg)}
METRICS = {"mask": "dice", "contour": "point_error"}
PLAIN = "whole network, float32, one batch"
FOUND = "pruned, as found in its forward"
WAYS = {
    PLAIN: Execution(prune=False),
    "pruned, as the network declares": Execution(),
    FOUND: Execution(),
    "in parts of 7": Execution(micro_batch=7),
    "checkpoints": Execution(checkpoint=(Block, Merge, Up)),
    "channels-last": Execution(channels_last=True),
    "torch.compile": Execution(compiled=True),
    "bfloat16": Execution("bfloat16"),
    "float16": Execution("float16"),
}


class Undeclared(UNet):
    """The same network, whose forward does not take `heads`."""

    def forward(self, x: Tensor) -> Heads:
        return super().forward(x)


def attacked(
    nets: tuple[nn.Module, nn.Module], x: Tensor, y: Heads, head: str, way: str, **options: Any
) -> dict[str, Any]:
    """The objective's values and gains, and the study's metric, of one way."""
    execution = WAYS[way]
    if execution.micro_batch is None:
        execution = replace(execution, micro_batch=len(x))
    net = nets[way == FOUND]
    found = pgd_attack(net, x, y, objective=HEADS[head], execution=execution, **options)
    values = measured(net, found.x, y, head)[METRICS[head]]
    return {"value": found.value, "gain": found.gain, "metric": sum(values) / len(values)}


def rows(study: Study, options: argparse.Namespace) -> list[dict[str, Any]]:
    test, made = study.data.test, []
    x, y = test.images, test.target()
    for model in options.models:
        net, undeclared = study.net(model), study.net(model)
        undeclared.__class__ = Undeclared
        for head in HEADS:
            for radius in options.radii:
                threat, rule = Threat(linf, radius), Adamax(0.2)
                run = partial(
                    attacked, (net, undeclared), x, y, head, threat=threat, rule=rule, steps=options.steps
                )
                plain = None
                for name in WAYS:
                    found = run(name)
                    plain = plain or found
                    gain = plain["gain"].mean()
                    row = {
                        "model": model, "head": head, "radius": radius, "way": name,
                        "gain": found["gain"].mean().item(), "share": (found["gain"].mean() / gain).item(),
                        "largest": ((found["value"] - plain["value"]).abs().max() / gain).item(),
                        "value": (found["value"].mean() / plain["value"].mean()).item(),
                        "metric": found["metric"],
                    }  # fmt: skip
                    made.append(row)
                    print(f"{model} {head} {radius:g} {name}: {row['share']:.4f}", flush=True)
    return made


def table(made: list[dict[str, Any]]) -> str:
    """A table for each head: ways down, models and radii across; and the worst cell of each way."""
    lines = []
    for head, metric in METRICS.items():
        some = [row for row in made if row["head"] == head]
        cases = list(dict.fromkeys((row["model"], row["radius"]) for row in some))
        lines += [
            f"| {head} head: share of the gain ({metric}) | "
            + " | ".join(f"{m}, {r:g}" for m, r in cases)
            + " |"
        ]
        lines += ["|" + " --- |" * (len(cases) + 1)]
        for way in WAYS:
            cells = [f"{row['share']:.4f} ({row['metric']:.4f})" for row in some if row["way"] == way]
            lines += [f"| {way} | " + " | ".join(cells) + " |"]
        lines += [""]
    lines += [
        "| all cells | least share of the gain | least share of the value | largest change of one disc |"
    ]
    lines += ["|" + " --- |" * 4]
    for way in WAYS:
        some = [row for row in made if row["way"] == way]
        least, value = min(row["share"] for row in some), min(row["value"] for row in some)
        lines += [f"| {way} | {least:.4f} | {value:.4f} | {max(row['largest'] for row in some):.2g} |"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="a folder that lumbar-disk study wrote")
    parser.add_argument("--models", nargs="+", default=["P10_std", "P10_adv_rs"])
    parser.add_argument("--radii", type=float, nargs="+", default=[0.01, 0.03, 0.07])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "agreement")
    options = parser.parse_args()
    study = Study(options.study)
    made = rows(study, options)
    values = {"study": options.study, "models": " ".join(options.models)}
    values |= {"radii": " ".join(map(str, options.radii)), "steps": options.steps}
    images = study.data.manifest["arrays"]["images"][:16]
    where = (
        f"{setting('agreement.py', values)}; {len(study.data.test)} test discs, SHA-256 of images {images}"
    )
    text = f"{(__doc__ or '').split(chr(10) * 2)[1]}\n\n{table(made)}\n{where}\n"
    for suffix, content in (
        (".md", text),
        (".json", json.dumps({"setting": where, "rows": made}, indent=1) + "\n"),
    ):
        with written_whole(options.out.with_suffix(suffix)) as part:
            part.write(content)
    print(text, f"wrote {options.out}.md and .json", sep="\n")


if __name__ == "__main__":
    main()
