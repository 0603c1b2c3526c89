"""ACDC as a way to find a known circuit: a circuit for each of several thresholds.

- "acdc-kl": ACDC on the whole graph, keeping the KL divergence from the model small.
- "acdc": the same, keeping the task's metric up.
- "eap+acdc": ACDC with KL on the tenth of the edges that EAP scores highest (Syed, Rager and Conmy 2023, section 5.2).

Each circuit, without dead ends, is a point of true and false positive rate. The AUC is the trapezoid's under the points of
the Pareto front; beside it stands the area under the lower stairs, which the ACDC paper reports. What needs a score for every
edge (average precision, rates at k, nodes) takes the largest threshold that the edge survives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from edge_circuits import eap
from edge_circuits.benchmarks.kept_sweeps import kept_sweep
from edge_circuits.benchmarks.reference.universes import candidate_labels, candidates
from edge_circuits.benchmarks.roc.finding import (
    FALSE_POSITIVE_RATES,
    Curve,
    Figures,
    Finding,
    Interval,
    Search,
    figures_of,
)
from edge_circuits.benchmarks.statistics.roc_curves import OperatingPoint, ThresholdRoc, rates, roc_curve, threshold_roc
from edge_circuits.graphs import Circuit, prune
from edge_circuits.graphs.metrics import KL

THRESHOLDS = tuple(10 ** (power / 2) for power in range(-10, 3))  # 0.00001 to 10
SHARE = 0.1  # of the edges that EAP leaves
NAMES = ("acdc-kl", "acdc", "eap+acdc")


def find(name: str, search: Search, metric: str, folder: Path) -> Finding:
    """Sweep the thresholds and measure the circuits.

    Args:
        name: One of `NAMES`.
        metric: Its name in the finding.
        folder: For what is decided so far, so that what was stopped goes on.
    """
    problem, start = search.problem, Circuit.full(search.problem.graph)
    if name == "eap+acdc":
        scored = eap.score(problem.model, problem.pairs, search.metric, "eap", quiet=True)
        start = prune(scored, round(SHARE * problem.graph.n_edges))
    kept = search.metric_name if name == "acdc" else KL
    found, seconds = kept_sweep(problem, kept, THRESHOLDS, start, folder)
    among = candidates(found.scored, problem.known, search.settings.universe)
    points = [_rates(search, circuit.live()) for circuit in found.circuits]
    front = _front(points, found.thresholds)
    ranked = figures_of(search, roc_curve(among.labels, among.scores), found.scored)
    return Finding(
        search=search,
        method=name,
        metric=metric,
        settings={"thresholds": list(THRESHOLDS), "n_tried": sum(trace.n_tried for trace in found.traces)},
        figures=ranked | _figures_of_points(points, front),
        interval=Interval(None, None, "thresholds"),
        curve=Curve(front.false_positive_rates, front.true_positive_rates),
        scored=found.scored,
        seconds=seconds,
    )


def _rates(search: Search, circuit: Circuit) -> OperatingPoint:
    """Of one circuit among the candidates."""
    universe = search.settings.universe
    return rates(candidate_labels(search.problem.known, universe), candidate_labels(circuit, universe))


def _front(points: Sequence[OperatingPoint], thresholds: Sequence[float]) -> ThresholdRoc:
    columns = zip(*((point.true_positive_rate, point.false_positive_rate) for point in points))
    return threshold_roc(*(torch.tensor(column, dtype=torch.double) for column in (*columns, thresholds)))


def _figures_of_points(points: Sequence[OperatingPoint], front: ThresholdRoc) -> Figures:
    """Those that circuits have themselves, without scores; no rate is reached where no circuit reaches it."""
    best = max(points, key=lambda point: point.youden)
    figures = {"auc": front.trapezoid_auc, "stairs_auc": front.stairs_auc}
    for rate in FALSE_POSITIVE_RATES:
        reached = (point.true_positive_rate for point in points if point.false_positive_rate <= rate)
        figures[f"tpr_at_fpr_{rate:g}"] = max(reached, default=0.0)
    return figures | {"youden": best.youden, "youden_k": best.n_selected}
