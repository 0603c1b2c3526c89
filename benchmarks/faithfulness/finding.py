"""What a method's circuits do, over their size.

1. Edges are scored on the problem's prompts, circuits measured on those held out.
2. Each method's scores give two curves (`edge_circuits.graphs.measures.curves`): the most helpful edges first for CPR, the
   largest by size first for CMD. Scores without a sign are ranked by size for both.
3. "random" is the mean over several draws, and its interval holds 95 % of them; the others' are the bootstrap's over prompts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits import eap
from edge_circuits.benchmarks.group_scores import own_folder
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.eap.methods.lookup import find as find_method
from edge_circuits.graphs import ScoredGraph, prune
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
class Row:
    """What a method's circuits do in a problem.

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


def find(
    problem: Problem,
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
    metric, start = problem.metric, time.perf_counter()
    draws = range(seed, seed + N_RANDOM) if method == RANDOM else (seed,)
    asked_of = find_method(method)

    def score(draw: int) -> ScoredGraph:
        drawn = asked_of.with_seed(draw)
        own = own_folder(None if folder is None else folder / intervention, problem, metric, drawn)
        settings = dict(intervention=intervention, quiet=True, checkpoint=own)
        return eap.score(problem.model, problem.pairs, metric, drawn, **settings)

    scored = [score(draw) for draw in draws]
    seconds = time.perf_counter() - start
    ranked = {HELPFUL: "negative" if asked_of.signed and method != RANDOM else "absolute", LARGEST: "absolute"}
    asked = {f"{name} {draw}": one for name in ranked for draw, one in enumerate(scored)}
    by = {key: ranked[key.split()[0]] for key in asked}
    found = curves(problem.model, asked, problem.held_out, metric, intervention, shares=shares, by=by)
    drawn = {name: [found[f"{name} {draw}"] for draw in range(len(scored))] for name in ranked}
    known = None if problem.known is None else [prune(one, problem.circuit.n_edges) for one in scored]
    at_known = (
        None
        if known is None
        else _at_known(measure(problem.model, known, problem.held_out, metric, intervention), seed)
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
