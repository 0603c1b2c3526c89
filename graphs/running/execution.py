"""`run`: a circuit as a model, at the price of its live nodes.

Every destination reads the sum of its kept sources' current values and its cut sources' cut values. What a source
changes by is kept in two streams, one for all positions and one for the answer row, so a node is computed only on
the rows that are read. See `edge_circuits.graphs.running.plan` for what is left out and why that is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from edge_circuits.graphs.by_span import SpanCircuit, check_spans
from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.attention import write
from edge_circuits.graphs.model.norm import apply_norm
from edge_circuits.graphs.model.transformer import Transformer, take_rows
from edge_circuits.graphs.nodes import Part
from edge_circuits.graphs.prompts.pairs import PromptPairs, check_pairs, in_order
from edge_circuits.graphs.running.changing import since_changed
from edge_circuits.graphs.running.distributed import ALONE
from edge_circuits.graphs.running.patching import (
    Cut,
    Intervention,
    answer_rows,
    answered,
    check_intervention,
    cut_values,
    trimmed,
)
from edge_circuits.graphs.running.plan import Heads, Mixture, Plan, make_plan
from edge_circuits.graphs.running.residual import Residual, Written
from edge_circuits.graphs.surroundings import in_plain_surroundings

MAX_TOKENS = 4096
Positions = Literal["answer", "all"]


@in_plain_surroundings
def run(
    model: nn.Module,
    circuit: Circuit | SpanCircuit | Sequence[Circuit | SpanCircuit],
    pairs: PromptPairs,
    intervention: Intervention = "patching",
    *,
    positions: Positions = "answer",
    batch_size: int | None = None,
) -> Float[Tensor, "*circuit pair *pos d_vocab"]:
    """The circuit's logits, in the order of the pairs.

    All edges outside the circuit are cut. With every edge kept this is the model on the clean prompts; with none
    kept, under patching, the model on the corrupted ones. Differentiable with respect to the model's parameters
    where gradients are enabled; under `torch.no_grad()` nothing is recorded.

    Args:
        model: A TransformerLens model; left unchanged.
        circuit: The kept edges, everywhere or span by span; its graph must be the model's. Of a list or tuple of circuits the
            logits of each, [circuit pair ...]; what cut edges read is then computed once.
        pairs: Clean prompts to run and corrupted ones to cut to.
        intervention: What a cut edge reads: `patching`, `zero`, `mean` or `mean-positional` (over all `pairs`).
        positions: "answer": at the answer position of each pair, [pair d_vocab], or at each of `pairs.rows`,
            [pair row d_vocab]; "all": at every position, [pair pos d_vocab]. NaN where a prompt has no such row or token.
        batch_size: Prompts in a batch; by default as many as fit in 4,096 tokens.

    Raises:
        ValueError: The circuit is of another graph, or the model, intervention or choice of positions is not supported.
    """
    check_pairs(pairs)
    check_intervention(intervention)
    several = isinstance(circuit, (list, tuple))
    circuits = list(circuit) if several else [circuit]
    if wrong := [each for each in circuits or [None] if not isinstance(each, Circuit | SpanCircuit)]:
        raise refusal("circuit", "a Circuit", type(wrong[0]).__name__, "prune makes one of scores")
    everywhere = choice("positions", positions, get_args(Positions)) == "all"
    transformer = adapted_for(model, *(each.graph for each in circuits))
    plans = [make_plan(each.graph, _mask_for(each, pairs, transformer), intervention, everywhere) for each in circuits]
    pairs = pairs.read_at_the_end() if everywhere else pairs
    batches = [batch.to(transformer.device) for batch in ALONE.batches(pairs, batch_size, MAX_TOKENS)]
    cuts = cut_values(transformer, batches, intervention, everywhere=everywhere)
    found = []
    for batch in batches:
        cut = cuts(batch)
        if everywhere:
            n_positions = pairs.clean.shape[1]
            each = [run_everywhere(transformer, plan, batch, cut, n_positions) for plan in plans]
        else:
            cut = since_changed(transformer, batch, cut)  # once for all circuits
            each = [run_batch(transformer, plan, batch, cut) for plan in plans]
        found.append(torch.stack(each, dim=1) if several else each[0])
    logits = in_order(batches, found)
    logits = logits.transpose(0, 1) if several else logits
    if everywhere or pairs.rows is None:
        return logits
    return logits.masked_fill((pairs.rows < 0)[..., None].to(logits.device), torch.nan)


def adapted_for(model: nn.Module, *graphs: Graph) -> Transformer:
    """The model as plain tensors, with the destinations that circuits' graphs have; trainable where gradients are enabled.

    Raises:
        ValueError: The model is not supported, or the circuit is of another graph.
    """
    transformer = adapt(model, trainable=torch.is_grad_enabled(), kv_destinations=graphs[0].kv_destinations)
    if other := [graph for graph in graphs if graph != transformer.graph]:
        raise refusal("circuit", f"one of {transformer.graph}", f"one of {other[0]}", "take a circuit of this model")
    return transformer


def run_everywhere(
    transformer: Transformer, plan: Plan, batch: PromptPairs, cut: Cut, n_positions: int
) -> Float[Tensor, "batch {n_positions} d_vocab"]:
    """Logits at every position of one batch, NaN beyond each prompt's end."""
    execution = started(transformer, plan, batch, cut, everywhere=True)
    execution.run_layers()
    logits = execution.logits().masked_fill(~batch.mask[..., None].to(transformer.device), torch.nan)
    return pad(logits, (0, 0, 0, n_positions - logits.shape[1]), value=torch.nan)


