"""Faithfulness as text, CSV and JSON, with what is needed to get it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_circuits.benchmarks.faithfulness.cases import FIGURES, N_RANDOM, Case, Row
from edge_circuits.benchmarks.output.provenance import commit, versions
from edge_circuits.benchmarks.output.tables import csv_text, table
from edge_circuits.graphs.measures.curves import Interval
from edge_circuits.graphs.measures.quality import Measures

LEGEND = f"""\
Scores are made on training prompts, circuits measured on held-out ones. CPR: area under faithfulness over the share of edges kept,
the most helpful first; 0.999 is as good as the model at every size. CMD: area between faithfulness and 1, the largest scores first;
0 is best. clipped: faithfulness above 1 counts as 1. at k: faithfulness with as many edges as the known circuit, before dead ends
are removed. In brackets: 95 % of the bootstrap's samples of held-out prompts; of random, of its {N_RANDOM} draws. seconds: to score."""


@dataclass(frozen=True, eq=False)
class Result:
    """All that was found in one case.

    Attributes:
        known: Measures of the known circuit; None if none is known.
        rows: One for each method that could be asked.
        left_out: Methods that could not be asked, and why.
    """

    case: Case
    intervention: str
    seed: int
    known: Measures | None
    rows: Sequence[Row]
    left_out: dict[str, str]


def text(results: Sequence[Result]) -> str:
    """A table of every case, and what the columns are."""
    return "\n\n".join([*(_table(result) for result in results), LEGEND])


def rows(result: Result) -> list[dict[str, Any]]:
    """A row for each method, with its curves; nothing is rounded."""
    case = result.case
    start = {
        "model": case.model_name,
        "task": case.task,
        "metric": case.metric_name,
        "intervention": result.intervention,
    }
    start |= {
        "n_prompts": len(case.test),
        "n_prompts_scored": len(case.train),
        "n_edges": case.graph.n_edges,
        "seed": result.seed,
    }
    start |= {"n_known": None if case.known is None else case.known.n_edges}
    return [start | _of_row(row) for row in result.rows]


def as_csv(results: Sequence[Result]) -> str:
    """All rows, with the commit and the versions in each; curves as JSON in a cell."""
    now = {"commit": commit() or "", "versions": json.dumps(versions(), sort_keys=True)}
    lines = [
        {name: _cell_of(value) for name, value in (row | now).items()} for result in results for row in rows(result)
    ]
    return csv_text(lines)


def as_json(results: Sequence[Result], settings: dict[str, Any]) -> str:
    """All rows, with the settings of the run, the commit and the versions."""
    content = {
        "settings": settings,
        "commit": commit(),
        "versions": versions(),
        "rows": [row for result in results for row in rows(result)],
        "known": {result.case.name: _of_known(result.known) for result in results if result.known is not None},
        "left_out": {result.case.name: result.left_out for result in results},
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _of_row(row: Row) -> dict[str, Any]:
    content: dict[str, Any] = {"method": row.method}
    for name, figure in [*row.figures.items(), ("at_known", row.at_known)]:
        ends = (None, None, None) if figure is None else (figure.value, figure.low, figure.high)
        content |= dict(zip((name, f"{name}_low", f"{name}_high"), ends))
    content["seconds"] = row.seconds
    for ranking, curve in row.curves.items():
        content[f"curve_{ranking}"] = {
            "shares": list(curve.shares),
            "k": list(curve.k),
            "n_edges": list(curve.n_edges),
            "faithfulness": row.faithfulness[ranking].tolist(),
        }
    return content


def _of_known(known: Measures) -> dict[str, Any]:
    names = ("faithfulness", "completeness", "accuracy", "accuracy_kept", "divergence")
    return {"n_edges": known.circuit.n_edges, **{name: getattr(known, name) for name in names}}


def _cell_of(value: Any) -> Any:
    return "" if value is None else json.dumps(value) if isinstance(value, dict) else value


def _table(result: Result) -> str:
    case = result.case
    parts = [
        f"{case.name}: {case.graph.n_edges:,} edges, scored on {len(case.train)} prompts, measured on {len(case.test)} others, "
        f"{case.metric_name}, {result.intervention}, seed {result.seed}"
    ]
    if (known := result.known) is not None:
        kept = "-" if known.accuracy_kept is None else f"{known.accuracy_kept:.3f}"
        parts.append(
            f"known circuit of {known.circuit.n_edges} edges: faithfulness {known.faithfulness:.3f}, completeness "
            f"{known.completeness:.3f}, accuracy kept {kept}, KL {known.divergence:.3f} nats"
        )
    at = "at k" if case.known is None else f"at k={case.known.n_edges}"
    headings = [
        "method",
        *(name.replace("cpr", "CPR").replace("cmd", "CMD").replace("_", " ") for name in FIGURES),
        at,
        "seconds",
    ]
    cells = [
        [row.method, *map(_cell, row.figures.values()), _cell(row.at_known), f"{row.seconds:.1f}"]
        for row in result.rows
    ]
    left_out = [f"without {method}: {reason}" for method, reason in result.left_out.items()]
    return "\n".join([*parts, table(headings, cells), *left_out])


def _cell(figure: Interval | None) -> str:
    return "-" if figure is None else f"{figure.value:.3f} ({figure.low:.3f} {figure.high:.3f})"
