"""Agreement with exact patching as text, CSV and JSON, with what is needed to get it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_circuits.benchmarks.agreement.edges import Compared, Scores, Settings
from edge_circuits.benchmarks.agreement.nodes import NodeAgreement
from edge_circuits.benchmarks.output.provenance import commit, versions
from edge_circuits.benchmarks.output.tables import csv_text, table
from edge_circuits.benchmarks.problems.any_model import Subject
from edge_circuits.graphs.correlation import Agreement, Measured

LEGEND = """\
Each cell: the correlation over all edges (or nodes) of the kind, and the interval that holds 95 % of the bootstrap's samples of
prompts; methods that do not add up over prompts have none. -: one side is constant. A class of edges is what they end at: q, k,
v, mlp, logits; edges out of input stand apart. slope, R2: of the least squares line of the estimate over the exact score.
seconds: to score all edges. Methods marked |.| have no sign; their scores are held against the size of the exact ones."""


@dataclass(frozen=True, eq=False)
class Result:
    """All that was found for one model and task.

    Attributes:
        exact: Scores of exact edge patching.
        compared: The methods that estimate them.
        left_out: Methods that could not be asked, and why.
        nodes: Node scores; empty if they were not asked for.
    """

    subject: Subject
    settings: Settings
    exact: Scores
    compared: Sequence[Compared]
    left_out: dict[str, str]
    nodes: Sequence[NodeAgreement]


def text(results: Sequence[Result]) -> str:
    """Tables of every result, and what the columns are."""
    return "\n\n".join([*(_tables(result) for result in results), LEGEND])


def rows(result: Result) -> list[dict[str, Any]]:
    """A row for each method and class of edges, and for each method, direction and kind of node; nothing is rounded."""
    subject = result.subject
    start = {
        "model": subject.model_name,
        "task": subject.task,
        "metric": subject.metric_name,
        "n_prompts": len(subject.pairs),
    }
    start |= {"seed": result.settings.seed}
    found = []
    for one in result.compared:
        about = {
            "what": "edges",
            "method": one.scores.method,
            "direction": "noising",
            "by": "size" if one.by_size else "score",
        }
        about |= {"n_groups": len(one.scores.per_group), "seconds": one.scores.seconds}
        found += [start | about | {"kind": kind} | _figures(agreement) for kind, agreement in one.classes.items()]
    for one in result.nodes:
        about = {
            "what": "nodes",
            "method": one.method,
            "direction": one.direction,
            "by": "score",
            "n_groups": len(subject.pairs),
        }
        found += [start | about | {"kind": kind} | _figures(agreement) for kind, agreement in one.per_kind.items()]
    return found


def as_csv(results: Sequence[Result]) -> str:
    """All rows, with the commit and the versions in each."""
    now = {"commit": commit() or "", "versions": json.dumps(versions(), sort_keys=True)}
    lines = [
        {name: "" if value is None else value for name, value in (row | now).items()}
        for result in results
        for row in rows(result)
    ]
    return csv_text(lines)


def as_json(results: Sequence[Result], settings: dict[str, Any]) -> str:
    """All rows, with the settings of the run, the commit and the versions."""
    content = {
        "settings": settings,
        "commit": commit(),
        "versions": versions(),
        "rows": [row for result in results for row in rows(result)],
        "left_out": {result.subject.name: result.left_out for result in results},
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _tables(result: Result) -> str:
    subject, sizes = result.subject, result.compared[0].classes if result.compared else {}
    graph = subject.graph
    parts = [
        f"{subject.name}: {graph.n_edges:,} edges, {len(subject.pairs)} {subject.prompts} in {len(result.exact.per_group)} groups, "
        f"{subject.metric_name}, seed {result.settings.seed}; exact patching took {result.exact.seconds:.1f} seconds"
    ]
    for name in ("pearson", "spearman") if result.compared else ():
        headings = [
            "method",
            name.capitalize(),
            *(f"{kind} ({sizes[kind].n:,})" for kind in sizes),
            "slope",
            "R2",
            "seconds",
        ]
        parts.append(table(headings, [_edge_cells(one, name) for one in result.compared]))
    if result.nodes:
        parts.append(_node_table(result.nodes))
    return "\n\n".join([*parts, *(f"without {method}: {reason}" for method, reason in result.left_out.items())])


def _edge_cells(compared: Compared, name: str) -> list[str]:
    whole = next(iter(compared.classes.values()))
    cells = [_cell(getattr(agreement, name)) for agreement in compared.classes.values()]
    figures = ["-" if value is None else f"{value:.3g}" for value in (whole.slope, whole.r_squared)]
    return [
        compared.scores.method,
        "|.|" if compared.by_size else "",
        *cells,
        *figures,
        f"{compared.scores.seconds:.2f}",
    ]


def _node_table(nodes: Sequence[NodeAgreement]) -> str:
    kinds = list(nodes[0].per_kind)
    lines = [[one.method, one.direction, *(_cell(one.per_kind[kind].pearson) for kind in kinds)] for one in nodes]
    return table(["nodes", "Pearson", *(f"{kind} ({nodes[0].per_kind[kind].n:,})" for kind in kinds)], lines)


def _cell(measured: Measured) -> str:
    if measured.value is None:
        return "-"
    return f"{measured.value:.2f}" + ("" if measured.low is None else f" ({measured.low:.2f} {measured.high:.2f})")


def _figures(agreement: Agreement) -> dict[str, Any]:
    """An agreement as flat columns."""
    figures: dict[str, Any] = {"n": agreement.n}
    for name in ("pearson", "spearman"):
        measured = getattr(agreement, name)
        figures |= {name: measured.value, f"{name}_low": measured.low, f"{name}_high": measured.high}
    return figures | {"slope": agreement.slope, "intercept": agreement.intercept, "r_squared": agreement.r_squared}
