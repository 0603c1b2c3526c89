"""What ACDC sweeps with different thresholds share: model, prompts, objective, order, and how a candidate is valued."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Real
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from edge_circuits.acdc import order as orders
from edge_circuits.acdc.objective import Objective
from edge_circuits.acdc.order import Edge
from edge_circuits.acdc.trace import Change, Trace
from edge_circuits.graphs import Circuit, PromptPairs
from edge_circuits.graphs.files.digest import digest_of
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.cached_run import CachedRun
from edge_circuits.graphs.running.distributed import Processes
from edge_circuits.graphs.running.execution import run_batch
from edge_circuits.graphs.running.incremental import run_candidates
from edge_circuits.graphs.running.patching import Intervention, answer_rows, check_intervention, cut_values, trimmed
from edge_circuits.graphs.running.plan import make_plan

MAX_TOKENS = 2048
STACKED_TOKENS = 1024


class Search:
    """A model, prompts, an objective and an order: all that sweeps with different thresholds share."""

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        pairs: PromptPairs,
        metric: Metric | str,
        *,
        start: Circuit | None = None,
        intervention: Intervention = "patching",
        change: Change = "signed",
        order: Sequence[str] | None = None,
        batch_size: int | None = None,
        stacked_tokens: int = STACKED_TOKENS,
        kv_destinations: str = "query-head",
        process_group: ProcessGroup | None = None,
    ) -> None:
        """See `acdc.discover` for the arguments.

        Args:
            start: the circuit at the start; None: all edges.
        """
        check_intervention(intervention)
        _check(change, stacked_tokens)
        if start is not None:
            kv_destinations = "query-head" if start.graph.n_kv_heads is None else "kv-head"
        self.transformer = adapt(model, kv_destinations=kv_destinations)
        self.graph = self.transformer.graph
        self.start = Circuit.full(self.graph) if start is None else start
        if self.start.graph != self.graph:
            raise ValueError(f"the circuit is of {self.start.graph}, the model's graph is {self.graph}.")
        self.order = orders.checked(self.graph, order, self.start.mask)
        self.intervention, self.change = intervention, change
        self.processes = Processes(process_group, self.transformer.device)
        batches = self.processes.batches(pairs, batch_size, MAX_TOKENS)
        batches = [batch.to(self.transformer.device) for batch in batches]
        self.batches, self.n_batches = self.processes.mine(batches), len(batches)
        make_cut = cut_values(self.transformer, batches, intervention, self.processes)
        self.cuts = [make_cut(batch) for batch in self.batches]
        clean = [self._clean_logits(batch) for batch in self.batches]
        self.objective, self.n_prompts = Objective(metric, self.batches, clean), len(pairs)
        self.stacked_tokens = stacked_tokens
        self.most_tokens = {  # that a candidate runs on, in any batch
            False: max(trimmed(batch.clean, batch).numel() for batch in batches),
            True: max(map(len, batches)),
        }
        self.n_evaluated = 0  # candidates, those that speculation threw away among them
        self.settings = self._settings(pairs, batches, intervention, clean)
        self.processes.check_same(
            {"search": {**self.settings, "start": digest_of(repr(self.start.edges)), "change": change}}
        )
        self.start_value = self._start_value()

    def _clean_logits(self, batch: PromptPairs) -> Float[Tensor, "batch d_vocab"]:
        transformer = self.transformer
        kept = transformer.forward(transformer.embed(trimmed(batch.clean, batch)), answer_rows(batch))
        return transformer.unembed(kept.final[:, 0])

    def _start_value(self) -> float:
        plan = make_plan(self.graph, self.start.mask, self.intervention)
        runs = [run_batch(self.transformer, plan, batch, cut) for batch, cut in zip(self.batches, self.cuts)]
        return self.check_finite(self.value(runs), "the circuit at the start")

    def _settings(
        self, pairs: PromptPairs, batches: Sequence[PromptPairs], intervention: str, clean: Sequence[Tensor]
    ) -> dict[str, Any]:
        """What a trace says of its origin, enough to recognise it."""
        sizes = torch.stack([logits.double().square().sum() for logits in clean]).cpu()
        return {
            "model": self.transformer.name,
            "metric": self.objective.name,
            "intervention": intervention,
            "n_prompts": len(pairs),
            "prompts": pairs.digest,
            "order": digest_of(repr(self.order)),
            "batches": [list(trimmed(batch.clean, batch).shape) for batch in batches],
            "stacked_tokens": self.stacked_tokens,
            "clean_logits": f"{sum(self.processes.in_order(sizes, self.n_batches).tolist()):.4e}",
        }

    def cached_runs(self, mask: Bool[Tensor, "source destination"]) -> list[CachedRun]:
        """The runs of a circuit on this process' batches."""
        rows = zip(self.batches, self.cuts)
        return [CachedRun(self.transformer, mask, batch, cut) for batch, cut in rows]

    def price(self, runs: Sequence[CachedRun], destination: int) -> tuple[int, int]:
        """How many nodes a candidate runs, and how many candidates fit in a call."""
        moved = runs[0].dependents(destination).moved
        at_answer = destination == self.graph.n_destinations - 1
        return moved.bit_count(), max(1, self.stacked_tokens // self.most_tokens[at_answer])

    def value(self, logits: Sequence[Float[Tensor, "_ d_vocab"]]) -> float:
        """The objective of a circuit from its logits on this process' batches."""
        totals = torch.cat([self.objective.total(i, each[None]) for i, each in enumerate(logits)])
        return sum(self.processes.in_order(totals, self.n_batches).tolist()) / self.n_prompts

    def values(
        self, runs: Sequence[CachedRun], destination: int, candidates: Bool[Tensor, "candidate source"]
    ) -> list[float]:
        """The objective when a destination keeps, in turn, each of these sets of sources."""
        self.n_evaluated += len(candidates)
        totals = torch.stack(
            [self.objective.total(i, run_candidates(each, destination, candidates)) for i, each in enumerate(runs)]
        )
        return (self.processes.in_order(totals, self.n_batches).sum(0) / self.n_prompts).tolist()

    def check_finite(self, value: float, what: str) -> float:
        """The value, if it is a finite number.

        Raises:
            ValueError: it is not; the message says with what.
        """
        if not math.isfinite(value):
            raise ValueError(f"metric {self.objective.name} is {value} with {what}; it must be finite.")
        return value

    def name(self, edge: Edge) -> str:
        """An edge's name."""
        return f"{self.graph.sources[edge[0]]}->{self.graph.destinations[edge[1]]}"

    def own(self, trace: Trace, threshold: float, path: str | os.PathLike[str]) -> Trace:
        """A trace that was read from a file, if it is of this search and threshold.

        Raises:
            ValueError: it is of another one; the message says in what.
        """
        mine = {"start": self.start, "threshold": threshold, "change": self.change, **self.settings}
        its = {"start": trace.start, "threshold": trace.threshold, "change": trace.change, **trace.settings}
        for name, value in mine.items():
            if its.get(name) != value:
                raise ValueError(
                    f"{path} is of another sweep: its {name} is {its.get(name)}, here it is {value}; "
                    "give another file, or delete it to begin anew."
                )
        return trace


def _check(change: str, stacked_tokens: int) -> None:
    if change not in get_args(Change):
        raise ValueError(f"change is 'signed' or 'absolute', got {change!r}.")
    if not isinstance(stacked_tokens, int) or isinstance(stacked_tokens, bool) or stacked_tokens < 1:
        raise ValueError(f"stacked_tokens must be a positive whole number, got {stacked_tokens!r}.")


def check_threshold(threshold: float) -> None:
    """Refuse what is no threshold.

    Raises:
        ValueError: NaN, negative, or no number.
    """
    if not isinstance(threshold, Real) or isinstance(threshold, bool) or not threshold >= 0:
        raise ValueError(f"threshold must be a number from 0 to infinity, got {threshold!r}.")
