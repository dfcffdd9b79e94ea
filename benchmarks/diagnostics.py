"""Which checks of `advreg.diagnose` flag which models: honest ones of several kinds, and broken defences.

The models are those of the tests (tests/networks/defences.py), trained anew for each seed, which also decides
the data and all random numbers of the diagnosis. Each gets a model to transfer from: the same network without
the defence, for an honest one the network of another seed.

    python benchmarks/diagnostics.py [--seeds 10] [--first 40] [--steps 50] [--queries 500]
"""

import argparse
import json
import platform
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from advreg import __version__, diagnose

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from networks.defences import BROKEN, HONEST, MILD, two_heads

KINDS = {"honest": HONEST, "broken": BROKEN, "partly broken": MILD}


def examined(kind, make, seed, options):
    """The diagnosis of one model, and how long it took."""
    case = make(seed)
    other = make(seed + 1000).model if kind == "honest" else two_heads(seed)
    start = time.perf_counter()
    found = diagnose(
        case.model,
        case.x,
        case.y,
        objective=case.objective,
        threat=case.threat,
        transfer=other,
        steps=options.steps,
        queries=options.queries,
        seed=seed,
    )
    return found, time.perf_counter() - start


def extreme(found, check, key, choose):
    """The largest or smallest number that some evidence of a check has over diagnoses."""
    values = [value for one in found for name, value in one[check].evidence.items() if name.startswith(key)]
    return choose(value for value in values if isinstance(value, float))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "diagnostics")
    options = parser.parse_args()

    rows, honest, times, passes = [], [], [], []
    for kind, models in KINDS.items():
        for name, make in models.items():
            flags = Counter()
            caught = 0
            for seed in range(options.first, options.first + options.seeds):
                found, seconds = examined(kind, make, seed, options)
                times.append(seconds)
                passes.append(found.setting["forward passes"])
                caught += not found.passed
                flags.update(found.flagged)
                if kind == "honest":
                    honest.append(found)
            names = [check.name for check in found.checks]
            rows.append(
                {"kind": kind, "model": name, "flagged": caught} | {each: flags[each] for each in names}
            )
            print(rows[-1], flush=True)

    nearest = {
        "gradient_free": extreme(honest, "gradient_free", "missed beside square", max),
        "transfer": extreme(honest, "transfer", "missed beside transfer", max),
        "noise": extreme(honest, "noise", "missed beside noise", max),
        "steps": extreme(honest, "steps", "missed", max),
        "unbounded": extreme(honest, "unbounded", "missed", max),
        "step_size": extreme(honest, "step_size", "missed", max),
        "start": extreme(honest, "start", "missed", max),
        "foretold (least)": extreme(honest, "gradients", "foretold", min),
        "delivered (least)": extreme(honest, "gradients", "delivered", min),
    }
    setting = (
        f"advreg {__version__}, torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} "
        f"threads; seeds {options.first} to {options.first + options.seeds - 1}, {options.steps} steps, "
        f"{options.queries} queries, 16 images of 16 x 16 or 32 vectors; {min(passes)} to {max(passes)} "
        f"forward passes of the batch each, {sum(times) / len(times):.1f} s on average"
    )
    lines = [
        setting,
        "",
        f"How many of {options.seeds} seeds are flagged, by any check and by each:",
        "",
        f"| kind | model | any | {' | '.join(names)} |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row in rows:
        cells = [row[name] or "." for name in ("flagged", *names)]
        lines.append(f"| {row['kind']} | {row['model']} | {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "The nearest that an honest model came to a threshold: most missed, least foretold, delivered:",
        "",
        "| check | number |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in nearest.items()),
        "",
    ]
    text = "\n".join(lines)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(text)
    options.out.with_suffix(".json").write_text(
        json.dumps({"setting": setting, "flagged": rows, "nearest": nearest}, indent=1) + "\n"
    )
    print(text, f"wrote {options.out}.md and .json", sep="\n")


if __name__ == "__main__":
    main()
