"""How well one circuit of `edge_circuits.benchmarks.refine` agrees with the known one."""

from __future__ import annotations

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
