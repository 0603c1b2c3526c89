"""What `edge_circuits.benchmarks.faithfulness` measures: models with prompts to score on and others to measure on, and what is found.

1. A case is a model and a task; edges are scored on its training prompts, circuits measured on its held-out ones.
2. Each method's scores give two curves (`edge_circuits.graphs.measures.curves`): the most helpful edges first for CPR, the largest by size
   first for CMD. Scores without a sign are ranked by size for both.
3. "random" is the mean over several draws, and its interval holds 95 % of them; the others' are the bootstrap's over prompts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits import eap
from edge_circuits.benchmarks import planted
from edge_circuits.benchmarks.problems.any_model import subjects
from edge_circuits.benchmarks.problems.known_circuits import PLANTED, Named
from edge_circuits.benchmarks.reference import TASKS, load_reference
from edge_circuits.eap.methods.lookup import find as find_method
from edge_circuits.graphs import Circuit, Graph, PromptPairs, metrics, prune
from edge_circuits.graphs.measures.curves import SHARES, Curve, Interval, curves, interval_of, resampled_shares
from edge_circuits.graphs.measures.quality import Measures, measure
from edge_circuits.graphs.running.patching import Intervention

HELPFUL, LARGEST = "helpful", "largest"
RANDOM = "random"
N_RANDOM = 10
FIGURES = {
    "cpr": ("cpr", HELPFUL, False),
    "cpr_clipped": ("cpr", HELPFUL, True),
    "cmd": ("cmd", LARGEST, False),
    "cmd_clipped": ("cmd", LARGEST, True),
}
"""Name of a figure -> area, ranking, whether clipped."""


@dataclass(frozen=True, eq=False)
class Case(Named):
    """A model and a task.

    Attributes:
        model_name: "planted", or the name or directory that was opened.
        task: Name of the task.
        model: The model, frozen.
        train: Prompts to score edges on.
        test: Other prompts, to measure circuits on.
        metric_name: Name of the metric.
        known: The known circuit; None if there is none.
    """

    model_name: str
    task: str
    model: nn.Module
    train: PromptPairs
    test: PromptPairs
    metric_name: str
    known: Circuit | None

    @property
    def graph(self) -> Graph:
        """The model's edges."""
        return Graph.from_model(self.model)

    @property
    def metric(self) -> metrics.Metric:
        """The metric itself."""
        return metrics.load(self.metric_name)


@dataclass(frozen=True, eq=False)
class Row:
    """What a method's circuits do in a case.

    Attributes:
        method: Its name.
        curves: "helpful" and "largest" -> the curve of that ranking, of "random" that of the first draw.
        faithfulness: The same -> faithfulness at each share, of "random" the mean over draws.
        figures: A name of `FIGURES` -> value and interval.
        at_known: Faithfulness with as many edges as the known circuit, largest first; None if none is known.
        seconds: What scoring took, without what an earlier run had done of it.
    """

    method: str
    curves: dict[str, Curve]
    faithfulness: dict[str, Float[Tensor, "point"]]
    figures: dict[str, Interval]
    at_known: Interval | None
    seconds: float


def cases(
    model_name: str,
    tasks: Sequence[str] | None,
    *,
    n_prompts: int,
    seed: int,
    metric: str | None = None,
    text: Path | None = None,
    weights: Path | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> list[Case]:
    """A model with each of some tasks; `n_prompts` to score on and as many others to measure on.

    Arguments are those of `edge_circuits.benchmarks.problems.any_model.subjects`.

    Raises:
        ValueError: As there, or fewer than two prompts.
    """
    if n_prompts < 2:
        raise ValueError(f"n_prompts: expected 2 or more, so that there are intervals, came {n_prompts}")
    if metric is not None:
        metrics.load(metric)
    if model_name == PLANTED:
        return [
            _planted(name, n_prompts, seed, metric, weights) for name in (planted.NAMES if tasks is None else tasks)
        ]
    found = subjects(
        model_name, tasks, n_prompts=2 * n_prompts, seed=seed, metric=metric, text=text, device=device, quiet=quiet
    )
    halves = [subject.pairs.split(n_prompts, seed) for subject in found]
    return [
        Case(
            subject.model_name,
            subject.task,
            subject.model,
            train,
            test,
            subject.metric_name,
            _reference(subject.task, subject.graph),
        )
        for subject, (train, test) in zip(found, halves)
    ]


def find(
    case: Case,
    method: str,
    intervention: Intervention,
    seed: int,
    shares: Sequence[float] = SHARES,
    folder: Path | None = None,
) -> Row:
    """Score on the training prompts with a method, measure on the held-out ones.

    Args:
        folder: For scores so far, so that what was stopped goes on.

    Raises:
        ValueError: There is no such method, or it cannot be asked of the model or with the metric.
    """
    start, draws = time.perf_counter(), range(seed, seed + N_RANDOM) if method == RANDOM else (seed,)
    asked_of = find_method(method)
    settings = dict(intervention=intervention, quiet=True, checkpoint=None if asked_of.takes_all else folder)
    scored = [eap.score(case.model, case.train, case.metric, asked_of.with_seed(draw), **settings) for draw in draws]
    seconds = time.perf_counter() - start
    ranked = {HELPFUL: "negative" if asked_of.signed and method != RANDOM else "absolute", LARGEST: "absolute"}
    asked = {f"{name} {draw}": one for name in ranked for draw, one in enumerate(scored)}
    by = {key: ranked[key.split()[0]] for key in asked}
    found = curves(case.model, asked, case.test, case.metric, intervention, shares=shares, by=by)
    drawn = {name: [found[f"{name} {draw}"] for draw in range(len(scored))] for name in ranked}
    known = None if case.known is None else [prune(one, case.known.n_edges) for one in scored]
    at_known = (
        None if known is None else _at_known(measure(case.model, known, case.test, case.metric, intervention), seed)
    )
    return Row(
        method=method,
        curves={name: each[0] for name, each in drawn.items()},
        faithfulness={
            name: torch.stack([curve.faithfulness for curve in each]).mean(0) for name, each in drawn.items()
        },
        figures={
            name: _figure(drawn[ranking], area, clipped, seed) for name, (area, ranking, clipped) in FIGURES.items()
        },
        at_known=at_known,
        seconds=seconds / len(scored),
    )


def _figure(drawn: Sequence[Curve], area: str, clipped: bool, seed: int) -> Interval:
    if len(drawn) == 1:
        return drawn[0].interval(area, clipped=clipped, seed=seed)
    return _over_draws([curve.area(area, clipped=clipped) for curve in drawn])


def _at_known(measured: Sequence[Measures], seed: int) -> Interval:
    if len(measured) == 1:
        only = measured[0]
        return interval_of(only.faithfulness, resampled_shares(only.ends, only.values[None], seed=seed)[:, 0])
    return _over_draws([one.faithfulness for one in measured])


def _over_draws(values: Sequence[float]) -> Interval:
    resamples = torch.tensor(values, dtype=torch.double)
    return interval_of(resamples.mean().item(), resamples)


def _planted(name: str, n_prompts: int, seed: int, metric: str | None, weights: Path | None) -> Case:
    model, circuit, task = planted.load(name, weights)
    train, test = (task.pairs(n_prompts, seed=seed, split=split) for split in ("train", "test"))
    return Case(PLANTED, name, model, train, test, metric or task.task.metric, circuit)


def _reference(task: str, graph: Graph) -> Circuit | None:
    """The reference circuit of a task, if it is one of this graph."""
    known = load_reference(task).circuit if task in TASKS else None
    return known if known is not None and known.graph == graph else None
