"""How well circuits agree with the known one, as rows and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from edge_circuits.graphs import Circuit

Row: TypeAlias = Mapping[str, Any]


def row(
    about: Row,
    threshold: float | None,
    start: Circuit,
    found: Circuit,
    known: Circuit,
    n_tried: int,
    seconds: float | None,
) -> Row:
    """How well a circuit agrees with the known one: the shares of the known edges and of all others that are in it.

    Args:
        about: Task, method, metric, and the k that was asked of the pruning (all edges of the model where ACDC is alone).
        threshold: ACDC's; None for the pruned graph as it is.
        start: The pruned graph.
        found: What is left of it, without dead ends.
        known: The known circuit.
        n_tried: Edges that ACDC tried.
        seconds: Of the sweep; None where it was read from an earlier run.
    """
    true = len(found & known) / known.n_edges
    false = len(found - known) / (known.graph.n_edges - known.n_edges)
    return {
        **about,
        "threshold": threshold,
        "n_start": start.n_edges,
        "n_edges": found.n_edges,
        "n_tried": n_tried,
        "true_positive_rate": true,
        "false_positive_rate": false,
        "seconds": seconds,
        "youden": true - false,
    }


def table(rows: Sequence[Row]) -> str:
    """Youden's J as a map, a task after the other: k down, thresholds across, and the best of each."""
    return "\n\n".join(_of_task([each for each in rows if each["task"] == task]) for task in values(rows, "task"))


def values(rows: Sequence[Row], name: str) -> list[Any]:
    """What stands in a column, each once."""
    return list(dict.fromkeys(each[name] for each in rows))


def _of_task(rows: Sequence[Row]) -> str:
    first, thresholds, sizes = rows[0], values(rows, "threshold"), values(rows, "k")
    largest = f"{len(sizes)} pruned graphs, the largest of {max(each['n_start'] for each in rows):,} edges"
    lines = [f"{first['task']}: Youden's J of {first['method']}, then ACDC with {first['metric']}; {largest}"]
    headings = ("k", *("pruned" if threshold is None else f"{threshold:g}" for threshold in thresholds))
    lines.append("".join(f"{heading:>8}" for heading in headings))
    for k in sizes:
        found = {each["threshold"]: each["youden"] for each in rows if each["k"] == k}
        lines.append(f"{k:8}" + "".join(f"{found[threshold]:8.3f}" for threshold in thresholds))
    return "\n".join([*lines, f"best: {_in_words(max(rows, key=lambda each: each['youden']))}"])


def _in_words(best: Row) -> str:
    with_threshold = "without ACDC" if best["threshold"] is None else f"threshold {best['threshold']:g}"
    rates = f"TPR {best['true_positive_rate']:.3f}, FPR {best['false_positive_rate']:.4f}"
    return f"J {best['youden']:.3f} at k {best['k']}, {with_threshold}: {best['n_edges']} edges, {rates}"
