"""How well circuits of `edge_circuits.benchmarks.refine` agree with the known one, as rows and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """How well one circuit agrees with the known one.

    Attributes:
        k: edges that were asked of the pruning; all edges of the model where ACDC is alone.
        threshold: ACDC's; None for the pruned graph as it is.
        n_start: edges of the pruned graph.
        n_edges: edges left, without dead ends.
        n_tried: edges that ACDC tried.
        true_positive_rate: share of the known circuit's edges that are left.
        false_positive_rate: share of the other edges that are left.
        seconds: of the sweep; None where it was read from an earlier run.
    """

    task: str
    method: str
    metric: str
    k: int
    threshold: float | None
    n_start: int
    n_edges: int
    n_tried: int
    true_positive_rate: float
    false_positive_rate: float
    seconds: float | None

    @property
    def youden(self) -> float:
        """Youden's J: the true positive rate minus the false one."""
        return self.true_positive_rate - self.false_positive_rate


def table(rows: Sequence[Row]) -> str:
    """Youden's J as a map, a task after the other: k down, thresholds across, and the best of each."""
    texts = []
    for task in dict.fromkeys(row.task for row in rows):
        here = [row for row in rows if row.task == task]
        thresholds = list(dict.fromkeys(row.threshold for row in here))
        lines = [f"{task}: Youden's J of {here[0].method}, then ACDC with {here[0].metric}; {_n_known(here)}"]
        lines.append(
            "".join(f"{text:>8}" for text in ("k", *("pruned" if t is None else f"{t:g}" for t in thresholds)))
        )
        for k in dict.fromkeys(row.k for row in here):
            values = {row.threshold: row.youden for row in here if row.k == k}
            lines.append(f"{k:8}" + "".join(f"{values[t]:8.3f}" for t in thresholds))
        best = max(here, key=lambda row: row.youden)
        lines.append(f"best: {_in_words(best)}")
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def _n_known(rows: Sequence[Row]) -> str:
    return f"{len({row.k for row in rows})} pruned graphs, the largest of {max(row.n_start for row in rows):,} edges"


def _in_words(row: Row) -> str:
    with_threshold = "without ACDC" if row.threshold is None else f"threshold {row.threshold:g}"
    rates = f"TPR {row.true_positive_rate:.3f}, FPR {row.false_positive_rate:.4f}"
    return f"J {row.youden:.3f} at k {row.k}, {with_threshold}: {row.n_edges} edges, {rates}"
