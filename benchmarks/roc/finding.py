"""Findings: how well one method found one known circuit, in figures.

Scores of edges are measured over all thresholds (`edge_circuits.benchmarks.statistics.roc_curves`), among the candidates of a
universe of edges (`edge_circuits.benchmarks.reference.universes`), ranked by absolute value. The interval of the AUC is the
bootstrap's over prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.reference.universes import candidate_labels, candidates, node_candidates
from edge_circuits.benchmarks.statistics.auc_interval import bootstrap_auc
from edge_circuits.benchmarks.statistics.roc_curves import RocCurve, area_under_roc, roc_curve
from edge_circuits.graphs import Circuit, ScoredGraph
from edge_circuits.graphs.checks import refusal, whole_number
from edge_circuits.graphs.metrics import Metric

FALSE_POSITIVE_RATES = (0.01, 0.05, 0.10)
Figures: TypeAlias = dict[str, float | None]
NO_METRIC = "none"  # what stands in a metric's place for a method that uses none


@dataclass(frozen=True)
class Settings:
    """What a search is made with, beside problem, method and metric.

    Attributes:
        seed: Of bootstrap and random scores; that of the prompts too.
        n_groups: Groups of prompts from which the bootstrap draws.
        n_resamples: Draws of the bootstrap.
        n_random: Draws of random scores.
        universe: Among which edges the circuit is to be found.
        k: Numbers of edges at which rates are told; none: as many as the circuit has.
    """

    seed: int = 0
    n_groups: int = 20
    n_resamples: int = 1000
    n_random: int = 100
    universe: str = "all"
    k: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Search:
    """A circuit to be found with one metric.

    Attributes:
        problem: Model, prompts and known circuit.
        metric_name: Name of the metric.
        metric: What methods score with.
        settings: See `Settings`.
    """

    problem: Problem
    metric_name: str
    metric: Metric
    settings: Settings

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of candidates, and of those in the circuit."""
        labels = candidate_labels(self.problem.known, self.settings.universe)
        return len(labels), int(labels.sum())

    @property
    def k(self) -> tuple[int, ...]:
        """Numbers of edges at which rates are told."""
        return self.settings.k or (self.sizes[1],)

    def check(self) -> None:
        """Refuse settings that do not fit the problem, before anything is scored.

        Raises:
            ValueError: There is no such universe, it has nothing to tell apart, or a k is out of range.
        """
        n, n_positives = self.sizes
        if n_positives in (0, n):
            expected = f"edges of {self.problem.name} inside and outside of the circuit"
            raise refusal(f"universe {self.settings.universe!r}", expected, f"{n_positives} of {n} inside")
        for k in self.settings.k:
            whole_number("k", k, 1, n, f"{self.problem.name} has {n} candidates")


class Curve(NamedTuple):
    """A ROC curve to draw, from (0, 0) to (1, 1)."""

    false_positive_rates: Float[Tensor, "point"]
    true_positive_rates: Float[Tensor, "point"]


class Interval(NamedTuple):
    """Where 95 % of the samples of an AUC lie; the ends are None where there are no samples.

    Attributes:
        over: "prompts" or "draws"; "thresholds" where the AUC is that of a front of points, which has no interval.
    """

    low: float | None
    high: float | None
    over: str


@dataclass(frozen=True, eq=False)
class Finding:
    """How well a method found a circuit.

    Attributes:
        search: What was to be found, and with what.
        method: Name of the method.
        metric: Name of the metric, or `NO_METRIC`.
        settings: The method's own settings.
        figures: What its ROC curve says, see `figures_of`.
        interval: Of the AUC.
        curve: The ROC curve.
        scored: The scores, mean over prompts; None if the figures are not those of one set of scores.
        seconds: Time for all prompts, on this machine; None if nothing was run.
    """

    search: Search
    method: str
    metric: str
    settings: Mapping[str, Any]
    figures: Figures
    interval: Interval
    curve: Curve
    scored: ScoredGraph | None
    seconds: float | None

    @property
    def named(self) -> str:
        """Method and metric, if it uses one, in words."""
        return self.method if self.metric == NO_METRIC else f"{self.method}, {self.metric}"

    def row(self) -> dict[str, Any]:
        """All figures under flat names, in types that JSON has."""
        problem, settings = self.search.problem, self.search.settings
        n_candidates, n_positives = self.search.sizes
        return {
            "model": problem.model_name,
            "task": problem.task,
            "circuit": problem.origin,
            "method": self.method,
            "metric": self.metric,
            "prompts": problem.prompts,
            "n_prompts": len(problem.pairs),
            "universe": settings.universe,
            "n_candidates": n_candidates,
            "n_positives": n_positives,
            "auc_low": self.interval.low,
            "auc_high": self.interval.high,
            "interval_over": self.interval.over,
            **self.figures,
            "settings": dict(self.settings),
            "seed": settings.seed,
            "seconds": self.seconds,
        }


