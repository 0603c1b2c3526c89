"""The metric of many circuits, prompt by prompt, with the work shared.

1. The model is read once, and what cut edges read is computed once for each batch.
2. Each different circuit runs once on it (`edge_circuits.graphs.running.execution.run_batch`); its logits are measured and let go, so memory holds
   one batch's logits of two circuits, however many there are.

    values = values_of(model, [circuit, ~circuit], pairs, metric)
    values.metric                                                   # [circuit pair]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from edge_circuits.graphs import Circuit, Graph, PromptPairs
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.divergence import Reference
from edge_circuits.graphs.metrics import Metric, accuracy, as_metric, check_values, top_accuracy
from edge_circuits.graphs.prompts.pairs import check_pairs, in_order
from edge_circuits.graphs.running.changing import since_changed
from edge_circuits.graphs.running.distributed import ALONE
from edge_circuits.graphs.running.execution import MAX_TOKENS, adapted_for, run_batch
from edge_circuits.graphs.running.patching import Cut, Intervention, check_intervention, cut_values
from edge_circuits.graphs.running.plan import make_plan

TINY = 1e-5  # of the size of the metric: what rounding in float32 may leave of two equal values


@dataclass(frozen=True, eq=False)
class Ends:
    """The two ends that a circuit lies between.

    Attributes:
        clean: The metric of the whole model on the clean prompts. [pair]
        corrupted: With every edge cut: under patching the model on the corrupted prompts. [pair]
    """

    clean: Float[Tensor, "pair"]
    corrupted: Float[Tensor, "pair"]

    @property
    def span(self) -> float:
        """Mean of clean minus mean of corrupted, in the metric's unit."""
        return (self.clean.mean() - self.corrupted.mean()).item()

    def check(self) -> None:
        """Refuse ends that leave nothing to measure by.

        Raises:
            ValueError: The means are equal, as far as rounding tells, or not finite.
        """
        size = (self.clean.abs().mean() + self.corrupted.abs().mean()).item()
        if not TINY * size < abs(self.span) < float("inf"):
            raise ValueError(
                f"metric: expected different means on the clean model and with every edge cut, got {self.clean.mean().item():.6g} and "
                f"{self.corrupted.mean().item():.6g} over {len(self.clean)} prompts; cutting does not change this metric, take another "
                "metric, other corrupted prompts or another intervention"
            )

    def share(self, values: Float[Tensor, "*circuit pair"]) -> Float[Tensor, "*circuit"]:
        """Where the means of values lie: 0 at corrupted, 1 at clean."""
        return (values.mean(-1) - self.corrupted.mean()) / self.span


@dataclass(frozen=True, eq=False)
class Values:
    """What circuits do on each prompt, float64 on the CPU.

    Attributes:
        metric: The metric. [circuit pair]
        divergence: KL(model || circuit) at the answer position, in nats. [circuit pair]
        right: Whether the answer is right, see `answers_right`; None for pairs without answers. [circuit pair]
        ends: The metric of the whole model and of the empty circuit.
        model_right: `right` of the whole model. [pair]
    """

    metric: Float[Tensor, "circuit pair"]
    divergence: Float[Tensor, "circuit pair"]
    right: Bool[Tensor, "circuit pair"] | None
    ends: Ends
    model_right: Bool[Tensor, "pair"] | None


class Trial:
    """A model and prompts, made ready for any number of circuits of one graph.

    Attributes:
        transformer: The model as plain tensors.
        batches: The prompts, on the model's device.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        pairs: PromptPairs,
        intervention: Intervention,
        batch_size: int | None = None,
    ) -> None:
        """
        Raises:
            ValueError: The graph is not the model's, or the model or intervention is not supported.
        """
        check_pairs(pairs)
        check_intervention(intervention)
        self.transformer = adapted_for(model, graph)
        batches = ALONE.batches(pairs, batch_size, MAX_TOKENS)
        self.batches = [batch.to(self.transformer.device) for batch in batches]
        self._cuts = cut_values(self.transformer, self.batches, intervention)

    def each(self) -> Iterator[tuple[PromptPairs, Cut]]:
        """The batches, each with the values that cut edges read where they can change, on the device of the prompts."""
        cuts = ((batch, self._cuts(batch).to(batch.device)) for batch in self.batches)
        return ((batch, since_changed(self.transformer, batch, cut)) for batch, cut in cuts)

    def logits(self, circuit: Circuit, batch: PromptPairs, cut: Cut) -> Float[Tensor, "batch *rows d_vocab"]:
        """A circuit's logits at the answer positions of one batch."""
        return run_batch(self.transformer, make_plan(circuit.graph, circuit.mask, cut.intervention), batch, cut)