def _mask_for(circuit: Circuit | SpanCircuit, pairs: PromptPairs, transformer: Transformer) -> Tensor:
    """A circuit's mask; of one with spans, in floating point."""
    if isinstance(circuit, Circuit):
        return circuit.mask
    check_spans(pairs, circuit.spans)
    return circuit.mask.to(transformer.dtype)


def run_batch(
    transformer: Transformer, plan: Plan, batch: PromptPairs, cut: Cut
) -> Float[Tensor, "batch *rows d_vocab"]:
    """The circuit's logits at the answer positions of one batch, given the values that cut edges read."""
    execution = started(transformer, plan, batch, cut)
    execution.run_layers()
    return answered(execution.logits(), batch)


def started(
    transformer: Transformer, plan: Plan, batch: PromptPairs, cut: Cut, together: bool = False, everywhere: bool = False
) -> Execution:
    """A run in which `input` is written and no layer has run.

    Args:
        together: The changes of all computed sources are to stand in one tensor a stream (`Residual.room`).
        everywhere: Logits are to be read at every position.
    """
    cut = cut if everywhere else since_changed(transformer, batch, cut)
    rows, clean = answer_rows(batch).to(transformer.device), transformer.embed(trimmed(batch.clean, batch))
    spans = None if batch.spans is None else trimmed(batch.spans.of_token, batch).to(transformer.device)
    if cut.rows is not None:
        rows, clean = rows - cut.rows[:, :1], take_rows(clean, cut.rows)
        spans = None if spans is None else take_rows(spans, cut.rows)
    at_answer = None if spans is None else spans.gather(1, rows)
    read = Residual(None, spans) if everywhere else Residual(rows, at_answer)
    execution = Execution(transformer, plan, cut, Residual(None, spans), read)
    change = clean - execution.cut.embed
    if together:
        n_batch, n_positions, d_model = change.shape
        execution.everywhere.room = change.new_empty(plan.n_everywhere, n_batch, n_positions, d_model)
        execution.at_answer.room = change.new_empty(int(plan.computed.sum()), n_batch, rows.shape[1], d_model)
    execution.add(0, change, everywhere=True)
    return execution


