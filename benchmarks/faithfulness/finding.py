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
from edge_circuits.graphs.measures.curves import Curve, Interval, curves, interval_of, resampled_shares
from edge_circuits.graphs.measures.quality import measure
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


def find(problem: Problem, method: str, intervention: Intervention, seed: int, folder: Path | None = None) -> Row:
    """Score on the training prompts with a method, measure on the held-out ones.

    Args:
        folder: For scores so far, so that what was stopped goes on.

    Raises:
        ValueError: There is no such method, or it cannot be asked of the model or with the metric.
    """
    start = time.perf_counter()
    scored = _scored(problem, method, intervention, seed, folder)
    seconds = time.perf_counter() - start
    is_signed = find_method(method).signed and method != RANDOM
    ranked = {HELPFUL: "negative" if is_signed else "absolute", LARGEST: "absolute"}
    asked = {f"{name} {draw}": one for name in ranked for draw, one in enumerate(scored)}
    by = {key: ranked[key.split()[0]] for key in asked}
    found = curves(problem.model, asked, problem.held_out, problem.metric, intervention, by=by)
    drawn = {name: [found[f"{name} {draw}"] for draw in range(len(scored))] for name in ranked}
    return Row(
        method=method,
        curves={name: each[0] for name, each in drawn.items()},
        faithfulness={name: torch.stack([one.faithfulness for one in each]).mean(0) for name, each in drawn.items()},
        figures={
            name: _figure(drawn[ranking], area, clipped, seed) for name, (area, ranking, clipped) in FIGURES.items()
        },
        at_known=_at_known(problem, scored, intervention, seed),
        seconds=seconds / len(scored),
    )


def _scored(
    problem: Problem, method: str, intervention: Intervention, seed: int, folder: Path | None
) -> list[ScoredGraph]:
    """The method's scores; several draws of random ones."""
    found, metric = [], problem.metric
    for draw in range(seed, seed + N_RANDOM) if method == RANDOM else (seed,):
        asked = find_method(method).with_seed(draw)
        own = own_folder(None if folder is None else folder / intervention, problem, metric, asked)
        settings = dict(intervention=intervention, quiet=True, checkpoint=own)
        found.append(eap.score(problem.model, problem.pairs, metric, asked, **settings))
    return found


def _figure(drawn: Sequence[Curve], area: str, clipped: bool, seed: int) -> Interval:
    if len(drawn) == 1:
        return drawn[0].interval(area, clipped=clipped, seed=seed)
    return _over_draws([curve.area(area, clipped=clipped) for curve in drawn])


def _at_known(
    problem: Problem, scored: Sequence[ScoredGraph], intervention: Intervention, seed: int
) -> Interval | None:
    if problem.known is None:
        return None
    circuits = [prune(one, problem.circuit.n_edges) for one in scored]
    measured = measure(problem.model, circuits, problem.held_out, problem.metric, intervention)
    if len(measured) == 1:
        only = measured[0]
        return interval_of(only.faithfulness, resampled_shares(only.ends, only.values[None], seed=seed)[:, 0])
    return _over_draws([one.faithfulness for one in measured])


def _over_draws(values: Sequence[float]) -> Interval:
    resamples = torch.tensor(values, dtype=torch.double)
    return interval_of(resamples.mean().item(), resamples)
