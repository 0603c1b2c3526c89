"""A circuit's run kept at hand, with what every source changes by.

`edge_circuits.graphs.running.incremental` asks it what follows when one destination reads less. Inputs and projections of the run are made when
they are first asked for and kept while there is room.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.model.attention import project
from edge_circuits.graphs.model.norm import Norm, apply_norm
from edge_circuits.graphs.model.operations import linear
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.dependents import Downstream, bit_columns, bits, downstream
from edge_circuits.graphs.running.execution import started
from edge_circuits.graphs.running.plan import make_plan
from edge_circuits.graphs.running.residual import Stream

CACHED_BYTES = 2**28


class Where(NamedTuple):
    """A place where destinations read: the stream of that name in `Activations`, its layer, and on which rows."""

    stream: Literal["attention_in", "mlp_in", "final"]
    layer: int
    everywhere: bool


class Group(NamedTuple):
    """Sources from `start` up to `stop` whose writes are added up before they go through a norm, if any."""

    start: int
    stop: int
    norm: Norm | None
    layer: int


def source_groups(transformer: Transformer) -> tuple[Group, ...]:
    """All sources in one group; where heads write through a post-norm, each layer's heads in a group of their own."""
    graph = transformer.graph
    if all(block.attention_post_norm is None for block in transformer.blocks):
        return (Group(0, graph.n_sources, None, 0),)
    groups, stop = [], 0
    for layer, block in enumerate(transformer.blocks):
        heads = graph.head_sources(layer)
        groups += [
            Group(stop, heads.start, None, layer),
            Group(heads.start, heads.stop, block.attention_post_norm, layer),
        ]
        stop = heads.stop
    return (*groups, Group(stop, graph.n_sources, None, graph.n_layers))


class Changes:
    """What sources change by (current minus cut value), on one set of rows; sources ascending."""

    def __init__(self, sources: Sequence[int], values: Float[Tensor, "held batch row d_model"]) -> None:
        self.sources, self.values = list(sources), values
        self.places = {source: place for place, source in enumerate(self.sources)}
        self._index = torch.tensor(self.sources, dtype=torch.long, device=values.device)

    @classmethod
    def of(cls, stream: Stream) -> Changes:
        """The changes that a finished run has written into the stream's room, source by source."""
        sources = [source for written in stream.written for source in written.sources]
        assert len(sources) == len(stream.room)
        return cls(sources, stream.room)

    def add_mixed(
        self,
        x: Float[Tensor, "mixture batch row d_model"],
        weights: Float[Tensor, "mixture source"],
        start: int,
        stop: int,
    ) -> bool:
        """Add to x weighted sums over the sources from `start` up to `stop`; False where every weight is zero."""
        low, high = bisect_left(self.sources, start), bisect_left(self.sources, stop)
        weights, values = weights[:, self._index[low:high]], self.values[low:high]
        used = weights.any(0).nonzero()[:, 0]
        if not len(used):
            return False
        if 2 * len(used) < high - low:
            weights, values = weights[:, used], values[used]
        x.view(len(x), -1).addmm_(weights, values.flatten(1))
        return True


