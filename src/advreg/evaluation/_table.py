"""Tables of results: one row per example, and means with an interval that says how far to trust them."""

from __future__ import annotations

import csv
import json
import math
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TextIO, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from advreg._core.bootstrap import Interval, bootstrap
from advreg._core.files import written_whole

Bound: TypeAlias = Literal["found", "guaranteed"]
"""Bound of a row: "found" by an attack, or "guaranteed" by a certificate."""

_TOLD_APART = ("attack", "head", "metric", "radius")


class Row(NamedTuple):
    """One measurement: one example, one attack at one radius, one head, one metric.

    Attributes:
        index: The example's place in its data set.
        group: What is resampled together, such as the patient; "" if no groups were given.
        radius: The radius of the threat; 0.0 for clean inputs, nan where it was not told.
        attack: The name of the attack that made the input, or "clean".
        head: Which head was measured; "" for the whole output.
        metric: The name of the metric.
        value: What it gave.
        bound: "found" where an input was found at which the metric is this, as attacks do; "guaranteed" where
            no input within the radius makes it worse, as certificates say. A file may lack the column: all
            is found then.
    """

    index: int  # type: ignore[assignment]  # a column's name here, rather than tuple's method
    group: str
    radius: float
    attack: str
    head: str
    metric: str
    value: float
    bound: Bound = "found"


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of results, as `evaluate` and `radius_curve` return them. A value: every method makes a new one.

    Two tables are equal when their rows are, nan being equal to nan. `table + other` joins two.

    Args:
        rows: The rows, any iterable of `Row`.

    Example:
        >>> from advreg.evaluation import Row, Table
        >>> table = Table(Row(i, "", 0.03, "mask", "mask", "dice", i / 4) for i in range(5))
        >>> table
        Table(5 rows; attack: mask; head: mask; metric: dice; radius: 0.03)
        >>> table.where(index=range(2, 5)).values()
        array([0.5 , 0.75, 1.  ])
    """

    rows: tuple[Row, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(map(_row, self.rows)))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __add__(self, other: Table) -> Table:
        return Table(self.rows + other.rows)

    def __repr__(self) -> str:
        told = _TOLD_APART if all(row.bound == "found" for row in self.rows) else (*_TOLD_APART, "bound")
        columns = {name: dict.fromkeys(getattr(row, name) for row in self.rows) for name in told}
        texts = [
            f"; {name}: {', '.join(str(v) or repr(v) for v in found)}" for name, found in columns.items()
        ]
        return f"{type(self).__name__}({len(self)} rows{''.join(texts)})"

    def where(self, **columns: Any) -> Table:
        """The rows in which each column named has the value given, or one of a collection of values.

        Raises:
            KeyError: A column that a table does not have.
        """
        _check_columns(columns, Row._fields)
        wanted = [(Row._fields.index(name), _choices(value)) for name, value in columns.items()]
        return Table(tuple(row for row in self.rows if all(row[at] in choice for at, choice in wanted)))

    def values(self) -> NDArray[np.float64]:
        """The values in the order of the rows, `(N,)` float64."""
        return np.array([row.value for row in self.rows], dtype=np.float64)

    def groups(self) -> list[str | int]:
        """The groups that `bootstrap` resamples whole, per row; the example where it has none."""
        return [row.group or row.index for row in self.rows]

    def means(
        self,
        by: Sequence[str] = _TOLD_APART,
        *,
        infinite: float | None = None,
        confidence: float = 0.95,
        resamples: int = 10_000,
        seed: int = 0,
    ) -> tuple[Any, ...]:
        """The mean with its bootstrap interval for each combination of the columns named.

        Groups are resampled whole, and so are the rows of one example where a mean takes in several.

        Args:
            by: The columns that tell the means apart.
            infinite: The worst value of the metric, which stands for values that are infinite, such as the
                Hausdorff distance of an empty mask: the diagonal of the image. To leave such rows out would
                make a mean better for each failure. The table itself stays as it is.
            confidence: As for `bootstrap`, and so are resamples and seed.
            resamples: See there.
            seed: See there.

        Returns:
            Named tuples of these columns, `mean`, `low`, `high` and the number of rows, `count`, in order of
            first appearance; with `infinite=` also `replaced`, how many of these rows were infinite.

        Raises:
            KeyError: A column that a table does not have, or `value`.
            ValueError: Values that are infinite, without `infinite=` or of several metrics; values that are
                NaN, which nothing can stand for.

        Example:
            >>> from advreg.evaluation import Row, Table
            >>> table = Table(Row(i, "", 0.03, "mask", "mask", "dice", i / 4) for i in range(5))
            >>> table.means(by=["metric", "radius"])
            (Mean(metric='dice', radius=0.03, mean=0.5, low=0.2, high=0.8, count=5),)
        """
        _check_columns(by, [name for name in Row._fields if name != "value"])
        counts = ["count"] if infinite is None else ["count", "replaced"]
        fields = (*by, *Interval._fields, *counts)
        Mean = cast(Callable[..., Any], namedtuple("Mean", fields))  # noqa: PYI024 - fields known at run time
        _check_means(self.rows, infinite)
        parts: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            parts.setdefault(tuple(getattr(row, name) for name in by), []).append(row)
        options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
        found = []
        for key, rows in parts.items():
            part = Table(tuple(rows))
            values = part.values()
            told = [len(part)] if infinite is None else [len(part), int(np.isinf(values).sum())]
            finite = values if infinite is None else np.where(np.isinf(values), infinite, values)
            found.append(Mean(*key, *bootstrap(finite, part.groups(), **options), *told))
        return tuple(found)

    def save(self, path: str | Path) -> Path:
        """Write the table, at full precision, to a `.csv` or `.jsonl` file, and return its path.

        The file is whole or not there: it is written beside its place and moved. Folders are made.

        Raises:
            ValueError: Another suffix.
        """
        path = _file(path)
        write, _ = _FORMATS[path.suffix]
        with written_whole(path) as file:
            write(self.rows, file)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Table:
        """Read what `save` wrote: the same table, to the last bit.

        Raises:
            ValueError: Another suffix; a file that `save` did not write, and near which line.
        """
        path = _file(path)
        _, read = _FORMATS[path.suffix]
        rows: dict[int, Row] = {}
        try:
            with path.open(encoding="utf-8", newline="") as file:
                for line, cells in read(file):
                    rows[line] = _row(cells)
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(
                f"{path}, after line {max(rows, default=0)}: expected {', '.join(Row._fields)} as Table.save "
                f"writes them; {error}: restore the file, or evaluate again"
            ) from error
        return cls(tuple(rows.values()))

    def to_pandas(self) -> Any:
        """The table as a `pandas.DataFrame`, one column for each field of `Row`.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]  # noqa: PLC0415 - optional
        except ImportError as error:
            raise ImportError(
                "to_pandas needs pandas: pip install pandas, or read the file of save()"
            ) from error
        return pd.DataFrame(self.rows, columns=list(Row._fields))


