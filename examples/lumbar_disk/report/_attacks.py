"""Both attacks beside each other: by how much the paper's overstates robustness, in a sentence.

The paper's attack and `auto_attack` are compared disc by disc. What the paper's attack overstates is how much
worse the same network's answer to the same disc is under `auto_attack`, at the same radius.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from advreg.evaluation import Interval, Row, Table, bootstrap
from lumbar_disk.report._pages import interval_text
from lumbar_disk.report._results import Results, chosen, scaled
from lumbar_disk.study import Measure


def overstated(tables: Mapping[str, Table], measure: Measure) -> dict[tuple[str, float], Table]:
    """What the paper's attack overstates, disc by disc.

    Args:
        tables: The evaluation of each model, by name.
        measure: What was measured.

    Returns:
        By model and radius, for each pair that was attacked both ways, one row per disc: the error under
        `auto_attack` less that under the paper's attack, for a Dice the other way round. Above 0 the network
        is less robust than the paper's attack says.
    """
    found: dict[tuple[str, float], Table] = {}
    sign = 1 if measure.worse == "higher" else -1
    for name, table in tables.items():
        auto = {(row.index, row.radius): row.value for row in chosen(table, measure, "auto")}
        rows: dict[float, list[Row]] = {}
        for row in chosen(table, measure):
            if row.radius > 0 and (row.index, row.radius) in auto:
                apart = sign * (auto[row.index, row.radius] - row.value)
                rows.setdefault(row.radius, []).append(row._replace(value=apart))
        found |= {(name, radius): Table(tuple(some)) for radius, some in rows.items()}
    return found


def sentence(results: Results, measure: Measure) -> str:
    """Say by how much the paper's attack overstates robustness; empty where `auto_attack` was left out.

    Means are over discs; intervals resample patients, each with all its discs, models and radii.
    """
    apart = overstated(results.tables, measure)
    if not apart:
        return ""
    means = {key: _mean(results, measure, table) for key, table in apart.items()}
    (model, radius), most = max(means.items(), key=lambda item: item[1].mean)
    rows = Table(tuple(row for table in apart.values() for row in table))
    worse = sum(one.mean > 0 for one in means.values())
    unit = f" {measure.unit}" if measure.unit else ""
    text = f"{{:.{measure.digits}f}}".format

    def told(one: Interval) -> str:
        interval = interval_text(text, one.low, one.high)
        return f"{text(one.mean)}{unit} ({interval if math.isnan(one.low) else f'95 % interval {interval}'})"

    verb = "understate" if measure.worse == "higher" else "overstate"
    average = _mean(results, measure, rows)
    said = (
        f"The paper's attack {verb}s the {measure.label} by {told(average)} on average"
        if average.mean > 0
        else f"The paper's attack does not {verb} the {measure.label} on average, {told(average)}"
    )
    return (
        f"{said}, and most for {model} at radius {radius:g}: by {told(most)}. auto_attack, with "
        f"{results.about['recipe']['auto_passes']} passes for each disc, finds worse in {worse} of "
        f"{len(means)} pairs of a model and a radius."
    )


def _mean(results: Results, measure: Measure, table: Table) -> Interval:
    """The mean over discs with its interval over patients, in the paper's units."""
    return scaled(results, measure, bootstrap(table.values(), table.groups()))
