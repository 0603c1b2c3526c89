"""Scores with error bars: how far the score of each edge depends on the prompts.

1. `score_groups` scores groups of prompts one by one and keeps what each adds, at the price of one scoring.
2. `error_bars` draws groups with replacement and gives each edge's interval and how surely it has its sign.
3. `graphs.pruning.selection_frequency` and `prune(graph, k, stable=0.95)` tell and use how surely an edge is chosen.

    graph = score_groups(model, pairs, metric, "relp", n_groups=20)
    bars = error_bars(graph)
    bars.low, bars.high, bars.sign_stability                 # [source destination]
    circuit = prune(graph, k=200, stable=0.95)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from edge_circuits.eap.budget import affordable, check_budget, with_exact
from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.scoring import MAX_TOKENS, score
from edge_circuits.graphs import PromptPairs, ScoredGraph
from edge_circuits.graphs.bootstrap import N_RESAMPLES, drawn_counts, edge_groups
from edge_circuits.graphs.checks import between_0_and_1, refusal, whole_number
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.distributed import Processes
from edge_circuits.graphs.surroundings import in_plain_surroundings
from edge_circuits.graphs.tables import Table

EDGE_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class ErrorBars:
    """How far scores depend on the prompts; 0 everywhere where there is no edge.

    Attributes:
        graph: The scores, kept group by group.
        low: Lower end of each score's interval, in the metric's unit. [source destination]
        high: Upper end. [source destination]
        sign_stability: Share of the samples of prompts in which the score has the sign it has over all. [source destination]
        confidence: Share of the samples inside of the intervals.
    """

    graph: ScoredGraph
    low: Float[Tensor, "source destination"]
    high: Float[Tensor, "source destination"]
    sign_stability: Float[Tensor, "source destination"]
    confidence: float

    def table(self, top: int = 20) -> Table:
        """The edges of largest |score| with their intervals, and how often other prompts give the same sign."""
        rows = []
        for edge, value in self.graph.top(top):
            place = self.graph.graph.edge_index(edge)
            rows.append((edge, value, *(each[place].item() for each in (self.low, self.high, self.sign_stability))))
        return Table(("edge", "score", "low", "high", "same sign"), tuple(rows), f"{self.confidence:.0%} intervals")

    def __str__(self) -> str:
        return str(self.table(10))

    def _repr_html_(self) -> str:
        return self.table(10)._repr_html_()


@in_plain_surroundings
def score_groups(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    method: Method | str = "relp",
    *,
    n_groups: int = 20,
    budget: float | int | None = None,
    quiet: bool = False,
    **settings: Any,
) -> ScoredGraph:
    """Scores over all prompts, with what each group of prompts adds to them in `per_group`.

    Args:
        model: As for `eap.score`, and so are the settings; a `process_group` shares the prompts of each group.
        pairs: Prompts; group i takes every n_groups-th from the i-th on, so each is a mixture.
        metric: `metric(logits, pairs)`, one value a prompt, or a metric's name.
        method: One of `eap.score` whose scores are means over prompts (`method.additive`).
        n_groups: Groups; one prompt each if there are fewer prompts.
        budget: As for `eap.score`, over all prompts. The edges that are measured are those whose interval reaches farthest from 0,
            so that those which prompts leave in doubt at the threshold are among them; the same in every group.
        quiet: No progress bar.

    With a `checkpoint` the groups that are done are read from that folder, each from one of its own. `metadata["seconds"]` is what all groups took.

    Raises:
        ValueError: As `eap.score`; fewer than two groups or prompts; a method or intervention whose scores are no means over
            prompts.
    """
    processes = Processes(settings.get("process_group"))
    with processes.agreeing() as asked:
        method = find(method)
        _check(pairs, method, n_groups, settings)
        check_budget(budget, method)
        asked |= {"n_groups": str(n_groups), "budget": str(budget)}
    groups, parts = pairs.groups(n_groups), []
    quiet = quiet or not processes.is_first
    folder = settings.pop("checkpoint", None)
    for number, group in enumerate(tqdm(groups, desc=method.name, unit="group", disable=quiet)):
        own = None if folder is None else Path(folder) / f"group-{number}-of-{len(groups)}"
        same = dict(quiet=True, checkpoint=own, **settings)
        parts.append([score(model, group, metric, member, **same) for member in method.members])
    shares = [len(group) / len(pairs) for group in groups]
    each = [torch.stack([one.scores * share for one, share in zip(of, shares)]) for of in zip(*parts)]
    per_group = method.joined(torch.stack(each, dim=-1) if len(each) > 1 else each[0], parts[0][0].graph)
    asked = {name: parts[0][0].metadata["settings"][name] for name in ("intervention", "n_prompts")}
    metadata = parts[0][0].metadata | {"method": method.name, "prompts": pairs.digest}
    metadata["settings"] = asked | method.settings | {"n_prompts": len(pairs), "n_groups": len(groups)}
    metadata["seconds"] = round(sum(one.metadata["seconds"] for of in parts for one in of), 3)
    total = per_group.double().sum(0).to(per_group.dtype)
    scored = ScoredGraph(parts[0][0].graph, total, metadata, per_group)
    if budget is None:
        return scored
    bars = error_bars(scored)
    transformer = adapt(model, kv_destinations=scored.graph.kv_destinations)
    batches = pairs.batches(settings.get("batch_size"), MAX_TOKENS)
    reach = torch.stack((scored.scores.abs(), bars.low.abs(), bars.high.abs())).amax(0)
    chosen = Exact(affordable(transformer, batches, reach, budget, settings.get("intervention", "patching")))
    exact = score_groups(model, pairs, metric, chosen, n_groups=n_groups, quiet=quiet, checkpoint=folder, **settings)
    return with_exact(scored, exact, chosen.edges, budget)


@in_plain_surroundings
def error_bars(
    graph: ScoredGraph, *, confidence: float = 0.95, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> ErrorBars:
    """Percentile intervals over prompts, and how surely each score has its sign.

    Args:
        graph: Scores kept group by group.
        confidence: Share of the draws inside of an interval.
        n_resamples: Number of draws.
        seed: Of the draws.

    Raises:
        ValueError: The scores came without groups, or a number is out of range.
    """
    between_0_and_1("confidence", confidence)
    whole_number("n_resamples", n_resamples, 2)
    graph.check_finite()
    groups = edge_groups(graph)
    counts = drawn_counts(len(groups), n_resamples, seed)
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    parts = []
    for some, signs in zip(groups.split(EDGE_CHUNK, dim=1), graph.values.sign().split(EDGE_CHUNK)):
        drawn = counts @ some
        parts.append(torch.cat((drawn.quantile(tails, dim=0), (drawn.sign() == signs).double().mean(0, keepdim=True))))
    low, high, stability = (graph.graph.matrix(values) for values in torch.cat(parts, dim=1))
    return ErrorBars(graph, low, high, stability, confidence)


def _check(pairs: PromptPairs, method: Method, n_groups: int, settings: dict[str, Any]) -> None:
    if not method.additive:
        expected = "one whose scores are means over prompts"
        raise refusal("method", expected, f"{method.name!r}: {method.not_additive}", "take another method")
    if str(settings.get("intervention", "")).startswith("mean"):
        got = f"{settings['intervention']!r}, whose means are over all prompts"
        raise refusal("intervention", "one that groups of prompts have", got, "take 'patching' or 'zero'")
    if n_groups < 2 or len(pairs) < 2:
        got = f"{n_groups} groups and {len(pairs)} prompts"
        raise refusal("n_groups", "2 or more, of as many prompts", got)