@torch.no_grad()
def values_of(
    model: nn.Module,
    circuits: Sequence[Circuit],
    pairs: PromptPairs,
    metric: Metric | str,
    intervention: Intervention = "patching",
    *,
    batch_size: int | None = None,
) -> Values:
    """Metric, divergence and right answers of circuits, prompt by prompt.

    Args:
        model: A TransformerLens model; left unchanged.
        circuits: All of the model's graph; equal ones run once.
        pairs: The prompts to measure on.
        metric: `metric(logits, pairs)`, one value a prompt; or a metric's name.
        intervention: What a cut edge reads; means are taken over all `pairs`.
        batch_size: Prompts in a batch; by default as many as fit in 4,096 tokens.

    Raises:
        ValueError: No circuit, one of another graph, an unsupported model or intervention, or a metric of another shape.
    """
    check_circuits(circuits)
    graph = circuits[0].graph
    trial = Trial(model, graph, pairs, intervention, batch_size)
    metric = as_metric(metric, trial.transformer, pairs)
    asked = [Circuit.full(graph), Circuit.empty(graph), *circuits]
    rows = {circuit: row for row, circuit in enumerate(dict.fromkeys(asked))}
    measured = [_of_batch(trial, list(rows), batch, cut, metric) for batch, cut in trial.each()]
    places = [rows[circuit] for circuit in asked]
    values, divergence, right = (
        None if parts[0] is None else in_order(trial.batches, parts).T[places] for parts in zip(*measured, strict=True)
    )
    clean_right, rights = (None, None) if right is None else (right[0] > 0, right[2:] > 0)
    return Values(values[2:], divergence[2:], rights, Ends(values[0], values[1]), clean_right)


def answers_right(logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs) -> Float[Tensor, "batch"] | None:
    """1 where an answer is above every wrong answer, or, without wrong answers, above all tokens; None without answers."""
    if pairs.answers is None:
        return None
    return (top_accuracy if pairs.wrong_answers is None else accuracy)(logits, pairs)


def check_circuits(circuits: Sequence[Circuit]) -> None:
    """Refuse what is no circuit, or circuits of several graphs."""
    if not circuits:
        raise refusal("circuits", "one or more", "none")
    if foreign := [one for one in circuits if not isinstance(one, Circuit)]:
        raise refusal("circuits", "a Circuit, or several", type(foreign[0]).__name__, "prune makes circuits of scores")
    graphs = list(dict.fromkeys(circuit.graph for circuit in circuits))
    if len(graphs) > 1:
        raise refusal("circuits", "all of one graph", f"{graphs[0]} and {graphs[1]}", "measure one model at a time")


def _of_batch(
    trial: Trial, circuits: Sequence[Circuit], batch: PromptPairs, cut: Cut, metric: Metric
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Metric, divergence and right answers of one batch, [batch circuit] each; the first circuit is the whole model."""
    values, divergences, rights = [], [], []
    reference = None
    for circuit in circuits:
        logits = trial.logits(circuit, batch, cut)
        reference = Reference.of(logits, batch.rows) if reference is None else reference
        values.append(checked(metric, logits, batch))
        divergences.append(reference.divergence(logits))
        rights.append(answers_right(logits, batch))
    right = None if rights[0] is None else torch.stack(rights, 1).cpu()
    return torch.stack(values, 1), torch.stack(divergences, 1).double().cpu(), right


def checked(metric: Metric, logits: Float[Tensor, "batch *rows d_vocab"], batch: PromptPairs) -> Float[Tensor, "batch"]:
    """The metric in float64 on the CPU."""
    values = metric(logits, batch)
    check_values(values, batch, metric)
    return values.double().cpu()
