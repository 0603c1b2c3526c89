"""Faithfulness as a table and as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_circuits.benchmarks.faithfulness.finding import FIGURES, N_RANDOM, Row
from edge_circuits.benchmarks.output.tables import table
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.graphs.measures.curves import Interval
from edge_circuits.graphs.measures.quality import Measures

LEGEND = f"""\
Scores are made on training prompts, circuits measured on held-out ones. CPR: area under faithfulness over the share of edges kept,
the most helpful first; 0.999 is as good as the model at every size. CMD: area between faithfulness and 1, the largest scores first;
0 is best. clipped: faithfulness above 1 counts as 1. at k: faithfulness with as many edges as the known circuit, before dead ends
are removed. In brackets: 95 % of the bootstrap's samples of held-out prompts; of random, of its {N_RANDOM} draws. seconds: to score."""


@dataclass(frozen=True, eq=False)
class Result:
    """All that was found in one problem.

    Attributes:
        known: Measures of the known circuit; None if none is known.
        rows: One for each method that could be asked.
        left_out: Methods that could not be asked, and why.
    """

    problem: Problem
    intervention: str
    seed: int
    known: Measures | None
    rows: Sequence[Row]
    left_out: dict[str, str]


def text(results: Sequence[Result]) -> str:
    """A table of every problem, and what the columns are."""
    return "\n\n".join([*(_table(result) for result in results), LEGEND])


def rows(result: Result) -> list[dict[str, Any]]:
    """A row for each method, with its curves; nothing is rounded."""
    problem = result.problem
    start = {
        "model": problem.model_name,
        "task": problem.task,
        "metric": problem.metric_name,
        "intervention": result.intervention,
    }
    start |= {
        "n_prompts": len(problem.held_out),
        "n_prompts_scored": len(problem.pairs),
        "n_edges": problem.graph.n_edges,
        "seed": result.seed,
    }
    start |= {"n_known": None if problem.known is None else problem.circuit.n_edges}
    return [start | _of_row(row) for row in result.rows]


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


def known_row(known: Measures) -> dict[str, Any]:
    """The measures of a known circuit, in types that JSON has."""
    names = ("faithfulness", "completeness", "accuracy", "accuracy_kept", "divergence")
    return {"n_edges": known.circuit.n_edges, **{name: getattr(known, name) for name in names}}


def _table(result: Result) -> str:
    problem = result.problem
    parts = [
        f"{problem.name}: {problem.graph.n_edges:,} edges, scored on {len(problem.pairs)} prompts, measured on {len(problem.held_out)} others, "
        f"{problem.metric_name}, {result.intervention}, seed {result.seed}"
    ]
    if (known := result.known) is not None:
        kept = "-" if known.accuracy_kept is None else f"{known.accuracy_kept:.3f}"
        parts.append(
            f"known circuit of {known.circuit.n_edges} edges: faithfulness {known.faithfulness:.3f}, completeness "
            f"{known.completeness:.3f}, accuracy kept {kept}, KL {known.divergence:.3f} nats"
        )
    at = "at k" if problem.known is None else f"at k={problem.circuit.n_edges}"
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
