"""ACDC by span: each edge is tried at each span of tokens, and cut there for good where the objective can do without it.

Destinations are visited as without positions (`edge_circuits.acdc.order`); at a destination, spans from the last to the first; at a
span, the destination's sources. Several edges of one destination and span are tried in a call, as if the earlier ones were cut:
the prompts are repeated for each candidate, with spans of their own, so that one run by span is the run of them all. A destination
that nothing leads on from at a span is cut there untried, and so are, without a run, edges whose source has its cut value there.

The price: a candidate is a run of the whole circuit by span, not of what follows the destination alone, and there are as many
candidates as edges times spans. So prune first where the graph is large.

Reference: Conmy et al. 2023, Towards Automated Circuit Discovery, Algorithm 1; spans after Haklay et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, takewhile
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from tqdm import tqdm

from edge_circuits.acdc import order as orders
from edge_circuits.acdc.objective import Objective, as_objective
from edge_circuits.acdc.search import MAX_TOKENS, STACKED_TOKENS, SearchSettings, check_thresholds
from edge_circuits.acdc.speculation import stack_size
from edge_circuits.acdc.trace import Change, Decision, is_kept, is_near_tie
from edge_circuits.graphs import Graph, PromptPairs
from edge_circuits.graphs.by_span import SpanCircuit, check_spans, joined
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.prompts.pairs import check_pairs
from edge_circuits.graphs.running.distributed import ALONE
from edge_circuits.graphs.running.execution import adapted_for, run_batch
from edge_circuits.graphs.running.patching import Intervention, cut_values, equals_a_run, trimmed
from edge_circuits.graphs.running.plan import make_plan
from edge_circuits.graphs.surroundings import in_plain_surroundings


@dataclass(frozen=True)
class SpanSweep:
    """What ACDC leaves, and how.

    Attributes:
        circuit: The edges that stay, at their spans.
        decisions: One for each edge and span that was kept at the start, in the order tried; named "a0.h1->m1@S1".
        n_runs: How many candidates were run, with those that speculation threw away.
    """

    circuit: SpanCircuit
    decisions: tuple[Decision, ...]
    n_runs: int


class Place(NamedTuple):
    """An edge at a span, by numbers."""

    source: int
    destination: int
    span: int


@in_plain_surroundings
@torch.no_grad()
def discover_spans(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    threshold: float,
    *,
    circuit: SpanCircuit | None = None,
    intervention: Intervention = "patching",
    change: Change = "signed",
    batch_size: int | None = None,
    stacked_tokens: int = STACKED_TOKENS,
    quiet: bool = False,
) -> SpanSweep:
    """The circuit by span that ACDC leaves of all edges at all spans, or of a circuit by span.

    Decisions are those of a loop that tries one edge at one span at a time.

    Args:
        model: A TransformerLens model; left unchanged.
        pairs: Prompts with spans, or `pairs.by_token()`.
        metric: "kl" or a task metric, as for `discover`.
        threshold: An edge is cut at a span when the objective rises by less.
        circuit: Where to begin; None: all edges at all spans.
        intervention: What a cut edge reads.
        change: "signed": rises by less; "absolute": moves by less either way.
        batch_size: Prompts in a batch; None: as many as fit in 2,048 tokens.
        stacked_tokens: Most tokens to run at a time when several edges are tried in one call.
        quiet: No progress bar.

    Raises:
        ValueError: Pairs without spans or with others than the circuit's, a circuit of another graph, or as `discover`.
    """
    check_thresholds([threshold])
    check_pairs(pairs)
    SearchSettings(intervention=intervention, change=change, stacked_tokens=stacked_tokens)  # refuses what there is not
    if pairs.spans is None:
        raise refusal("pairs", "prompts with spans", "prompts without", "give spans={...}, or take pairs.by_token()")
    if circuit is None:
        transformer = adapt(model)
        every = transformer.graph.edge_mask[:, :, None].repeat(1, 1, len(pairs.spans))
        circuit = SpanCircuit(transformer.graph, pairs.spans.names, every)
    else:
        check_spans(pairs, circuit.spans)
        transformer = adapted_for(model, circuit.graph)
    batches = [batch.to(transformer.device) for batch in ALONE.batches(pairs, batch_size, MAX_TOKENS)]
    runs = _Runs(transformer, circuit.graph, as_objective(metric, transformer, pairs), intervention, batches)
    return _Sweep(runs, circuit, float(threshold), change, stacked_tokens).run(quiet)


class _Runs:
    """Circuits by span as numbers: their objective, several at a time."""

    def __init__(
        self,
        transformer: Transformer,
        graph: Graph,
        metric: Metric | str,
        intervention: Intervention,
        batches: Sequence[PromptPairs],
    ) -> None:
        self.transformer, self.graph, self.intervention, self.batches = transformer, graph, intervention, batches
        make_cut = cut_values(transformer, batches, intervention)
        self.cuts = [make_cut(batch) for batch in batches]
        whole = make_plan(graph, graph.edge_mask, intervention)
        clean = [run_batch(transformer, whole, batch, cut) for batch, cut in zip(batches, self.cuts)]
        self.objective, self.n_prompts, self.n = Objective(metric, batches, clean), sum(map(len, batches)), 0

    def values(self, candidates: Bool[Tensor, "candidate source destination span"]) -> list[float]:
        """The objective of several circuits, each run on prompts and spans of its own.

        Raises:
            ValueError: It is not finite.
        """
        n = len(candidates)
        weights = torch.cat(list(candidates), dim=2).to(self.transformer.dtype)
        plan, total = make_plan(self.graph, weights, self.intervention), torch.zeros(n, dtype=torch.float64)
        for number, (batch, cut) in enumerate(zip(self.batches, self.cuts)):
            there = cut.each(lambda x: x.repeat(n, *[1] * (x.dim() - 1)))
            logits = run_batch(self.transformer, plan, batch.repeated(n), there).unflatten(0, (n, -1))
            total += self.objective.total(number, logits)
        self.n += n
        values = (total / self.n_prompts).tolist()
        if not all(map(math.isfinite, values)):
            raise refusal(f"metric {self.objective.name}", "a finite mean over prompts", values)
        return values


class _Sweep:
    """A sweep on its way: what is still kept, the objective, and the decisions."""

    def __init__(self, runs: _Runs, start: SpanCircuit, threshold: float, change: Change, stacked_tokens: int) -> None:
        self.runs, self.start, self.threshold, self.change = runs, start, threshold, change
        self.mask, self.decisions = start.mask.clone(), list[Decision]()
        self.most = max(1, stacked_tokens // max(trimmed(batch.clean, batch).numel() for batch in runs.batches))
        self.value = runs.values(self.mask[None])[0]
        self.noise = torch.finfo(runs.transformer.dtype).eps * max(1.0, abs(self.value))

    def run(self, quiet: bool) -> SpanSweep:
        """Decide every edge at every span."""
        places = list(self._order())
        with tqdm(total=len(places), desc=f"acdc by span {self.threshold:g}", unit="edge", disable=quiet) as bar:
            for (destination, span), some in groupby(places, key=lambda place: place[1:]):
                some = list(some)
                self._visit(destination, span, [place.source for place in some])
                bar.update(len(some))
        about = {**self.start.metadata, "method": "acdc", "threshold": self.threshold, "change": self.change}
        return SpanSweep(replace(self.start, mask=self.mask, metadata=about), tuple(self.decisions), self.runs.n)

    def _order(self) -> Iterator[Place]:
        graph = self.start.graph
        for destination in orders.destinations(graph):
            for span in reversed(range(len(self.start.spans))):
                for source in orders.sources(graph, destination):
                    if self.start.mask[source, destination, span]:
                        yield Place(source, destination, span)

    def _visit(self, destination: int, span: int, waiting: list[int]) -> None:
        """Decide the in-edges of a destination at a span."""
        fed, ahead = joined(self.start.graph, self.mask)
        if not ahead[destination, span]:
            for source in waiting:
                self._decide(Place(source, destination, span), None, False)
            return
        reached = fed[:, span].tolist() if equals_a_run(self.runs.intervention) else [True] * len(fed)
        while waiting:
            if running := list(takewhile(lambda source: reached[source], waiting)):
                del waiting[: self._try(destination, span, running)]
            else:  # the source has its cut value there: cutting it changes nothing
                kept = is_kept(self.value, self.value, self.threshold, self.change)
                self._decide(Place(waiting.pop(0), destination, span), self.value, kept)

    def _try(self, destination: int, span: int, waiting: list[int]) -> int:
        """Try the next edges in one call; returns how many of them are decided."""
        kept = [decision.kept for decision in self.decisions if decision.value_after is not None]
        chosen = waiting[: stack_size(kept, int(self.mask.any(2).any(1).sum()), self.most)]
        candidates = self.mask.repeat(len(chosen), 1, 1, 1)
        for number, source in enumerate(chosen):
            candidates[number:, source, destination, span] = False
        for number, value in enumerate(self.runs.values(candidates)):
            stays = is_kept(self.value, value, self.threshold, self.change)
            self._decide(Place(chosen[number], destination, span), value, stays)
            if stays:
                return number + 1
        return len(chosen)

    def _decide(self, place: Place, value: float | None, kept: bool) -> None:
        name = f"{self.start.graph.edge_name(place.source, place.destination)}@{self.start.spans[place.span]}"
        near = is_near_tie(self.value, value, self.threshold, self.change, self.noise)
        self.decisions.append(Decision(name, self.value, value, kept, near))
        if not kept:
            self.mask[tuple(place)] = False
            self.value = self.value if value is None else value
