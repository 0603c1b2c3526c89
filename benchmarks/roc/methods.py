"""Methods by name: what is asked to find a known circuit.

    method("eap").find(search, parts, step)         # a `Finding`

- Every method of `eap.score` is here under its own name. It is called on one group of prompts at a time: its scores are
  means over prompts, so the groups' means, weighted by their sizes, add up to the scores over all prompts, exactly;
  and the groups are what the bootstrap draws from. Those that are not additive are called once
  on all prompts, and have no interval.
- ACDC gives circuits instead of scores (`edge_circuits.benchmarks.roc.acdc_method`).
- "random" is the baseline: normal scores, drawn many times. Its figures are means over the draws, its interval holds 95 %
  of them: what a method without any knowledge reaches by luck.

Another kind of method is another class with the members of `Method`, and a name in `names` and `method`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from edge_circuits import eap
from edge_circuits.benchmarks.output.cache import SavedParts, code_digest, model_digest
from edge_circuits.benchmarks.problems.known_circuits import Problem
from edge_circuits.benchmarks.reference import candidates
from edge_circuits.benchmarks.roc import acdc_method as sweeps
from edge_circuits.benchmarks.roc.finding import (
    FALSE_POSITIVE_RATES,
    NO_METRIC,
    Curve,
    Finding,
    Rates,
    Search,
    measured_scores,
    node_auc,
    rates_at_k,
)
from edge_circuits.benchmarks.statistics.roc_curves import RocCurve, roc_curve
from edge_circuits.eap.methods.lookup import find, known
from edge_circuits.graphs import PromptPairs, ScoredGraph

RANDOM = "random"
LARGE = 5000  # edges
INTERVAL = 0.95
_EXPECTED = torch.cat((torch.zeros(1), torch.logspace(-6, 0, 61)))  # rates of random scores: equal, at any threshold


@runtime_checkable
class Method(Protocol):
    """A method that can be asked to find a circuit."""

    @property
    def name(self) -> str:
        """By which it is asked for."""

    @property
    def uses_metric(self) -> bool:
        """Whether the metric matters; a method to which it does not is asked once a problem."""

    def n_parts(self, search: Search) -> int:
        """How many steps `find` takes."""

    def find(self, search: Search, parts: SavedParts, step: Callable[[], None]) -> Finding:
        """Find the circuit and measure how well.

        Args:
            search: What is to be found, with what.
            parts: Where results of earlier runs are, and new ones go.
            step: To be called after each of the steps.

        Raises:
            ValueError: The method cannot use the metric.
        """


@dataclass(frozen=True)
class Scoring:
    """A method of `eap.score`."""

    name: str

    @property
    def uses_metric(self) -> bool:
        return find(self.name).needs_metric

    def n_parts(self, search: Search) -> int:
        return len(self._groups(search))

    def find(self, search: Search, parts: SavedParts, step: Callable[[], None]) -> Finding:
        groups, scores = self._groups(search), []
        metric = search.metric_name if self.uses_metric else NO_METRIC
        of_all = {"model": model_digest(search.problem.model), "method": self.name, "metric": metric}
        of_all |= {"seed": search.settings.seed, "code": code_digest()}
        label = f"{search.problem.stem}-{self.name}-{metric}"
        for group in groups:
            key = {**of_all, "pairs": group.digest}
            scores.append(parts.get(label, key, lambda group=group: self._score(search, group)))
            step()
        return measured_scores(search, self.name, scores, [len(group) for group in groups], metric)

    def _groups(self, search: Search) -> list[PromptPairs]:
        return search.problem.pairs.groups(search.settings.n_groups if find(self.name).additive else 1)

    def _score(self, search: Search, group: PromptPairs) -> ScoredGraph:
        """Scores of one group, with the seconds they took in the metadata."""
        start = time.perf_counter()
        asked = find(self.name).with_seed(search.settings.seed)
        scored = eap.score(search.problem.model, group, search.metric, asked, quiet=True)
        about: dict[str, Any] = {**scored.metadata, "seconds": time.perf_counter() - start}
        return ScoredGraph(scored.graph, scored.scores, about)


@dataclass(frozen=True)
class Random:
    """The baseline: scores that know nothing."""

    name: str = RANDOM

    @property
    def uses_metric(self) -> bool:
        return False

    def n_parts(self, search: Search) -> int:
        return 1

    def find(self, search: Search, parts: SavedParts, step: Callable[[], None]) -> Finding:
        draws = [self._draw(search, number) for number in range(search.settings.n_random)]
        curves, node_aucs = [curve for curve, _ in draws], [auc for _, auc in draws]
        aucs = torch.tensor([curve.auc for curve in curves], dtype=torch.double)
        tail = (1 - INTERVAL) / 2
        low, high = aucs.quantile(torch.tensor([tail, 1 - tail], dtype=torch.double)).tolist()
        step()
        return Finding(
            search=search,
            method=self.name,
            metric=NO_METRIC,
            settings={"n_random": search.settings.n_random},
            auc=aucs.mean().item(),
            low=low,
            high=high,
            interval="draws",
            average_precision=fmean(curve.average_precision for curve in curves),
            rates_at={rate: _mean_rate(curves, rate) for rate in FALSE_POSITIVE_RATES},
            youden=fmean(curve.best_youden().youden for curve in curves),
            youden_k=None,
            rates_at_k={k: _mean_rates_at_k(curves, k) for k in search.k},
            node_auc=None if None in node_aucs else fmean(node_aucs),
            seconds=None,
            curve=Curve(_EXPECTED, _EXPECTED),
            scored=None,
        )

    def _draw(self, search: Search, number: int) -> tuple[RocCurve, float | None]:
        """The ROC curve of one draw, and its area over nodes."""
        generator = torch.Generator().manual_seed(1_000_003 * search.settings.seed + number)
        mask: Tensor = search.problem.graph.edge_mask
        scored = ScoredGraph(search.problem.graph, torch.randn(mask.shape, generator=generator) * mask)
        among = candidates(scored, search.problem.known, search.settings.universe)
        return roc_curve(among.labels, among.scores), node_auc(search, scored)


def names() -> tuple[str, ...]:
    """All methods, the baseline last."""
    return (*(name for name in known() if name != RANDOM), *sweeps.NAMES, RANDOM)


def default_names(problem: Problem) -> tuple[str, ...]:
    """The methods that are asked when none are named: all, without slow ones if the graph is large."""
    is_large = problem.graph.n_edges > LARGE
    return tuple(name for name in names() if not (is_large and _is_slow(name)))


def _is_slow(name: str) -> bool:
    return name in sweeps.NAMES or find(name).slow


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: There is no such method.
    """
    if name not in names():
        raise ValueError(f"method: expected one of {', '.join(names())}, came {name!r}")
    if name in sweeps.NAMES:
        return sweeps.Sweep(name)
    return Random() if name == RANDOM else Scoring(name)


def _mean_rate(curves: list[RocCurve], rate: float) -> float:
    return fmean(curve.at_false_positive_rate(rate).true_positive_rate for curve in curves)


def _mean_rates_at_k(curves: list[RocCurve], k: int) -> Rates:
    rates = [rates_at_k(curve, k) for curve in curves]
    return Rates(*(fmean(values) for values in zip(*rates)))
