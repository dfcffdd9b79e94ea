"""Report of a diagnosis: its checks as values, as text, as a file, as a figure."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from advreg._core.files import written_whole
from advreg._core.optional import new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Verdict: TypeAlias = Literal["pass", "flag", "skipped"]
"""Nothing amiss; a reason not to trust the evaluation; not applicable."""


Evidence: TypeAlias = Mapping[str, float | Sequence[float]]
"""Evidence of a check: numbers that were measured, by name."""


_WIDTH = 100


_HONEST, _BEATEN = "C0", "C3"


@dataclass(frozen=True)
class Check:
    """One check of a diagnosis.

    Attributes:
        name: Which check.
        verdict: "pass", "flag" or "skipped".
        evidence: What was measured.
        message: What was seen.
        remedy: What to do; empty for one that passed.
    """

    name: str
    verdict: Verdict
    evidence: Evidence
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Result of `advreg.diagnose`: whether an evaluation can be trusted. `print` it for the report.

    Attributes:
        checks: All checks, in the order in which they were made.
        setting: What was diagnosed, by name: examples, radius, steps, queries, seed, passes.

    Example:
        >>> from advreg.diagnosis import Check, Diagnosis
        >>> found = Diagnosis((Check("steps", "pass", {}, "more steps find more"),), {"steps": 50})
        >>> print(found)
        steps 50: nothing amiss in 1 check
        pass     steps            more steps find more
        >>> found.passed, found["steps"].verdict
        (True, 'pass')
    """

    checks: tuple[Check, ...]
    setting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no check was flagged."""
        return not self.flagged

    @property
    def flagged(self) -> tuple[str, ...]:
        """The names of the checks that were flagged."""
        return tuple(check.name for check in self.checks if check.verdict == "flag")

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"there is no check {name!r}; there are {', '.join(c.name for c in self.checks)}")

    def __str__(self) -> str:
        count = f"{len(self.checks)} check{'s' * (len(self.checks) != 1)}"
        flags = f"{len(self.flagged)} of {count} flagged" if self.flagged else f"nothing amiss in {count}"
        setting = ", ".join(f"{name} {value}" for name, value in self.setting.items())
        lines = textwrap.wrap(f"{setting}: {flags}" if setting else flags, _WIDTH)
        told: dict[str, str] = {}  # a remedy is written out once
        for check in self.checks:
            verdict = "FLAG" if check.verdict == "flag" else check.verdict
            start = f"{verdict:<8} {check.name:<16} "
            lines += textwrap.wrap(
                check.message, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start)
            )
            if check.remedy and check.verdict == "flag":
                margin = " " * len(start)
                remedy = f"as for {told[check.remedy]}" if check.remedy in told else check.remedy
                told.setdefault(check.remedy, check.name)
                lines += textwrap.wrap(
                    remedy, _WIDTH, initial_indent=f"{margin}-> ", subsequent_indent=f"{margin}   "
                )
        return "\n".join(lines)

    def to_json(self) -> str:
        """All of it as JSON; numbers that are not finite as text."""
        checks = [
            {
                "name": check.name,
                "verdict": check.verdict,
                "message": check.message,
                "remedy": check.remedy,
                "evidence": {name: _plain(value) for name, value in check.evidence.items()},
            }
            for check in self.checks
        ]
        setting = {name: _plain(value) for name, value in self.setting.items()}
        return json.dumps({"passed": self.passed, "setting": setting, "checks": checks}, indent=1)

    def save(self, path: str | Path) -> Path:
        """Write `to_json` to a file, whole or not at all, and return its path. Folders are made."""
        path = Path(path)
        with written_whole(path) as file:
            file.write(self.to_json() + "\n")
        return path

    def plot(self, where: str | Path | Sequence[Axes] | None = None) -> tuple[Axes, Axes, Axes]:
        """Draw what the attack gains over steps and over radii, and beside attacks without its gradient.

        Args:
            where: A file to write; or three axes to draw in; by default a new figure that pyplot does not
                know, `axes[0].figure`.

        Returns:
            The three axes. A panel whose check was skipped says so.

        Raises:
            ValueError: Other than three axes.
            ImportError: matplotlib is not installed.
        """
        if where is None or isinstance(where, (str, Path)):
            axes = new_axes((10.5, 3.4), (1, 1, 1.2))
        else:
            axes = tuple(where)
        if len(axes) != 3:
            raise ValueError(f"expected three axes, for steps, radius and attacks; got {len(axes)}")
        _curve(axes[0], self._found("steps"), "steps", "steps")
        _curve(axes[1], self._found("radius"), "radius", "radius (1: the threat's)")
        rivals = {"gradient": math.nan}
        for name in ("noise", "transfer", "gradient_free"):
            check = self._found(name)
            for key, value in check.evidence.items() if check else ():
                if key.startswith("gain of ") and isinstance(value, (int, float)):
                    rivals[key.removeprefix("gain of ")] = float(value)
        _bars(axes[2], {name: value for name, value in rivals.items() if math.isfinite(value)})
        axes[0].set_ylabel("mean gain")
        if isinstance(where, (str, Path)):
            axes[0].figure.savefig(where, dpi=150)  # type: ignore[union-attr]  # new_axes made a Figure
        return axes[0], axes[1], axes[2]

    def _found(self, name: str) -> Check | None:
        return next((check for check in self.checks if check.name == name), None)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _curve(ax: Axes, check: Check | None, key: str, label: str) -> None:
    ax.set_xlabel(label)
    if check is None or not isinstance(xs := check.evidence.get(key), Sequence):
        _nothing(ax, check)
        return
    gains = check.evidence["gain"]
    assert isinstance(gains, Sequence)
    colour = _BEATEN if check.verdict == "flag" else _HONEST
    ax.plot(range(len(xs)), gains, marker="o", markersize=5, color=colour)
    ax.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    ax.set_ylim(bottom=min(0.0, *gains), top=1.08 * max(*gains) or 1.0)
    ax.set_title(f"{check.name}: {check.verdict}", loc="left", fontsize=10, color=colour)


def _bars(ax: Axes, gains: Mapping[str, float]) -> None:
    if not gains:
        _nothing(ax, None)
        return
    names = list(gains)[::-1]
    level = gains.get("gradient", 0.0)
    bars = ax.barh(names, [gains[name] for name in names], color="0.65", height=0.65)
    for name, bar in zip(names, bars, strict=True):
        bar.set_color(_HONEST if name == "gradient" else _BEATEN if gains[name] > level else "0.65")
    ax.margins(x=0.08)
    ax.axvline(level, color=_HONEST, linewidth=1, linestyle="--")
    ax.set_xlabel("mean gain")
    ax.set_title("the gradient attack and its rivals", loc="left", fontsize=10)
    ax.grid(axis="y", visible=False)


def _nothing(ax: Axes, check: Check | None) -> None:
    message = "not measured" if check is None else f"{check.name}: {check.verdict}"
    ax.text(0.5, 0.5, message, ha="center", va="center", transform=ax.transAxes, color="0.4")
    ax.set_xticks([])
    ax.set_yticks([])
