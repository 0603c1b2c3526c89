"""What the study of features tells: faithfulness and completeness over the number of nodes, costs, and what is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edge_circuits.benchmarks.output.tables import table

if TYPE_CHECKING:
    from edge_circuits.benchmarks.features.study import Result

SHOWN = (5, 10, 20, 50, 100, 200, 500)
MEAN = "mean"


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each circuit."""
    found = []
    for result in results:
        curve, right = result.curve, (result.curve.ends.clean > 0).double().mean().item()
        named = {"structure": result.structure, "granularity": result.granularity, "method": result.method}
        figures = {"seconds": result.seconds, "backward_passes": result.passes, **result.figures, "right": right}
        points = zip(result.asked_sizes, curve.sizes, curve.faithfulness.tolist(), curve.completeness.tolist())
        columns = ("size", "n_nodes", "faithfulness", "completeness")
        found += [{**named, **dict(zip(columns, point)), **figures} for point in points]
    return found


def text(results: Sequence[Result]) -> str:
    """Tables of the means over structures, then of each structure."""
    measured = rows(results)
    parts = [
        f"{measure} over the number of nodes, {aim}\n{_curves(measured, measure)}"
        for measure, aim in (("faithfulness", "1 is the model"), ("completeness", "of all other nodes; 0 is complete"))
    ]
    right = {row["structure"]: f"{row['structure']} {row['right']:.2f}" for row in measured}
    parts.insert(0, f"share of held-out prompts that the model gets right: {', '.join(right.values())}")
    return "\n\n".join([*parts, f"cost, and agreement with what is known, means over structures\n{_figures(results)}"])


def _groups(measured: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Rows by granularity, method and structure, the means over structures first."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for structure in (MEAN, ""):
        for row in measured:
            groups.setdefault((row["granularity"], row["method"], structure or row["structure"]), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: (item[0][2] != MEAN, item[0][2], item[0][0])))


def _curves(measured: list[dict[str, Any]], measure: str) -> str:
    lines = []
    for (granularity, method, structure), group in _groups(measured).items():
        cells = []
        for n in SHOWN:
            values = [row[measure] for row in group if row["size"] == n]
            cells.append(f"{sum(values) / len(values):.2f}" if values else "")
        lines.append((structure, granularity, method, *cells))
    return table(("structure", "nodes", "method", *map(str, SHOWN)), lines, n_left=3)


def _figures(results: Sequence[Result]) -> str:
    names = {"roc": "ROC known", "exact_r": "r exact", "edges_r": "r exact, edges"}
    lines = []
    for granularity, method in dict.fromkeys((result.granularity, result.method) for result in results):
        group = [result for result in results if (result.granularity, result.method) == (granularity, method)]
        values = [[result.figures[name] for result in group if name in result.figures] for name in names]
        cells = [f"{sum(each) / len(each):.3f}" if each else "" for each in values]
        seconds = sum(result.seconds for result in group) / len(group)
        lines.append((granularity, method, f"{group[0].passes}", f"{seconds:.2f}", *cells))
    headings = ("nodes", "method", "backward passes", "seconds", *names.values())
    return table(headings, lines)
