"""Agreement with exact patching as a table and as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_circuits.benchmarks.agreement.edges import Compared, Settings
from edge_circuits.benchmarks.agreement.nodes import NodeAgreement
from edge_circuits.benchmarks.output.tables import columns_of, shown, table, with_ends
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.correlation import Agreement

LEGEND = """\
Each cell: the correlation over all edges (or nodes) of the kind, and the interval that holds 95 % of the bootstrap's samples of
prompts; methods that do not add up over prompts have none. -: one side is constant. A class of edges is what they end at: q, k,
v, mlp, logits; edges out of input stand apart. slope, R2: of the least squares line of the estimate over the exact score.
seconds: to score all edges. Methods marked |.| have no sign; their scores are held against the size of the exact ones."""


@dataclass(frozen=True, eq=False)
class Result:
    """All that was found for one model and task.

    Attributes:
        exact: ScoredGraph of exact edge patching.
        compared: The methods that estimate them.
        left_out: Methods that could not be asked, and why.
        nodes: Node scores; empty if they were not asked for.
    """

    problem: Problem
    settings: Settings
    exact: ScoredGraph
    compared: Sequence[Compared]
    left_out: dict[str, str]
    nodes: Sequence[NodeAgreement]


def text(results: Sequence[Result]) -> str:
    """Tables of every result, and what the columns are."""
    return "\n\n".join([*(_tables(result) for result in results), LEGEND])


def rows(result: Result) -> list[dict[str, Any]]:
    """A row for each method and class of edges, and for each method, direction and kind of node; nothing is rounded."""
    n_prompts = len(result.problem.pairs)
    start = result.problem.columns | {"n_prompts": n_prompts, "seed": result.settings.seed}
    found = []
    for one in result.compared:
        about = dict(what="edges", method=one.method, direction="noising", by="size" if one.by_size else "score")
        about |= dict(n_groups=one.n_groups, seconds=one.seconds)
        found += [start | about | {"kind": kind} | _figures(agreement) for kind, agreement in one.classes.items()]
    for one in result.nodes:
        about = dict(what="nodes", method=one.method, direction=one.direction, by="score", n_groups=n_prompts)
        found += [start | about | {"kind": kind} | _figures(agreement) for kind, agreement in one.per_kind.items()]
    return found


def _figures(agreement: Agreement) -> dict[str, Any]:
    """An agreement as flat columns."""
    correlations = columns_of("pearson", agreement.pearson) | columns_of("spearman", agreement.spearman)
    line = {name: getattr(agreement, name) for name in ("slope", "intercept", "r_squared")}
    return {"n": agreement.n} | correlations | line


def _tables(result: Result) -> str:
    problem = result.problem
    graph, n_groups = problem.graph, len(problem.pairs.groups(result.settings.n_groups))
    parts = [
        f"{problem.name}: {graph.n_edges:,} edges, {len(problem.pairs)} {problem.prompts} in {n_groups} groups, "
        f"{problem.metric_name}, seed {result.settings.seed}; exact patching took {result.exact.metadata['seconds']:.1f} seconds"
    ]
    if result.compared:
        parts += [_edge_table(result.compared, name) for name in ("pearson", "spearman")]
    if result.nodes:
        parts.append(_node_table(result.nodes))
    return "\n\n".join([*parts, *(f"without {method}: {reason}" for method, reason in result.left_out.items())])


def _edge_table(compared: Sequence[Compared], name: str) -> str:
    headings = ["method", name.capitalize(), *_sized(compared[0].classes), "slope", "R2", "seconds"]
    return table(headings, [_edge_cells(one, name) for one in compared])


def _edge_cells(compared: Compared, name: str) -> list[str]:
    whole = next(iter(compared.classes.values()))
    cells = [with_ends(getattr(agreement, name)) for agreement in compared.classes.values()]
    figures = [shown(value, ".3g") for value in (whole.slope, whole.r_squared)]
    return [compared.method, "|.|" if compared.by_size else "", *cells, *figures, f"{compared.seconds:.2f}"]


def _node_table(nodes: Sequence[NodeAgreement]) -> str:
    kinds = nodes[0].per_kind
    lines = [[one.method, one.direction, *(with_ends(one.per_kind[kind].pearson) for kind in kinds)] for one in nodes]
    return table(["nodes", "Pearson", *_sized(kinds)], lines)


def _sized(kinds: dict[str, Agreement]) -> list[str]:
    """Headings: each kind with how many edges or nodes it has."""
    return [f"{kind} ({agreement.n:,})" for kind, agreement in kinds.items()]
