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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, get_args, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits import eap
from edge_circuits.benchmarks.agreement.edges import Settings, grouped
from edge_circuits.benchmarks.group_scores import scores_beside_exact
from edge_circuits.benchmarks.output.tables import columns_of, table, with_ends
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.eap.methods.lookup import find, known
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.scoring import MAX_TOKENS
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.bootstrap import CHUNK, drawn_counts, percentiles
from edge_circuits.graphs.correlation import Measured, pearson, spearman
from edge_circuits.graphs.measures.curves import curves
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
        row = self.problem.columns | {"method": self.method, "n_edges": self.problem.graph.n_edges}
        row |= {"n_prompts": len(self.problem.pairs), "cost": self.cost, "k": self.k}
        for name, each in self.figures.items():
            row |= columns_of(name, each)
        return row


def map_names() -> tuple[str, ...]:
    """All methods that estimate exact patching in one go, each with every reader that it can have."""
    names = []
    for name, method in known().items():
        if not (method.takes_all or isinstance(method, (eap.Exact, eap.Random))):
            names += [name, *(f"{name}:reader={reader}" for reader in _readers(method))]
    return tuple(names)


def _readers(method: Method) -> tuple[str, ...]:
    """Those that it can have beside its own."""
    choices = get_args(get_type_hints(type(method)).get("reader"))
    return tuple(reader for reader in choices if reader != method.reader)


def points(
    problem: Problem, methods: Sequence[str], settings: Settings, folder: Path, quiet: bool
) -> tuple[list[Point], dict[str, str]]:
    """Every method on one problem, exact patching last; and the methods that could not be asked, with the reason."""
    asked, plain = {name: find(name) for name in methods}, plain_seconds(problem)
    exact, scored, left_out = scores_beside_exact(problem, asked, folder, settings.n_groups, quiet)
    scored["exact"] = exact
    areas = _areas(problem, scored, settings)
    found = []
    for name, each in scored.items():
        method = find(name)
        cost = _own_seconds(problem, method) / plain
        figures = agreement_figures(each, exact, method.signed, settings) | areas[name]
        found.append(Point(problem, name, method.signed, cost, top_k(exact), figures))
    return found, left_out


def _areas(problem: Problem, scored: Mapping[str, ScoredGraph], settings: Settings) -> dict[str, dict[str, Measured]]:
    """CPR, the most helpful edges first, and CMD, the largest first, on the prompts held out, by method."""
    asked = {f"{area} {name}": each for area in ("cpr", "cmd") for name, each in scored.items()}
    by = dict.fromkeys(asked, "absolute") | {f"cpr {name}": "negative" for name in scored if find(name).signed}
    found: dict[str, dict[str, Measured]] = {name: {} for name in scored}
    for key, curve in curves(problem.model, asked, problem.held_out, problem.metric, by=by).items():
        area, _, name = key.partition(" ")
        found[name][area] = Measured(*curve.interval(area, clipped=True, seed=settings.seed)[:3])
    return found


def top_k(exact: ScoredGraph) -> int:
    """How many edges are held against one another."""
    return min(MOST_K, exact.graph.n_edges // 10)


def agreement_figures(
    scored: ScoredGraph, exact: ScoredGraph, signed: bool, settings: Settings = Settings()
) -> dict[str, Measured]:
    """Pearson, Spearman, overlap of the k largest, and share of right signs; those of scores without a sign by size."""
    sides = [side[:, exact.graph.edge_mask].double() for side in grouped(scored, exact)]
    held_against = partial(_held_against, k=top_k(exact), signed=signed)
    whole = held_against(*(side.sum(0) for side in sides))
    if len(sides[0]) < 2:
        return {name: Measured(value.item(), None, None) for name, value in whole.items()}
    counts = drawn_counts(len(sides[0]), settings.n_resamples, settings.seed).split(CHUNK)
    drawn = [held_against(*(some @ side for side in sides)) for some in counts]
    ends = {name: percentiles(torch.cat([each[name] for each in drawn])).tolist() for name in whole}
    return {name: Measured(value.item(), *ends[name]) for name, value in whole.items()}


def _held_against(
    x: Float[Tensor, "*draw edge"], y: Float[Tensor, "*draw edge"], k: int, signed: bool
) -> dict[str, Float[Tensor, "*draw"]]:
    """Figures of scores x beside exact ones y."""
    largest = y.abs().topk(k, dim=-1).indices
    chosen = torch.zeros_like(x, dtype=torch.bool).scatter_(-1, x.abs().topk(k, dim=-1).indices, True)
    found = {"top_k": chosen.gather(-1, largest).double().mean(-1)}
    if signed:
        found["sign"] = (x.sign() == y.sign()).gather(-1, largest).double().mean(-1)
    x, y = (x, y) if signed else (x.abs(), y.abs())
    return found | {"pearson": pearson(x, y), "spearman": spearman(x, y)}


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


def _own_seconds(problem: Problem, method: Method) -> float:
    """CPU time of scoring all prompts at once; the least of some, of a slow method that of a single time."""
    asked = problem.model, problem.pairs, problem.metric, method
    return min(_seconds(lambda: eap.score(*asked, quiet=True)) for _ in range(1 if method.slow else ROUNDS))


def _seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def text(found: Sequence[Point]) -> str:
    """A table a problem, and one over all of them."""
    problems = list(dict.fromkeys(point.problem for point in found))
    tables = [_table([point for point in found if point.problem is problem]) for problem in problems]
    return "\n\n".join([*tables, _over_all(found, len(problems)), LEGEND])


def _table(found: Sequence[Point]) -> str:
    problem = found[0].problem
    about = f"{problem.name}: {problem.graph.n_edges:,} edges, {len(problem.pairs)} {problem.prompts}, {problem.metric_name}"
    names = [f"top {found[0].k}" if name == "top_k" else name for name in FIGURES]
    cells = []
    for one in found:
        figures = [with_ends(one.figures.get(name)) for name in FIGURES]
        cells.append([one.method, "" if one.signed else "|.|", f"{one.cost:.1f}", *figures])
    return f"{about}\n{table(['method', '', 'cost', *names], cells)}"


def _over_all(found: Sequence[Point], n_problems: int) -> str:
    """Means over problems, and the worst."""
    lines = []
    for method in dict.fromkeys(point.method for point in found):
        here = [point for point in found if point.method == method]
        cells = [method, str(len(here)), f"{fmean(point.cost for point in here):.1f}"]
        for name in FIGURES:
            values = [each.value for point in here if (each := point.figures.get(name)) and each.value is not None]
            worst = max if name == "cmd" else min
            cells.append(f"{fmean(values):.3f} ({worst(values):.3f})" if values else "-")
        lines.append(cells)
    return f"over {n_problems} problems: mean (worst)\n" + table(["method", "n", "cost", *FIGURES], lines)
