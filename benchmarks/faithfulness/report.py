"""Faithfulness as a table and as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_circuits.benchmarks.faithfulness.finding import FIGURES, N_RANDOM, Row
from edge_circuits.benchmarks.output.tables import columns_of, shown, table, with_ends
from edge_circuits.benchmarks.problems.problem import Problem
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
    start = problem.columns | {"intervention": result.intervention, "n_prompts": len(problem.held_out)}
    start |= {"n_prompts_scored": len(problem.pairs), "n_edges": problem.graph.n_edges, "seed": result.seed}
    start |= {"n_known": None if problem.known is None else problem.circuit.n_edges}
    return [start | _of_row(row) for row in result.rows]


def _of_row(row: Row) -> dict[str, Any]:
    content: dict[str, Any] = {"method": row.method}
    for name, figure in [*row.figures.items(), ("at_known", row.at_known)]:
        content |= columns_of(name, figure)
    content["seconds"] = row.seconds
    for ranking, curve in row.curves.items():
        points = {name: list(getattr(curve, name)) for name in ("shares", "k", "n_edges")}
        content[f"curve_{ranking}"] = points | {"faithfulness": row.faithfulness[ranking].tolist()}
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
        parts.append(
            f"known circuit of {known.circuit.n_edges} edges: faithfulness {known.faithfulness:.3f}, completeness "
            f"{known.completeness:.3f}, accuracy kept {shown(known.accuracy_kept)}, KL {known.divergence:.3f} nats"
        )
    at = "at k" if problem.known is None else f"at k={problem.circuit.n_edges}"
    names = [name.replace("cpr", "CPR").replace("cmd", "CMD").replace("_", " ") for name in FIGURES]
    cells = []
    for row in result.rows:
        figures = [with_ends(figure, ".3f") for figure in (*row.figures.values(), row.at_known)]
        cells.append([row.method, *figures, f"{row.seconds:.1f}"])
    left_out = [f"without {method}: {reason}" for method, reason in result.left_out.items()]
    return "\n".join([*parts, table(["method", *names, at, "seconds"], cells), *left_out])
