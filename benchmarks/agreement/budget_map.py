"""Agreement with exact patching against its price, for every method and reader: `agreement --budget-map`.

1. Each problem's edges are scored by exact patching and by every method, a method with a choice of readers with each of them.
2. Held against exact patching: Pearson, Spearman, the share of the k edges of largest effect that are among the k of largest score
   (k: 100, or a tenth of the edges of a small graph), and the share of these k whose sign is right.
3. Circuits are cut from the scores and run on held-out prompts: CPR and CMD (`edge_circuits.graphs.measures.curves`).
4. The price is CPU time over that of the plain passes: two forward passes and a backward pass over the same prompts.

Intervals are the bootstrap's over prompts. Models trained with several seeds are problems of their own (`--model trained trained:1`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, get_args, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from edge_circuits import eap
from edge_circuits.benchmarks.agreement.edges import Settings
from edge_circuits.benchmarks.group_scores import group_scores
from edge_circuits.benchmarks.output.tables import table
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.eap.methods.lookup import find, known
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.scoring import MAX_TOKENS
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.bootstrap import CHUNK, drawn_counts, percentiles
from edge_circuits.graphs.correlation import Measured, pearson, spearman
from edge_circuits.graphs.measures.curves import curves
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.patching import answer_rows, trimmed

MOST_K = 100
FIGURES = ("pearson", "spearman", "top_k", "sign", "cpr", "cmd")
ROUNDS = 3
LEGEND = """\
cost: CPU time over that of two forward passes and a backward pass over the same prompts. top k: share of the k edges of largest
effect among the k of largest score; sign: share of them with the right sign. CPR (1 is best) and CMD (0), clipped, on held-out
prompts. In brackets: 95 % of the bootstrap's samples of prompts. Scores without a sign (|.|) are held against sizes."""


@dataclass(frozen=True)
class Point:
    """One method on one problem.

    Attributes:
        cost: In plain passes.
        k: Of `top_k` and `sign`.
        figures: A name of `FIGURES` -> value and interval; "sign" only of scores that have one.
    """

    problem: Problem
    method: str
    signed: bool
    cost: float
    k: int
    figures: dict[str, Measured]

    def row(self) -> dict[str, Any]:
        """All under flat names."""
        problem = self.problem
        row = {"model": problem.model_name, "task": problem.task, "metric": problem.metric_name, "method": self.method}
        row |= {"n_edges": problem.graph.n_edges, "n_prompts": len(problem.pairs), "cost": self.cost, "k": self.k}
        for name, each in self.figures.items():
            row |= {name: each.value, f"{name}_low": each.low, f"{name}_high": each.high}
        return row


def map_names() -> tuple[str, ...]:
    """All methods that estimate exact patching in one go, each with every reader that it can have."""
    names = []
    for name, method in known().items():
        if not (method.takes_all or isinstance(method, (eap.Exact, eap.Random))):
            names += [name, *(f"{name}:reader={reader}" for reader in _readers(method)[1:])]
    return tuple(names)


def _readers(method: Method) -> tuple[str, ...]:
    names = {field.name for field in fields(method)}
    if "reader" not in names:
        return ()
    choices = get_args(get_type_hints(type(method))["reader"])
    return (method.reader, *(reader for reader in choices if reader != method.reader))


def budget_map(
    problems: Sequence[Problem], methods: Sequence[str], settings: Settings, folder: Path, quiet: bool
) -> tuple[list[Point], dict[str, dict[str, str]]]:
    """Every method on every problem, exact patching last; and by problem the methods that could not be asked, with the reason."""
    points, left_out = [], {}
    for problem in problems:
        left_out[problem.name] = {}
        points += _points(problem, methods, settings, folder, quiet, left_out[problem.name])
    return points, left_out


def _points(
    problem: Problem, methods: Sequence[str], settings: Settings, folder: Path, quiet: bool, left_out: dict[str, str]
) -> Iterator[Point]:
    metric, plain, scored, costs = problem.metric, plain_seconds(problem), {}, {}
    for name in tqdm([*methods, "exact"], desc=problem.name, unit="method", disable=quiet, leave=False):
        method = find(name)
        try:
            scored[name] = group_scores(problem, method, metric, folder, settings.n_groups)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        costs[name] = _own_seconds(problem, method, metric) / plain
    by = {name: "negative" if find(name).signed else "absolute" for name in scored}
    exact = scored["exact"]
    asked = {f"{area} {name}": each for area in ("cpr", "cmd") for name, each in scored.items()}
    order = {key: by[key.split()[1]] if key.startswith("cpr") else "absolute" for key in asked}
    found = curves(problem.model, asked, problem.held_out, metric, by=order)
    for name, each in scored.items():
        areas = {
            area: found[f"{area} {name}"].interval(area, clipped=True, seed=settings.seed) for area in ("cpr", "cmd")
        }
        figures = agreement_figures(each, exact, find(name).signed, settings)
        figures |= {area: Measured(one.value, one.low, one.high) for area, one in areas.items()}
        yield Point(problem, name, find(name).signed, costs[name], top_k(exact), figures)