class Standing:
    """One batch's run of a circuit.

    Attributes:
        logits: the circuit's, at the answer positions. [batch d_vocab]
        computed: the set of sources that run (bits, see `edge_circuits.graphs.running.dependents`).
        columns: for each destination the set of computed sources it keeps.
        weights: the same as numbers, 1 or 0. [destination source]
        changes: of the computed sources at every position (True), and of all of them at the answer row (False).
    """

    def __init__(
        self,
        transformer: Transformer,
        mask: Bool[Tensor, "source destination"],
        batch: PromptPairs,
        cut: Activations,
        patching: bool,
    ) -> None:
        """Run the circuit.

        Args:
            mask: its edges.
            cut: the values that cut edges read, for this batch.
            patching: they are the batch's own corrupted values, so that a node without a live input need not run.
        """
        graph = transformer.graph
        plan = make_plan(graph, mask, patching)
        plan = replace(plan, individual=frozenset(range(graph.n_sources)))
        execution = started(transformer, plan, batch, cut, together=True)
        execution.run_layers()
        self.transformer, self.graph, self.batch, self.cut = transformer, graph, batch, execution.cut
        self.logits = execution.logits()
        self.changes = {True: Changes.of(execution.everywhere), False: Changes.of(execution.at_answer)}
        self.computed = bits(plan.computed.nonzero()[:, 0].tolist())
        self.groups = source_groups(transformer)
        self.n_visible: list[int] = graph.n_visible.tolist()
        self.answer_row = execution.at_answer
        self._inputs: dict[tuple[Where, int], Tensor] = {}
        self._parts: dict[tuple[int, bool], Tensor] = {}
        self.set_mask(mask & plan.computed[:, None])

    def set_mask(self, mask: Bool[Tensor, "source destination"]) -> None:
        """Take note of the circuit's edges, those from computed sources; nothing runs."""
        self.mask, self.columns = mask, bit_columns(mask)
        self.weights = mask.T.to(self.logits.device, self.logits.dtype).contiguous()
        self._downstream: dict[int, Downstream] = {}

    def downstream(self, destination: int) -> Downstream:
        """What follows from a destination."""
        if destination not in self._downstream:
            sums = len(self.groups) == 1
            self._downstream[destination] = downstream(self.graph, self.columns, self.computed, destination, sums)
        return self._downstream[destination]

    def forget(self, moved: int, destination: int) -> None:
        """Drop what was kept of destinations that read one of these sources, and of this destination."""
        self._inputs = {key: x for key, x in self._inputs.items() if not key[1] & moved}
        self._parts = {
            key: x for key, x in self._parts.items() if not self.columns[key[0]] & moved and key[0] != destination
        }

    def at_rows(self, x: Float[Tensor, "batch pos *rest"], everywhere: bool) -> Float[Tensor, "batch row *rest"]:
        """A value as it is, or at the answer row."""
        return x if everywhere else self.answer_row.at_rows(x)

    def cut_sum(self, group: Group, everywhere: bool) -> Float[Tensor, "batch row d_model"]:
        """What the heads of a layer write in all, before their norm, when each has its cut value."""
        return self.at_rows(self.cut.attention_sum[group.layer], everywhere)

    def read(
        self, where: Where, weights: Float[Tensor, "mixture source"], stop: int
    ) -> Float[Tensor, "mixture batch row d_model"]:
        """What a destination reads that keeps these sources, all among the first `stop`."""
        stream = getattr(self.cut, where.stream)
        stream = self.at_rows(stream if where.stream == "final" else stream[where.layer], where.everywhere)
        x = stream.repeat(len(weights), 1, 1, 1)
        for group in self.groups:
            bounds = group.start, min(stop, group.stop)
            if group.norm is None:
                self.changes[where.everywhere].add_mixed(x, weights, *bounds)
            else:
                cut_sum = self.cut_sum(group, where.everywhere)
                written = cut_sum.repeat(len(weights), 1, 1, 1)
                if self.changes[where.everywhere].add_mixed(written, weights, *bounds):
                    x += apply_norm(group.norm, written) - apply_norm(group.norm, cut_sum)
        return x

    def inputs(self, where: Where, readers: Sequence[int]) -> Float[Tensor, "reader batch row d_model"]:
        """What destinations read in this run."""
        keys = [(where, self.columns[reader]) for reader in readers]
        missing = {key: reader for key, reader in zip(keys, readers) if key not in self._inputs}
        made: dict[tuple[Where, int], Tensor] = {}
        if missing:
            made = dict(
                zip(missing, self.read(where, self.weights[list(missing.values())], self.n_visible[readers[0]]))
            )
        found = torch.stack([made[key] if key in made else self._inputs[key] for key in keys])
        if sum(x.nbytes for x in self._inputs.values()) + sum(x.nbytes for x in made.values()) <= CACHED_BYTES:
            self._inputs |= made
        return found

    def parts(self, layer: int, letter: str, readers: Sequence[int], everywhere: bool) -> dict[int, Tensor]:
        """The queries, keys or values that destinations give in this run: [batch row d_head] each."""
        missing = [reader for reader in readers if (reader, everywhere) not in self._parts]
        if missing:
            alike = {self.columns[reader]: reader for reader in missing}
            x = self.inputs(Where("attention_in", layer, everywhere), list(alike.values()))
            x = dict(zip(alike, apply_norm(self.transformer.blocks[layer].attention_norm, x)))
            made = self.projected(layer, letter, {reader: x[self.columns[reader]] for reader in missing})
            self._parts |= {(reader, everywhere): part for reader, part in made.items()}
        return {reader: self._parts[reader, everywhere] for reader in readers}

    def projected(
        self, layer: int, letter: str, inputs: dict[int, Float[Tensor, "batch row d_model"]]
    ) -> dict[int, Float[Tensor, "batch row d_head"]]:
        """The queries, keys or values of destinations from their normalised inputs; equal inputs are one object."""
        attention = self.transformer.blocks[layer].attention
        weight, bias = (getattr(attention, f"{name}_{letter.upper()}") for name in "Wb")
        first, share = self.graph.part_destinations(layer, letter).start, self.graph.n_parts[letter] // len(weight)
        heads = {reader: (reader - first) // share for reader in inputs}
        if len(set(heads.values())) == len(weight) > 1 and len({id(x) for x in inputs.values()}) == 1:
            shared = project(next(iter(inputs.values())), weight, bias)
            return {reader: shared[..., head, :] for reader, head in heads.items()}
        return {
            reader: linear(inputs[reader], weight[head], None if bias is None else bias[head])
            for reader, head in heads.items()
        }