class Execution:
    """One batch on its way through a plan: the two residual streams, and the steps that read and write them."""

    def __init__(
        self, transformer: Transformer, plan: Plan, cut: Cut, everywhere: Residual, at_answer: Residual
    ) -> None:
        self.transformer, self.plan, self.cut = transformer, plan, cut.to(transformer.device)
        self.everywhere, self.at_answer = everywhere, at_answer
        self._inputs: dict[tuple[Residual, Mixture], Tensor] = {}  # normalised mixtures of the layer at work

    def run_layers(self) -> None:
        """Run all layers, from the first to the last."""
        for layer, block in enumerate(self.transformer.blocks):
            heads = self.attend(layer)
            mlp = self.run_mlp(layer) if block.parallel else None
            self.add_heads(layer, *heads)
            mlp = mlp if block.parallel else self.run_mlp(layer)
            if mlp is not None:
                self.add_mlp(layer, mlp)

    def logits(self) -> Float[Tensor, "batch row d_vocab"]:
        """Logits at the answer row, or at every position."""
        return self.transformer.unembed(self.at_answer.mixture(self.plan.logits, self.cut.final))

    def attend(self, layer: int) -> tuple[Tensor, Tensor]:
        """What the mixed values z of the live heads change by, [batch row head d_head]: everywhere, at the answer."""
        plan = self.plan.layers[layer]
        self._inputs.clear()
        return self._attend(layer, self.everywhere, plan.everywhere), self._attend(
            layer, self.at_answer, plan.at_answer
        )

    def _attend(self, layer: int, residual: Residual, heads: Heads) -> Float[Tensor, "batch row head d_head"]:
        cut_z = residual.at_rows(self.cut.z[layer])[:, :, list(heads.heads)]
        if not heads.heads:
            return cut_z
        q = self.project(layer, "q", heads, residual)
        k, v = (self.project(layer, part, heads, self.everywhere) for part in ("k", "v"))
        past = self.cut.past[layer] if self.cut.past else None
        attention = self.transformer.blocks[layer].attention
        return attention.mix(q, k, v, residual.rows, heads=heads.heads, past=past) - cut_z

    def project(
        self, layer: int, part: Part, heads: Heads, residual: Residual
    ) -> Float[Tensor, "batch row head d_head"]:
        """Queries, keys or values of some heads, each from its own mixture; equal mixtures are computed once."""
        places_of: dict[Mixture, list[int]] = {}
        for place, mixture in enumerate(heads.reads[part]):
            places_of.setdefault(mixture, []).append(place)
        projected = [
            self._project_mixture(layer, part, residual, mixture, [heads.heads[place] for place in places])
            for mixture, places in places_of.items()
        ]
        if len(projected) == 1:
            return projected[0]
        order = torch.tensor([place for places in places_of.values() for place in places], device=projected[0].device)
        return torch.cat(projected, dim=2)[:, :, order.argsort()]

    def _project_mixture(
        self, layer: int, part: Part, residual: Residual, mixture: Mixture, heads: list[int]
    ) -> Float[Tensor, "batch row head d_head"]:
        known = getattr(self.cut, part)
        if mixture.is_cut and len(known):  # as in the corrupted run
            known = known[layer]
            return residual.at_rows(known if len(heads) == known.shape[2] else known[:, :, heads])
        key = residual, mixture
        if key not in self._inputs:
            x = residual.mixture(mixture, self.cut.attention_in[layer])
            self._inputs[key] = apply_norm(self.transformer.blocks[layer].attention_norm, x)
        return self.project_heads(layer, part, self._inputs[key], heads)

    def project_heads(
        self, layer: int, part: Part, x: Tensor, heads: list[int]
    ) -> Float[Tensor, "batch row head d_head"]:
        """Queries, keys or values of some heads from one normalised input."""
        attention = self.transformer.blocks[layer].attention
        group = 1 if part == "q" else attention.group_size
        projections = sorted({head // group for head in heads})
        out = attention.project(part, x, projections)
        places = [projections.index(head // group) for head in heads]
        return out if places == list(range(len(projections))) else out[:, :, places]

    def run_mlp(self, layer: int) -> Float[Tensor, "batch row d_model"] | None:
        """What the MLP of a layer changes by; None where it is not live."""
        plan, block = self.plan.layers[layer], self.transformer.blocks[layer]
        if plan.mlp is None:
            return None
        residual = self.everywhere if plan.mlp_everywhere else self.at_answer
        x = residual.mixture(plan.mlp, self.cut.mlp_in[layer])
        out = apply_norm(block.mlp_post_norm, block.mlp(apply_norm(block.mlp_norm, x)))
        return out - residual.at_rows(self.cut.mlp_out[layer])

    def add_mlp(self, layer: int, change: Float[Tensor, "batch row d_model"]) -> None:
        """Write what an MLP changes by."""
        self.add(self.plan.graph.mlp_source(layer), change, self.plan.layers[layer].mlp_everywhere)

    def add(self, source: int, change: Float[Tensor, "batch row d_model"], everywhere: bool) -> None:
        """Write what `input` or an MLP changes by, at every position or at the answer row alone."""
        for residual in (self.everywhere, self.at_answer) if everywhere else (self.at_answer,):
            at_rows = residual.at_rows(change)
            if self.plan.keeps_current:
                residual.change = residual.change + at_rows
            if source in self.plan.individual:
                residual.write(Written((source,), at_rows[None]))

    def add_heads(self, layer: int, everywhere: Tensor, at_answer: Tensor) -> None:
        """Write what the live heads of a layer change by, given for their mixed values."""
        plan = self.plan.layers[layer]
        self._add_heads(layer, self.everywhere, plan.everywhere.heads, everywhere)
        both = torch.cat((self.at_answer.at_rows(everywhere), at_answer), dim=2)
        self._add_heads(layer, self.at_answer, plan.everywhere.heads + plan.at_answer.heads, both)

    def _add_heads(self, layer: int, residual: Residual, heads: tuple[int, ...], change: Tensor) -> None:
        if not heads:
            return
        block, start = self.transformer.blocks[layer], self.plan.graph.head_sources(layer).start
        weights = (
            block.attention.W_O if heads == tuple(range(self.plan.graph.n_heads)) else block.attention.W_O[list(heads)]
        )
        singled = [place for place, head in enumerate(heads) if start + head in self.plan.individual]
        norm, cut_sum, current_sum = block.attention_post_norm, None, None
        if norm is not None and singled:
            singled = list(range(len(heads)))
        if self.plan.keeps_current or norm is not None:
            total = write(change, weights, None)
            if norm is not None:
                cut_sum = residual.at_rows(self.cut.attention_sum[layer])
                current_sum = cut_sum + total
                total = apply_norm(norm, current_sum) - apply_norm(norm, cut_sum)
            residual.change = residual.change + total
        if singled:
            changes = torch.einsum("brhd,hdm->hbrm", change[:, :, singled], weights[singled].to(change.device))
            sources = tuple(start + heads[place] for place in singled)
            residual.write(Written(sources, changes, norm, cut_sum, current_sum))
