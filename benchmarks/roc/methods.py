"""Methods by name: what is asked to find a known circuit.

    method("eap").find(search, folder)         # a `Finding`

- Every method of `eap.score` is here under its own name, with settings behind a colon ("eap-ig:steps=10"), scored group of
  prompts by group.
- ACDC gives circuits instead of scores (`edge_circuits.benchmarks.roc.acdc_method`).
- "ends" is the baseline that knows which nodes the circuit has, and nothing of its edges.
- "random" is the other baseline: normal scores, drawn many times. Its figures are means over the draws, its interval holds 95 %
  of them: what a method without any knowledge reaches by luck.

Another kind of method is another class with the members of `Method`, and a name in `names` and `method`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Protocol

import torch

from edge_circuits import eap
from edge_circuits.benchmarks.group_scores import group_scores
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.reference import candidates
from edge_circuits.benchmarks.roc.acdc_method import NAMES as ACDC
from edge_circuits.benchmarks.roc.acdc_method import Sweep
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
from edge_circuits.eap.methods.lookup import find, known
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.bootstrap import percentiles
from edge_circuits.graphs.checks import refusal

RANDOM, ENDS = "random", "ends"
LARGE = 5000  # edges
_EXPECTED = torch.cat((torch.zeros(1), torch.logspace(-6, 0, 61)))  # rates of random scores: equal, at any threshold


class Method(Protocol):
    """A method that can be asked to find a circuit."""

    @property
    def name(self) -> str:
        """By which it is asked for."""

    @property
    def uses_metric(self) -> bool:
        """Whether the metric matters; a method to which it does not is asked once a problem."""

    def find(self, search: Search, folder: Path) -> Finding:
        """Find the circuit and measure how well.

        Args:
            search: What is to be found, with what.
            folder: Where results of earlier runs are, and new ones go.

        Raises:
            ValueError: The method cannot use the metric.
        """


@dataclass(frozen=True)
class Scoring:
    """A method of `eap.score`."""

    name: str
    method: eap.Method

    @property
    def uses_metric(self) -> bool:
        return self.method.needs_metric

    def find(self, search: Search, folder: Path) -> Finding:
        asked = self.method.with_seed(search.settings.seed)
        scored = group_scores(search.problem, asked, search.metric, folder, search.settings.n_groups)
        return measured_scores(search, self.name, scored, None if self.uses_metric else NO_METRIC)


@dataclass(frozen=True)
class Random:
    """The baseline: scores that know nothing."""

    name: str = RANDOM
    uses_metric: bool = False

    def find(self, search: Search, folder: Path) -> Finding:
        drawn = [self._draw(search, number) for number in range(search.settings.n_random)]
        areas = torch.tensor([each["auc"] for each in drawn], dtype=torch.double)
        means = {name: _mean([each[name] for each in drawn]) for name in drawn[0]}
        low, high = percentiles(areas).tolist()
        return Finding(
            search=search,
            method=self.name,
            metric=NO_METRIC,
            settings={"n_random": search.settings.n_random},
            figures=means | {"auc": areas.mean().item(), "youden_k": None},
            interval=Interval(low, high, "draws"),
            curve=Curve(_EXPECTED, _EXPECTED),
            scored=None,
            seconds=None,
        )

    def _draw(self, search: Search, number: int) -> Figures:
        """The figures of one draw."""
        generator = torch.Generator().manual_seed(1_000_003 * search.settings.seed + number)
        graph = search.problem.circuit.graph
        scored = ScoredGraph(graph, torch.randn(graph.edge_mask.shape, generator=generator) * graph.edge_mask)
        among = candidates(scored, search.problem.known, search.settings.universe)
        return figures_of(search, roc_curve(among.labels, among.scores), scored)


@dataclass(frozen=True)
class Ends:
    """The baseline that knows the circuit's nodes: 1 for each edge from one of its sources to one of its destinations, else 0."""

    name: str = ENDS
    uses_metric: bool = False

    def find(self, search: Search, folder: Path) -> Finding:
        circuit = search.problem.circuit
        about = {"settings": {}, "seconds": None}
        scored = ScoredGraph(circuit.graph, ends_of(circuit).float(), about)
        return replace(measured_scores(search, self.name, scored, NO_METRIC), scored=None)


def names() -> tuple[str, ...]:
    """All methods, the baselines last."""
    return (*(name for name in known() if name != RANDOM), *ACDC, RANDOM, ENDS)


def default_names(problem: Problem) -> tuple[str, ...]:
    """The methods that are asked when none are named: all, without slow ones if the graph is large."""
    if problem.graph.n_edges <= LARGE:
        return names()
    return tuple(name for name in names() if name in (RANDOM, ENDS) or not (name in ACDC or find(name).slow))


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: There is no such method.
    """
    if name in ACDC:
        return Sweep(name)
    if name.split(":")[0] not in names():
        raise refusal("method", f"one of {', '.join(names())}", repr(name))
    baselines = {RANDOM: Random(), ENDS: Ends()}
    return baselines[name] if name in baselines else Scoring(name, find(name))


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if there is a None among them."""
    return None if None in values else fmean(values)
