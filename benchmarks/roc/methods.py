"""Methods by name: what is asked to find a known circuit.

    find("eap", search, folder)         # a `Finding`

- Every method of `eap.score` is here under its own name, with settings behind a colon ("eap-ig:steps=10"), scored group of
  prompts by group.
- ACDC gives circuits instead of scores (`edge_circuits.benchmarks.roc.acdc_method`).
- "ends" is the baseline that knows which nodes the circuit has, and nothing of its edges: 1 for each edge from one of its sources
  to one of its destinations, else 0.
- "random" is the other baseline: normal scores, drawn many times. Its figures are means over the draws, its interval holds 95 %
  of them: what a method without any knowledge reaches by luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from edge_circuits.benchmarks.group_scores import group_scores
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.reference.universes import candidates
from edge_circuits.benchmarks.roc import acdc_method
from edge_circuits.benchmarks.roc.finding import (
    NO_METRIC,
    Curve,
    Figures,
    Finding,
    Interval,
    Search,
    ends_of,
    figures_of,
    measured_scores,
)
from edge_circuits.benchmarks.statistics.roc_curves import roc_curve
from edge_circuits.eap.methods import lookup
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.bootstrap import percentiles
from edge_circuits.graphs.checks import refusal

RANDOM, ENDS = "random", "ends"
LARGE = 5000  # edges
_EXPECTED = torch.cat((torch.zeros(1), torch.logspace(-6, 0, 61)))  # rates of random scores: equal, at any threshold


def names() -> tuple[str, ...]:
    """All methods, the baselines last."""
    return (*(name for name in lookup.known() if name != RANDOM), *acdc_method.NAMES, RANDOM, ENDS)


def default_names(problem: Problem) -> tuple[str, ...]:
    """The methods that are asked when none are named: all, without slow ones if the graph is large."""
    if problem.graph.n_edges <= LARGE:
        return names()
    return tuple(name for name in names() if name in (RANDOM, ENDS) or not _is_slow(name))


def uses_metric(name: str) -> bool:
    """Whether the metric matters; a method to which it does not is asked once a problem.

    Raises:
        ValueError: There is no such method.
    """
    if name.split(":")[0] not in names():
        raise refusal("method", f"one of {', '.join(names())}", repr(name))
    if name in acdc_method.NAMES:
        return name != "acdc-kl"
    return name not in (RANDOM, ENDS) and lookup.find(name).needs_metric


def find(name: str, search: Search, folder: Path) -> Finding:
    """Find the circuit with a method and measure how well.

    Args:
        folder: Where results of earlier runs are, and new ones go.

    Raises:
        ValueError: There is no such method, or it cannot use the metric.
    """
    metric = search.metric_name if uses_metric(name) else NO_METRIC
    if name in acdc_method.NAMES:
        return acdc_method.find(name, search, metric, folder)
    if name == RANDOM:
        return _random(search)
    if name == ENDS:
        circuit, about = search.problem.circuit, {"settings": {}, "seconds": None}
        scored = ScoredGraph(circuit.graph, ends_of(circuit).float(), about)
        return replace(measured_scores(search, name, scored, metric), scored=None)
    method = lookup.find(name).with_seed(search.settings.seed)
    scored = group_scores(search.problem, method, search.metric, folder, search.settings.n_groups)
    return measured_scores(search, name, scored, metric)


def _is_slow(name: str) -> bool:
    return name in acdc_method.NAMES or lookup.find(name).slow


def _random(search: Search) -> Finding:
    drawn = [_draw(search, number) for number in range(search.settings.n_random)]
    areas = torch.tensor([each["auc"] for each in drawn], dtype=torch.double)
    means = {name: _mean([each[name] for each in drawn]) for name in drawn[0]}
    low, high = percentiles(areas).tolist()
    return Finding(
        search=search,
        method=RANDOM,
        metric=NO_METRIC,
        settings={"n_random": search.settings.n_random},
        figures=means | {"auc": areas.mean().item(), "youden_k": None},
        interval=Interval(low, high, "draws"),
        curve=Curve(_EXPECTED, _EXPECTED),
        scored=None,
        seconds=None,
    )


def _draw(search: Search, number: int) -> Figures:
    """The figures of one draw of random scores."""
    generator = torch.Generator().manual_seed(1_000_003 * search.settings.seed + number)
    graph = search.problem.circuit.graph
    scored = ScoredGraph(graph, torch.randn(graph.edge_mask.shape, generator=generator) * graph.edge_mask)
    among = candidates(scored, search.problem.known, search.settings.universe)
    return figures_of(search, roc_curve(among.labels, among.scores), scored)


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if there is a None among them."""
    return None if None in values else fmean(values)