def _row(cells: Sequence[Any]) -> Row:
    if len(cells) not in (len(Row._fields) - 1, len(Row._fields)):
        raise ValueError(f"got {len(cells)} cells, {cells}")
    index, group, radius, attack, head, metric, value, bound = Row(*cells)
    if bound not in get_args(Bound):
        raise ValueError(f"the column bound must say 'found' or 'guaranteed'; got {bound!r}")
    names = str(attack), str(head), str(metric)
    return Row(int(index), str(group), _float(radius), *names, _float(value), bound)


def _float(value: Any) -> float:
    number = float(value)
    return math.nan if math.isnan(number) else number  # one object: nan equals itself by identity alone


def _plain(values: Any) -> Any:
    return (
        values.tolist() if hasattr(values, "tolist") else values
    )  # arrays' and tensors' numbers hash by value


def _choices(wanted: Any) -> list[Any]:
    wanted = _plain(wanted)
    values = wanted if isinstance(wanted, Iterable) and not isinstance(wanted, str) else (wanted,)
    return [_float(value) if isinstance(value, float) else _plain(value) for value in values]


def _check_columns(names: Iterable[str], known: Sequence[str]) -> None:
    if unknown := [names] if isinstance(names, str) else [name for name in names if name not in known]:
        raise KeyError(f"expected columns out of {', '.join(known)}; got {unknown[0]!r}")


def _check_means(rows: Sequence[Row], infinite: float | None) -> None:
    """Insist on values that have a mean, once the infinite ones are replaced."""
    if infinite is not None and not (isinstance(infinite, (int, float)) and math.isfinite(infinite)):
        raise ValueError(f"infinite must be a finite number, the worst value of the metric; got {infinite!r}")
    if unknown := [row for row in rows if math.isnan(row.value)]:
        raise ValueError(
            f"a mean needs numbers; {_some(unknown, 'NaN')}: look for a network that answers NaN or a metric "
            "that is not defined there, or choose other rows with where(...) and report how many are missing"
        )
    endless = [row for row in rows if math.isinf(row.value)]
    metrics = sorted({row.metric for row in endless})
    if endless and infinite is None:
        raise ValueError(
            f"a mean needs finite values; {_some(endless, 'infinite')}: state the worst value, that stands "
            "for them, means(infinite=362.0), for a distance the diagonal of the image; without such rows "
            "each failure would make the mean better"
        )
    if len(metrics) > 1:
        raise ValueError(
            f"values of the metrics {', '.join(metrics)} are infinite, and one worst value cannot stand for "
            f"all: ask for each alone, where(metric={metrics[0]!r}).means(infinite=...)"
        )


def _some(rows: Sequence[Row], kind: str) -> str:
    listed = ", ".join(map(str, rows[:3])) + (", ..." if len(rows) > 3 else "")
    return f"{len(rows)} {'is' if len(rows) == 1 else 'are'} {kind}, {listed}"


def _write_csv(rows: Iterable[Row], file: IO[Any]) -> None:
    # Names in quotes, since a bare carriage return would end the row; floats as repr gives them.
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([Row._fields, *rows])


def _write_jsonl(rows: Iterable[Row], file: IO[Any]) -> None:
    for row in rows:
        cells = {k: v if isinstance(v, str) or math.isfinite(v) else str(v) for k, v in row._asdict().items()}
        file.write(json.dumps(cells) + "\n")


def _read_csv(file: TextIO) -> Iterator[tuple[int, Sequence[Any]]]:
    reader = csv.reader(file, strict=True)
    if (header := next(reader, [])) not in _HEADERS:
        raise ValueError(f"got the columns {header}")
    for cells in reader:
        yield reader.line_num, cells


def _read_jsonl(file: TextIO) -> Iterator[tuple[int, Sequence[Any]]]:
    for number, line in enumerate(file, 1):
        cells = json.loads(line)
        if not isinstance(cells, dict) or list(cells) not in _HEADERS:
            raise ValueError(f"got {line.strip()[:200]!r}")
        yield number, tuple(cells.values())


_HEADERS = [list(Row._fields), list(Row._fields[:-1])]
_FORMATS = {".csv": (_write_csv, _read_csv), ".jsonl": (_write_jsonl, _read_jsonl)}


def _file(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise ValueError(f"a table's file must end in .csv or .jsonl; got {path.name!r}")
    return path
