"""What ACDC sweeps with different thresholds share: model, prompts, objective, order, and how a candidate is valued."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from edge_circuits.acdc import order as orders
from edge_circuits.acdc.objective import Objective, as_objective
from edge_circuits.acdc.order import Edge
from edge_circuits.acdc.trace import Change
from edge_circuits.graphs import Circuit, PromptPairs
from edge_circuits.graphs.checks import choice, flag, refusal, whole_number
from edge_circuits.graphs.files.digest import digest_of
from edge_circuits.graphs.graph import KVDestinations
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.prompts.pairs import check_pairs
from edge_circuits.graphs.running.cached_run import CachedRun
from edge_circuits.graphs.running.distributed import Processes
from edge_circuits.graphs.running.execution import run_batch
from edge_circuits.graphs.running.fingerprint import question
from edge_circuits.graphs.running.incremental import run_candidates
from edge_circuits.graphs.running.patching import (
    Intervention,
    answer_logits,
    check_intervention,
    clean_logits,
    cut_values,
    trimmed,
)
from edge_circuits.graphs.running.plan import make_plan

MAX_TOKENS = 2048
STACKED_TOKENS = 1024
ALL_CUT = "value_all_cut"


@dataclass(frozen=True)
class SearchSettings:
    """How ACDC searches; the keywords that `discover`, `refine` and `sweep` have in common, see there.

    Raises:
        ValueError: A setting that there is not.
    """

    intervention: Intervention = "patching"
    change: Change = "signed"
    order: Sequence[str] | None = None
    kv_destinations: KVDestinations | None = None
    batch_size: int | None = None
    stacked_tokens: int = STACKED_TOKENS
    process_group: ProcessGroup | None = None
    direct_edges: bool = False

    def __post_init__(self) -> None:
        check_intervention(self.intervention)
        choice("change", self.change, get_args(Change))
        whole_number("stacked_tokens", self.stacked_tokens, least=1)
        if flag("direct_edges", self.direct_edges) and self.order is not None:
            raise refusal("order", "None with direct_edges, which have their published place", "names", "leave it out")
        if self.kv_destinations is not None:
            choice("kv_destinations", self.kv_destinations, get_args(KVDestinations))


class Search:
    """A model, prompts, an objective and an order: all that sweeps with different thresholds share."""

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        pairs: PromptPairs,
        metric: Metric | str,
        settings: Mapping[str, Any] = {},
        start: Circuit | None = None,
        *,
        thresholds: Sequence[float] = (0.0,),
        checkpoint: object = None,
    ) -> None:
        """Run the model and the circuit at the start.

        Args:
            model: A TransformerLens model; left unchanged.
            pairs: Clean prompts, and corrupted ones to cut to.
            metric: "kl" or a task metric.
            settings: Those of `SearchSettings` that are not the usual ones.
            start: The circuit at the start; None: all edges.
            thresholds: Of the sweeps that follow.
            checkpoint: Where their traces are kept, on which the processes of a group have to agree.

        Raises:
            ValueError: The circuit is of another graph, or what `discover` refuses.
        """
        self.processes = Processes(settings.get("process_group"))
        with self.processes.agreeing() as asked:
            check_thresholds(thresholds)
            self.settings = SearchSettings(**settings)
            check_pairs(pairs)
            self._begin_at(model, start)
            batches = self.processes.batches(pairs, self.settings.batch_size, MAX_TOKENS)
            batches = [batch.to(self.transformer.device) for batch in batches]
            metric = as_objective(metric, self.transformer, pairs)
            self.origin = self._origin(model, pairs, metric, batches)
            asked |= {"circuit": digest_of(repr(self.start.edges)), "change": self.settings.change}
            asked |= {name: repr(value) for name, value in self.origin.items()}
            asked |= {"threshold": str(sorted(map(float, thresholds))), "checkpoint": str(checkpoint)}
        self.batches, self.n_batches = self.processes.mine(batches), len(batches)
        make_cut = cut_values(self.transformer, batches, self.settings.intervention, self.processes)
        self.cuts = [make_cut(batch) for batch in self.batches]
        clean = [clean_logits(self.transformer, batch) for batch in self.batches]
        self.objective, self.n_prompts = Objective(metric, self.batches, clean), len(pairs)
        self.most_tokens = {  # that a candidate runs on, in any batch
            False: max(trimmed(batch.clean, batch).numel() for batch in batches),
            True: max(map(len, batches)),
        }
        self.n_evaluated = 0  # candidates, those that speculation threw away among them
        self.start_value = self.value_of(self.start.mask, "the circuit at the start")
        all_cut = self.value(
            [answer_logits(self.transformer, cut, batch) for cut, batch in zip(self.cuts, self.batches)]
        )
        self.origin[ALL_CUT] = all_cut if math.isfinite(all_cut) else None

    def _begin_at(self, model: nn.Module, start: Circuit | None) -> None:
        """Adapt the model, with the destinations asked for or those of the circuit at the start, and settle the order."""
        if not isinstance(start, Circuit | None):
            raise refusal("circuit", "a Circuit", type(start).__name__, "prune makes one of scores")
        had = "query-head" if start is None else start.graph.kv_destinations
        self.transformer = adapt(model, kv_destinations=self.settings.kv_destinations or had)
        self.processes.send_from(self.transformer.device)
        self.graph = self.transformer.graph
        self.start = Circuit.full(self.graph) if start is None else start
        if self.start.graph != self.graph:
            got = f"one of {self.start.graph}"
            raise refusal("circuit", f"one of {self.graph}", got, "take a circuit of this model")
        self.order = orders.checked(self.graph, self.settings.order, self.start.mask)
        if self.settings.direct_edges:
            self.order = orders.with_direct(self.graph, self.order)

    def value_of(self, mask: Bool[Tensor, "source destination"], what: str) -> float:
        """The objective of a circuit, run afresh.

        Raises:
            ValueError: It is not finite; the message says with `what`.
        """
        plan = make_plan(self.graph, mask, self.settings.intervention)
        runs = [run_batch(self.transformer, plan, batch, cut) for batch, cut in zip(self.batches, self.cuts)]
        return self.check_finite(self.value(runs), what)

    def _origin(
        self, model: nn.Module, pairs: PromptPairs, metric: Metric | str, batches: Sequence[PromptPairs]
    ) -> dict[str, Any]:
        """What a trace says of its origin: all that decides its values."""
        asked = question(model, self.transformer, pairs, metric, batches, gradients=False)
        return {
            **asked,
            "model": self.transformer.name,
            "intervention": str(self.settings.intervention),
            "n_prompts": len(pairs),
            "order": digest_of(repr(self.order)),
            "batches": [list(trimmed(batch.clean, batch).shape) for batch in batches],
            "stacked_tokens": self.settings.stacked_tokens,
            **({"direct_edges": True} if self.settings.direct_edges else {}),
        }

    def cached_runs(self, mask: Bool[Tensor, "source destination"]) -> list[CachedRun]:
        """The runs of a circuit on this process' batches."""
        return [CachedRun(self.transformer, mask, batch, cut) for batch, cut in zip(self.batches, self.cuts)]

    def price(self, runs: Sequence[CachedRun], destination: int) -> tuple[int, int]:
        """How many nodes a candidate runs, and how many candidates fit in a call."""
        moved = runs[0].dependents(destination).moved
        at_answer = destination == self.graph.n_destinations - 1
        return moved.bit_count(), max(1, self.settings.stacked_tokens // self.most_tokens[at_answer])

    def value(self, logits: Sequence[Float[Tensor, "_ *rows d_vocab"]]) -> float:
        """The objective of a circuit from its logits on this process' batches."""
        totals = torch.cat([self.objective.total(i, each[None]) for i, each in enumerate(logits)])
        return sum(self.processes.in_order(totals, self.n_batches).tolist()) / self.n_prompts

    def values(
        self, runs: Sequence[CachedRun], destination: int, candidates: Bool[Tensor, "candidate source"]
    ) -> list[float]:
        """The objective when a destination keeps, in turn, each of these sets of sources."""
        self.n_evaluated += len(candidates)
        totals = torch.stack(
            [self.objective.total(i, run_candidates(run, destination, candidates)) for i, run in enumerate(runs)]
        )
        return (self.processes.in_order(totals, self.n_batches).sum(0) / self.n_prompts).tolist()

    def check_finite(self, value: float, what: str) -> float:
        """The value, if it is a finite number."""
        if not math.isfinite(value):
            raise refusal(f"metric {self.objective.name}", "a finite mean over prompts", f"{value} with {what}")
        return value

    def name(self, edge: Edge) -> str:
        """An edge's name; of a direct edge, the destination's."""
        if edge[0] == orders.DIRECT:
            return self.graph.destinations[edge[1]]
        return self.graph.edge_name(*edge)


def check_thresholds(thresholds: Sequence[float]) -> None:
    """Refuse what are no thresholds: NaN, negative, no numbers, none, or one that comes twice."""
    for threshold in thresholds:
        if not isinstance(threshold, Real) or isinstance(threshold, bool) or not threshold >= 0:
            raise refusal("threshold", "a number from 0 to infinity", repr(threshold))
    if not thresholds or len(set(thresholds)) < len(thresholds):
        raise refusal("thresholds", "one or more different numbers", list(thresholds))
