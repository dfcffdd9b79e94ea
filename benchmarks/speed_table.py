"""The sections of `speed.py` and `memory.py`: kept each in a file, and made into tables and a plot."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from advreg import __version__

SECTIONS = ("peers", "peers-1", "peers-64", "ways", "scaling", "training", "memory")
COLOURS = {"by hand": "#9a9a9a", "advreg": "#2a6fbb"}
OTHERS = "#d9a05b"
PEERS = """\
Medians (quartiles) of ratios within a round; lower is faster. "a step" is the time from one gradient of the
input to the next. "attack" is the whole call of {steps} steps, with what is done once: the result evaluated;
under bfloat16 the weights copied and two passes in float32; for some peers a pass that tells them the clean
loss. "x foolbox" is how many times faster a step is than that of foolbox. The objective is evaluated in
float32 on the whole network; other libraries begin at a random point, and adv-lib returns the point before
its last step."""
SCALING = """\
Milliseconds of a step of `pgd_attack` on the network at width {width} (the paper's is 64), by batch x side of
the image in pixels."""
WAYS = """\
A step at batch {batch}: the time of five steps less that of one, over four. Of the rows about one image, each
second is over the one before. "first call" has what a way needs once: tracing, compiling."""
LEGEND = "bars: a step (median, quartiles); diamonds: the whole attack of {} steps"


def spread(ratios: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else [ratios[0]] * 3


def fitted(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`t = a + b * batch * pixels` with a and b at least 0, by least squares of the relative error."""
    work = torch.tensor([row["batch"] * row["size"] ** 2 for row in rows], dtype=torch.float64)
    seconds = torch.tensor([row["step"] for row in rows], dtype=torch.float64)
    columns = torch.stack([1 / seconds, work / seconds], dim=1)
    ones = torch.ones(len(rows), 1, dtype=torch.float64)
    a, b = torch.linalg.lstsq(columns, ones).solution[:, 0].tolist()
    if a < 0 or b < 0:  # then the best of what is allowed has one of them 0
        alone = [(c.sum() / c.square().sum()).item() for c in columns.T]
        a, b = min(
            ((alone[0], 0.0), (0.0, alone[1])),
            key=lambda pair: (columns @ torch.tensor(pair, dtype=torch.float64) - 1).square().sum().item(),
        )
    off = (columns @ torch.tensor([a, b], dtype=torch.float64) - 1).abs()
    return {"a": a, "b": b, "median residual": off.median().item(), "largest residual": off.max().item()}


def chosen(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The values of these options."""
    return {name: getattr(options, name) for name in names}


def processor() -> dict[str, str]:
    """What Linux says of the first core."""
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in described.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in fields.items()}


def units() -> list[str]:
    """The processor's units for bfloat16. Without them it takes ten times as long as float32: left out."""
    flags = processor().get("flags", "").split()
    return [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]


def folder() -> Path:
    """Where the sections of processors of one kind lie."""
    return Path(__file__).parent / "results" / ("speed" if units() else "speed-float32")


def setting(script: str, values: dict[str, Any]) -> str:
    """Where and how it was measured."""
    known = processor()
    name = known.get("model name", platform.processor() or platform.machine())
    words = {
        key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()
    }
    given = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in words.items())
    return (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, bfloat16 units: "
        f"{', '.join(units()) or 'none known'}; advreg {__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}; `python benchmarks/{script} {given}`"
    )


def load(out: Path, section: str) -> dict[str, Any]:
    """A section, or nothing."""
    path = out / f"{section}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def save(out: Path, section: str, content: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    _write(out / f"{section}.json", json.dumps(content, indent=1) + "\n")


def publish(out: Path) -> str:
    """Make table and plot of all sections that there are; the table."""
    found = {name: content for name in SECTIONS if (content := load(out, name))}
    makers = {
        "peers": _peers,
        "peers-1": _peers,
        "peers-64": _peers,
        "ways": _ways,
        "scaling": _scaling,
        "training": _training,
        "memory": _memory,
    }
    text = (
        "\n\n".join(f"{makers[name](content)}\n\n{content['setting']}" for name, content in found.items())
        + "\n"
    )
    _write(out.with_suffix(".md"), text)
    _write(out.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    if "peers" in found:
        plot(found["peers"], out.with_suffix(".png"))
    return text


def plot(content: dict[str, Any], path: Path) -> None:
    """Ratios to the loop by hand as bars, a panel for each head."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional

    heads, steps = content["heads"], content["options"]["steps"]
    count = max(len(part["rows"]) for part in heads.values())
    figure = Figure(figsize=(10, 1.3 + 0.36 * count), layout="constrained")
    panels = figure.subplots(1, len(heads), sharey=True)
    ends = [
        max(row[f"{what} ratio"][2] for what in ("step", "attack"))
        for part in heads.values()
        for row in part["rows"].values()
    ]
    for ax, (head, part) in zip(panels, heads.items(), strict=True):
        rows = part["rows"]
        for place, (name, row) in enumerate(rows.items()):
            low, middle, high = row["step ratio"]
            colour = next((c for start, c in COLOURS.items() if name.startswith(start)), OTHERS)
            whiskers = [[middle - low], [high - middle]]
            ax.barh(place, middle, 0.68, color=colour, xerr=whiskers, ecolor="#333333", capsize=2.5)
            whole = row["attack ratio"][1]
            ax.plot(whole, place, marker="D", ms=4.5, mfc="white", mec="black", ls="none", zorder=3)
            ax.text(max(high, whole) + 0.03 * max(ends), place, f"{middle:.2f}", va="center", fontsize=9)
        ax.axvline(1, color="black", lw=0.8, ls=":")
        ax.set_xlim(0, 1.14 * max(ends))
        ax.set_title(f"{head} head", fontsize=11)
        ax.set_axisbelow(True)
        ax.grid(axis="x", color="#e4e4e4")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.set_yticks(range(len(rows)), list(rows))
    panels[0].invert_yaxis()
    figure.supxlabel(f"time over the loop by hand; {LEGEND.format(steps)}", fontsize=10)
    part = path.with_suffix(".part")
    figure.savefig(part, dpi=150, format="png", metadata={"Software": None})
    part.replace(path)


def _peers(content: dict[str, Any]) -> str:
    options = content["options"]
    (batch,) = (options[name] for name in ("batch", "small_batch", "large_batch") if name in options)
    steps = options["steps"]
    lines = [
        f"## An attack on {batch} image{'s' * (batch > 1)}, over a loop written by hand",
        "",
        PEERS.format(steps=steps),
    ]
    for head, part in content["heads"].items():
        rivals = list(next(iter(part["rows"].values()))["times faster than"])
        title = [
            f"{head} head",
            "a step",
            "attack",
            "objective (gain)",
            *(f"x {rival.partition(' ')[0]}" for rival in rivals),
        ]
        body = [
            [
                name,
                _ratio(row["step ratio"]),
                _ratio(row["attack ratio"]),
                f"{row['objective']:.6g} ({row['objective'] - part['clean']:+.4g})",
                *(f"{row['times faster than'][rival][1]:.2f}" for rival in rivals),
            ]
            for name, row in part["rows"].items()
        ]
        lines += ["", markdown(title, body)]
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    missing = f" Not installed: {', '.join(content['missing'])}." if content["missing"] else ""
    return "\n".join([*lines, "", f"Peers: {versions or 'none'}.{missing}"])


def _ways(content: dict[str, Any]) -> str:
    heads = content["heads"]
    body = [
        [
            name,
            *(f"{_ratio(rows[name]['ratio'])} | {rows[name]['first call']:.1f}" for rows in heads.values()),
        ]
        for name in next(iter(heads.values()))
    ]
    titles = [title for head in heads for title in (f"{head}: a step", "first call in s")]
    return "\n".join(
        [
            "## Ways to run the network, over the loop by hand",
            "",
            WAYS.format(batch=content["options"]["batch"]),
            "",
            markdown(["way", *titles], body),
        ]
    )


def _scaling(content: dict[str, Any]) -> str:
    """Milliseconds of a step by batch and size, and the model fitted to them."""
    groups: dict[str, dict[tuple[int, int], float]] = {}
    for row in content["rows"]:
        groups.setdefault(_group(row), {})[row["batch"], row["size"]] = 1000 * row["step"]
    cases = list(next(iter(groups.values())))
    body = [[group, *(f"{times[case]:.1f}" for case in cases)] for group, times in groups.items()]
    models = [
        [
            _group(fit),
            f"{1000 * fit['a']:.2f}",
            f"{1e9 * fit['b']:.2f}",
            f"{1000 * 128**2 * fit['b']:.2f}",
            f"{fit['median residual']:.0%} ({fit['largest residual']:.0%})",
        ]
        for fit in content["fits"]
    ]
    return "\n".join(
        [
            "## Scaling",
            "",
            SCALING.format(width=content["options"]["scaling_width"]),
            "",
            markdown(["head, precision, threads", *(f"{batch} x {size}" for batch, size in cases)], body),
            "",
            "`t = a + b * batch * pixels`, a and b at least 0, least squares of the relative error:",
            "",
            markdown(
                [
                    "head, precision, threads",
                    "a in ms",
                    "b in ns a pixel",
                    "b in ms a 128 x 128 image",
                    "residual, median (largest)",
                ],
                models,
            ),
        ]
    )


def _training(content: dict[str, Any]) -> str:
    body = [
        [name, _ratio(row["ratio"]), f"{row['loss']:.4f}", f"{row['cosine']:.4f}"]
        for name, row in content["rows"].items()
    ]
    return "\n".join(
        [
            "## A step of adversarial training, over the naive one",
            "",
            "Losses, and the cosine of the gradient with the naive one's, after attacks of 2 steps.",
            "",
            markdown(["step", "time", "loss", "cosine"], body),
        ]
    )


def _memory(content: dict[str, Any]) -> str:
    body = [
        [head, name, f"{row['bytes'] / 2**30:.2f}", f"{row['ratio']:.3f}"]
        for head, rows in content["heads"].items()
        for name, row in rows.items()
    ]
    return "\n".join(
        [
            "## Peak memory of an attack, over a loop written by hand",
            "",
            f"At batch {content['options']['batch']}: what each process needed above what it held before.",
            "",
            markdown(["head", "attack", "GiB", "ratio"], body),
        ]
    )


def _group(row: dict[str, Any]) -> str:
    return f"{row['head']}, {row['precision']}, {row['threads']}"


def _ratio(quartiles: Sequence[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def markdown(title: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [title, ["---"] * len(title), *body])


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)
