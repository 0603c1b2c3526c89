"""ACDC as a way to find a known circuit: a circuit for each of several thresholds.

- "acdc-kl": ACDC on the whole graph, keeping the KL divergence from the model small.
- "acdc": the same, keeping the task's metric up.
- "eap+acdc": ACDC with KL on the tenth of the edges that EAP scores highest (Syed, Rager and Conmy 2023, section 5.2).

Each circuit, without dead ends, is a point of true and false positive rate. The AUC is the trapezoid's under the points of
the Pareto front; beside it stands the area under the lower stairs, which the ACDC paper reports. What needs a score for every
edge (average precision, rates at k, nodes) takes the largest threshold that the edge survives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from edge_circuits import eap
from edge_circuits.acdc.threshold_sweep import ThresholdSweep
from edge_circuits.benchmarks.kept_sweeps import kept_sweep
from edge_circuits.benchmarks.reference import candidates
from edge_circuits.benchmarks.roc.finding import (
    FALSE_POSITIVE_RATES,
    NO_METRIC,
    Curve,
    Finding,
    Interval,
    Search,
    figures_of,
)
from edge_circuits.benchmarks.statistics.roc_curves import OperatingPoint, rates, roc_curve, threshold_roc
from edge_circuits.graphs import Circuit, ScoredGraph, prune
from edge_circuits.graphs.metrics import KL

THRESHOLDS = tuple(10 ** (power / 2) for power in range(-10, 3))  # 0.00001 to 10
SHARE = 0.1  # of the edges that EAP leaves
NAMES = ("acdc-kl", "acdc", "eap+acdc")


@dataclass(frozen=True)
class Sweep:
    """ACDC with many thresholds."""

    name: str

    @property
    def uses_metric(self) -> bool:
        return self.name != "acdc-kl"

    def find(self, search: Search, folder: Path) -> Finding:
        problem, metric = search.problem, search.metric_name if self.name == "acdc" else KL
        start = Circuit.full(problem.graph)
        if self.name == "eap+acdc":
            scored = eap.score(problem.model, problem.pairs, search.metric, "eap", quiet=True)
            start = prune(scored, round(SHARE * problem.graph.n_edges))
        return self._measured(search, *kept_sweep(problem, metric, THRESHOLDS, start, folder))

    def _measured(self, search: Search, found: ThresholdSweep, seconds: float | None) -> Finding:
        points = [_point(search, circuit.live()) for circuit in found.circuits]
        axes = (
            torch.tensor([getattr(p, f"{kind}_positive_rate") for p in points], dtype=torch.double)
            for kind in ("true", "false")
        )
        front = threshold_roc(*axes, torch.tensor(found.thresholds, dtype=torch.double))
        among = candidates(found.scored, search.problem.known, search.settings.universe)
        ranked, best = roc_curve(among.labels, among.scores), max(points, key=lambda point: point.youden)
        figures = replace(
            figures_of(search, ranked, found.scored),
            auc=front.trapezoid_auc,
            stairs_auc=front.stairs_auc,
            rates_at={rate: _most(points, rate) for rate in FALSE_POSITIVE_RATES},
            youden=best.youden,
            youden_k=best.n_selected,
        )
        return Finding(
            search=search,
            method=self.name,
            metric=search.metric_name if self.uses_metric else NO_METRIC,
            settings={"thresholds": list(THRESHOLDS), "n_tried": sum(trace.n_tried for trace in found.traces)},
            figures=figures,
            interval=Interval(None, None, "thresholds"),
            curve=Curve(front.false_positive_rates, front.true_positive_rates),
            scored=found.scored,
            seconds=seconds,
        )


def _point(search: Search, circuit: Circuit) -> OperatingPoint:
    """The rates of one circuit among the candidates."""
    kept: Tensor = circuit.mask.double()
    among = candidates(ScoredGraph(circuit.graph, kept), search.problem.known, search.settings.universe)
    return rates(among.labels, among.scores > 0)


def _most(points: list[OperatingPoint], rate: float) -> float:
    """The largest true positive rate among circuits of at most this false positive rate; 0 if there is none."""
    return max((point.true_positive_rate for point in points if point.false_positive_rate <= rate), default=0.0)