def top_k(exact: ScoredGraph) -> int:
    """How many edges are held against one another."""
    return min(MOST_K, exact.graph.n_edges // 10)


def agreement_figures(
    scored: ScoredGraph, exact: ScoredGraph, signed: bool, settings: Settings = Settings()
) -> dict[str, Measured]:
    """Pearson, Spearman, overlap of the k largest, and share of right signs; those of scores without a sign by size."""
    k, mask = top_k(exact), exact.graph.edge_mask
    groups = [each.scores[None] if each.per_group is None else each.per_group for each in (scored, exact)]
    if len(groups[0]) != len(groups[1]):  # a method that does not add up
        groups = [group.double().sum(0, keepdim=True) for group in groups]
    sides = [group[:, mask].double() for group in groups]

    def figures(x: Float[Tensor, "*draw edge"], y: Float[Tensor, "*draw edge"]) -> dict[str, Float[Tensor, "*draw"]]:
        largest = y.abs().topk(k, dim=-1).indices
        chosen = torch.zeros_like(x, dtype=torch.bool).scatter_(-1, x.abs().topk(k, dim=-1).indices, True)
        found = {"top_k": chosen.gather(-1, largest).double().mean(-1)}
        if signed:
            same = x.sign() == y.sign()
            found["sign"] = same.gather(-1, largest).double().mean(-1)
        x, y = (x, y) if signed else (x.abs(), y.abs())
        return found | {"pearson": pearson(x, y), "spearman": spearman(x, y)}

    whole = figures(*(side.sum(0) for side in sides))
    if len(sides[0]) < 2:
        return {name: Measured(value.item(), None, None) for name, value in whole.items()}
    counts = drawn_counts(len(sides[0]), settings.n_resamples, settings.seed).split(CHUNK)
    drawn = [figures(*(some @ side for side in sides)) for some in counts]
    ends = {name: percentiles(torch.cat([each[name] for each in drawn])).tolist() for name in whole}
    return {name: Measured(value.item(), *ends[name]) for name, value in whole.items()}


def plain_seconds(problem: Problem) -> float:
    """CPU time of two forward passes and a backward pass down to the embedding, over all prompts; the least of some."""
    transformer, metric = adapt(problem.model), problem.metric

    def passes(batch: PromptPairs) -> None:
        clean, corrupted = (transformer.embed(trimmed(tokens, batch)) for tokens in (batch.clean, batch.corrupted))
        rows = answer_rows(batch)
        with torch.no_grad():
            transformer.forward(corrupted, rows)
        clean = clean.detach().requires_grad_()
        logits = transformer.unembed(transformer.forward(clean, rows).final[:, 0])
        values = metric(logits, batch).sum()
        if values.requires_grad:
            torch.autograd.grad(values, clean)

    batches = [batch.to(transformer.device) for batch in problem.pairs.batches(max_tokens=MAX_TOKENS)]
    return min(_seconds(lambda: [passes(batch) for batch in batches]) for _ in range(ROUNDS))


def _own_seconds(problem: Problem, method: Method, metric: Metric) -> float:
    """CPU time of scoring all prompts at once; the least of some, of a slow method that of a single time."""
    rounds = 1 if method.slow else ROUNDS
    return min(
        _seconds(lambda: eap.score(problem.model, problem.pairs, metric, method, quiet=True)) for _ in range(rounds)
    )


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def text(points: Sequence[Point]) -> str:
    """A table a problem, and one over all of them."""
    problems = list(dict.fromkeys(point.problem for point in points))
    parts = []
    for problem in problems:
        here = [point for point in points if point.problem is problem]
        about = f"{problem.name}: {problem.graph.n_edges:,} edges, {len(problem.pairs)} {problem.prompts}, {problem.metric_name}"
        names = [f"top {here[0].k}" if name == "top_k" else name for name in FIGURES]
        cells = [
            [
                one.method,
                "" if one.signed else "|.|",
                f"{one.cost:.1f}",
                *(_cell(one.figures.get(name)) for name in FIGURES),
            ]
            for one in here
        ]
        parts.append(f"{about}\n{table(['method', '', 'cost', *names], cells)}")
    return "\n\n".join([*parts, _over_all(points, len(problems)), LEGEND])


def _over_all(points: Sequence[Point], n_problems: int) -> str:
    """Means over problems, and the worst."""
    lines = []
    for method in dict.fromkeys(point.method for point in points):
        here = [point for point in points if point.method == method]
        cells = [method, str(len(here)), f"{fmean(point.cost for point in here):.1f}"]
        for name in FIGURES:
            values = [each.value for point in here if (each := point.figures.get(name)) and each.value is not None]
            worst = max if name == "cmd" else min
            cells.append(f"{fmean(values):.3f} ({worst(values):.3f})" if values else "-")
        lines.append(cells)
    return f"over {n_problems} problems: mean (worst)\n" + table(["method", "n", "cost", *FIGURES], lines)


def _cell(measured: Measured | None) -> str:
    if measured is None or measured.value is None:
        return "-"
    return f"{measured.value:.2f}" + ("" if measured.low is None else f" ({measured.low:.2f} {measured.high:.2f})")
