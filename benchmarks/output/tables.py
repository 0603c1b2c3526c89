"""Results as tables of text, CSV and JSON, with what is needed to get them again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edge_circuits.benchmarks.output.provenance import commit, versions
from edge_circuits.graphs.files.atomic import write_whole


@runtime_checkable
class Figure(Protocol):
    """A value with its interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


def shown(value: float | None, form: str = ".3f") -> str:
    """A number as a cell."""
    return "-" if value is None else format(value, form)


def with_ends(figure: Figure | None, form: str = ".2f") -> str:
    """A figure as a cell, its interval behind it in brackets."""
    if figure is None or figure.value is None:
        return "-"
    ends = "" if figure.low is None else f" ({figure.low:{form}} {figure.high:{form}})"
    return f"{figure.value:{form}}{ends}"


def columns_of(name: str, figure: Figure | None) -> dict[str, float | None]:
    """A figure under three flat names."""
    ends = ("value", "low", "high")
    values = (None if figure is None else getattr(figure, end) for end in ends)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], n_left: int = 2) -> str:
    """Columns of text under their headings; the first `n_left` to the left, figures to the right."""
    lines = [tuple(headings), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    padded = [
        "  ".join(
            cell.ljust(width) if at < n_left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([padded[0], "  ".join("-" * width for width in widths), *padded[1:]])


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under all their columns, in the order in which these first come; None is empty, a mapping or list is JSON."""
    out = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def write_results(
    folder: Path, stem: str, text: str, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], **more: Any
) -> None:
    """Write `stem`.txt, .csv and .json; each row of the CSV, and the JSON as a whole, with commit and versions.

    Args:
        rows: Figures under flat names, unrounded.
        settings: Of the run; see `provenance.settings_of`.
        more: What else the JSON is to hold, by name.
    """
    now = {"commit": commit(), "versions": versions()}
    content = {"settings": dict(settings), **now, "rows": list(rows), **more}
    write_whole(folder / f"{stem}.txt", (text + "\n").encode())
    write_whole(folder / f"{stem}.csv", csv_text([{**row, **now} for row in rows]).encode())
    write_whole(folder / f"{stem}.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _cell(value: Any) -> Any:
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, sort_keys=True)
    return "" if value is None else value