def measured_scores(search: Search, method: str, scored: ScoredGraph, metric: str | None = None) -> Finding:
    """Measure scores that were made group by group.

    Args:
        method: Name of the method.
        metric: Name of the metric; None: the search's.
    """
    metric, problem, settings = metric or search.metric_name, search.problem, search.settings
    about = {**scored.metadata, "model": problem.model_name, "task": problem.task, "metric": metric}
    about["settings"] = {**about["settings"], "n_prompts": len(problem.pairs), "seed": settings.seed}
    among = candidates(scored, problem.known, settings.universe)
    curve, interval = roc_curve(among.labels, among.scores), Interval(None, None, "prompts")
    if scored.per_group is not None:
        drawn = dict(universe=settings.universe, n_resamples=settings.n_resamples, seed=settings.seed)
        resampled = bootstrap_auc(scored.per_group, problem.known, **drawn)
        interval = Interval(resampled.low, resampled.high, "prompts")
    return Finding(
        search=search,
        method=method,
        metric=metric,
        settings=about["settings"],
        figures=figures_of(search, curve, scored),
        interval=interval,
        curve=Curve(curve.false_positive_rates, curve.true_positive_rates),
        scored=ScoredGraph(problem.graph, scored.scores, about),
        seconds=scored.metadata["seconds"],
    )


def figures_of(search: Search, curve: RocCurve, scored: ScoredGraph) -> Figures:
    """The figures of scores and their curve, under flat names; None where there is nothing to tell apart.

    - auc, average_precision: of the curve; node_auc: over heads and MLPs; hard_auc, hard_average_precision: see `hard_areas`;
    - stairs_auc: area under the lower stairs of a front of points, None for scores of every edge;
    - tpr_at_fpr_R: the largest true positive rate at a false positive rate of R at most;
    - youden: the largest Youden's J, reached with youden_k candidates;
    - tpr_at_k_K, fpr_at_k_K: of the K candidates of highest score.
    """
    best = curve.best_youden()
    figures = {"auc": curve.auc, "stairs_auc": None, "average_precision": curve.average_precision}
    for rate in FALSE_POSITIVE_RATES:
        figures[f"tpr_at_fpr_{rate:g}"] = curve.at_false_positive_rate(rate).true_positive_rate
    figures |= {"youden": best.youden, "youden_k": best.n_selected}
    for k in search.k:
        point = curve.at_k(k)
        figures |= {f"tpr_at_k_{k}": point.true_positive_rate, f"fpr_at_k_{k}": point.false_positive_rate}
    return figures | {"node_auc": node_auc(search, scored)} | hard_areas(search.problem.circuit, scored)


def hard_areas(circuit: Circuit, scored: ScoredGraph) -> Figures:
    """How well |score| tells a circuit's edges from others between its own sources and destinations.

    Over all edges a baseline that knows only the nodes is nearly perfect (`ends_of`); among these it knows nothing.
    """
    among = ends_of(circuit)
    labels, scores = circuit.mask[among], scored.scores[among].abs()
    if labels.all() or not labels.any():
        return {"hard_auc": None, "hard_average_precision": None}
    curve = roc_curve(labels, scores)
    return {"hard_auc": curve.auc, "hard_average_precision": curve.average_precision}


def ends_of(circuit: Circuit) -> Bool[Tensor, "source destination"]:
    """All edges from a source of the circuit's edges to a destination of them. [source destination]"""
    return circuit.graph.edge_mask & circuit.mask.any(1)[:, None] & circuit.mask.any(0)


def node_auc(search: Search, scored: ScoredGraph) -> float | None:
    """The area under the ROC curve over heads and MLPs; None if all of them, or none, are in the circuit."""
    nodes = node_candidates(scored, search.problem.known)
    if nodes.n_positives in (0, len(nodes)):
        return None
    return area_under_roc(nodes.labels, nodes.scores).item()
