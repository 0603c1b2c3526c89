"""The run of a circuit on one batch, kept: what every source changes by, and what destinations read.

`edge_circuits.graphs.running.incremental` works from it when one destination reads less. Inputs and projections of the run are
made when they are first asked for and kept while there is room.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.graphs.graph import Part
from edge_circuits.graphs.model.norm import Norm, apply_norm
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.dependents import Dependents, bit_columns, bits, dependents_of, members
from edge_circuits.graphs.running.execution import started
from edge_circuits.graphs.running.patching import Cut, answered
from edge_circuits.graphs.running.plan import make_plan
from edge_circuits.graphs.running.residual import Residual

CACHED_BYTES = 2**28


class Place(NamedTuple):
    """Where destinations read: the residual stream of that name in `Activations`, its layer, and on which rows."""

    residual: Literal["attention_in", "mlp_in", "final"]
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
        self._places = {source: place for place, source in enumerate(self.sources)}
        self._index = torch.tensor(self.sources, dtype=torch.long, device=values.device)

    @classmethod
    def of(cls, residual: Residual) -> Changes:
        """The changes that a finished run has written into the residual stream's room, source by source."""
        sources = [source for written in residual.written for source in written.sources]
        assert len(sources) == len(residual.room)
        return cls(sources, residual.room)

    def __contains__(self, source: int) -> bool:
        return source in self._places

    def __getitem__(self, source: int) -> Float[Tensor, "batch row d_model"]:
        return self.values[self._places[source]]

    def total(self, sources: Sequence[int]) -> Float[Tensor, "batch row d_model"]:
        """The sum over some of the sources."""
        return self.values[[self._places[source] for source in sources]].sum(0)

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


class Moved(NamedTuple):
    """A source's new change, at every position or at the answer row."""

    everywhere: bool
    source: int
    change: Float[Tensor, "batch row d_model"]


class CachedRun:
    """One batch's run of a circuit.

    Attributes:
        logits: The circuit's, at the answer positions. [batch *rows d_vocab]
        cut: What cut edges read.
        columns: For each destination the set of computed sources it keeps (bits, see `edge_circuits.graphs.running.dependents`).
        groups: Sources whose writes are added up before a norm.
        whole_from: The layer from which on no edge is cut, into logits neither.
    """

    def __init__(
        self, transformer: Transformer, mask: Bool[Tensor, "source destination"], batch: PromptPairs, cut: Cut
    ) -> None:
        """Run the circuit.

        Args:
            transformer: The model.
            mask: The circuit's edges.
            batch: The prompts.
            cut: The values that cut edges read, for this batch.
        """
        graph = transformer.graph
        plan = make_plan(graph, mask, cut.intervention)
        plan = replace(plan, individual=frozenset(range(graph.n_sources)))
        execution = started(transformer, plan, batch, cut, together=True)
        execution.run_layers()
        self.transformer, self.graph, self.batch, self.cut = transformer, graph, batch, execution.cut
        self.logits = answered(execution.logits(), batch)
        self.groups = source_groups(transformer)
        self._answer_row = execution.at_answer
        self._changes = {True: Changes.of(execution.everywhere), False: Changes.of(execution.at_answer)}
        self._computed = bits(plan.computed.nonzero()[:, 0].tolist())
        self._inputs: dict[tuple[Place, int], Tensor] = {}
        self._parts: dict[tuple[int, bool], Tensor] = {}
        self._set_mask(mask & plan.computed[:, None])

    def _set_mask(self, mask: Bool[Tensor, "source destination"]) -> None:
        """Take note of the circuit's edges, those from computed sources; nothing runs."""
        self._mask, self.columns = mask, bit_columns(mask)
        self._weights = mask.T.to(self.logits.device, self.logits.dtype).contiguous()
        self._dependents: dict[int, Dependents] = {}
        cut = (self.graph.edge_mask & ~mask.cpu()).any(0).nonzero()
        self.whole_from = self.graph.layer_of(int(cut.max())) + 1 if len(cut) else 0

    # What the run is

    @property
    def rows(self) -> Int[Tensor, "batch row"]:
        """The answer positions."""
        return self._answer_row.rows

    def dependents(self, destination: int) -> Dependents:
        """What depends on a destination."""
        if destination not in self._dependents:
            sums = len(self.groups) == 1
            self._dependents[destination] = dependents_of(self.graph, self.columns, self._computed, destination, sums)
        return self._dependents[destination]

    def is_everywhere(self, source: int) -> bool:
        """Whether a source is computed at every position; otherwise, if at all, at the answer row alone."""
        return source in self._changes[True]

    def changes(self, everywhere: bool) -> Changes:
        """What the computed sources change by, on all rows or at the answer row."""
        return self._changes[everywhere]

    def weights(self, destinations: Sequence[int]) -> Float[Tensor, "destination source"]:
        """What destinations keep of the computed sources: 1 or 0. A copy."""
        return self._weights[destinations]

    def at_rows(self, x: Float[Tensor, "batch pos *rest"], everywhere: bool) -> Float[Tensor, "batch row *rest"]:
        """A value as it is, or at the answer row."""
        return x if everywhere else self._answer_row.at_rows(x)

    def cut_sum(self, group: Group, everywhere: bool) -> Float[Tensor, "batch row d_model"]:
        """What the heads of a layer write in all, before their norm, when each has its cut value."""
        return self.at_rows(self.cut.attention_sum[group.layer], everywhere)

    # Moving on to another circuit

    def move(
        self,
        destination: int,
        kept: Bool[Tensor, " source"],
        logits: Float[Tensor, "batch *rows d_vocab"],
        moved: Sequence[Moved],
    ) -> None:
        """Become the run of the circuit in which a destination keeps of its sources only these.

        Args:
            destination: Where edges are cut.
            kept: What it keeps.
            logits: Those of the new circuit.
            moved: Every source whose change is another one there, on each set of rows where it is computed.
        """
        self.logits = logits
        for everywhere, source, change in moved:
            self._changes[everywhere][source].copy_(change)
        self._forget(self.dependents(destination).moved, destination)
        mask = self._mask.clone()
        mask[:, destination] &= kept
        self._set_mask(mask)

    def _forget(self, moved: int, destination: int) -> None:
        """Drop what is kept of destinations that keep one of these sources, and of this destination."""
        self._inputs = {key: x for key, x in self._inputs.items() if not key[1] & moved}
        self._parts = {
            key: x for key, x in self._parts.items() if not self.columns[key[0]] & moved and key[0] != destination
        }

    # What destinations read

    def read(
        self, place: Place, weights: Float[Tensor, "mixture source"], stop: int
    ) -> Float[Tensor, "mixture batch row d_model"]:
        """What a destination reads that keeps these sources, all among the first `stop`."""
        residual = getattr(self.cut, place.residual)
        residual = self.at_rows(residual if place.residual == "final" else residual[place.layer], place.everywhere)
        x = residual.repeat(len(weights), 1, 1, 1)
        for group in self.groups:
            bounds = group.start, min(stop, group.stop)
            if group.norm is None:
                self._changes[place.everywhere].add_mixed(x, weights, *bounds)
            else:
                cut_sum = self.cut_sum(group, place.everywhere)
                written = cut_sum.repeat(len(weights), 1, 1, 1)
                if self._changes[place.everywhere].add_mixed(written, weights, *bounds):
                    x += apply_norm(group.norm, written) - apply_norm(group.norm, cut_sum)
        return x

    def read_candidates(
        self, place: Place, destination: int, candidates: Float[Tensor, "candidate source"]
    ) -> Float[Tensor, "candidate batch row d_model"]:
        """What a destination reads that keeps, in turn, each of these sets of sources.

        Counted from what it reads in this run where candidates differ from it in few sources, else from the cut values; both
        are the same sum.
        """
        differing = candidates - self._weights[destination]
        n_kept, n_differing = (int(each.any(0).sum()) for each in (candidates, differing))
        if len(self.groups) > 1 or n_kept <= n_differing:
            return self.read(place, candidates, self.graph.n_seen(destination))
        x = self.inputs(place, [destination]).repeat(len(candidates), 1, 1, 1)
        self._changes[place.everywhere].add_mixed(x, differing, 0, self.graph.n_seen(destination))
        return x

    def n_tokens(self, destination: int) -> int:
        """On how many tokens a candidate of a destination runs: all of the batch, or one a prompt."""
        moved = self.dependents(destination).moved
        every_token = any(source in self._changes[True] for source in members(moved))
        nodes = self.graph.nodes_of(destination)
        is_key_or_value = len(nodes) > 0 and destination not in {self.graph.destinations_of(node)[0] for node in nodes}
        return len(self.batch) * (self.cut.embed.shape[1] if every_token or is_key_or_value else self.rows.shape[1])

    def inputs(self, place: Place, destinations: Sequence[int]) -> Float[Tensor, "destination batch row d_model"]:
        """What destinations read in this run."""
        keys = [(place, self.columns[destination]) for destination in destinations]
        missing = {key: each for key, each in zip(keys, destinations) if key not in self._inputs}
        made: dict[tuple[Place, int], Tensor] = {}
        if missing:
            weights = self._weights[list(missing.values())]
            made = dict(zip(missing, self.read(place, weights, self.graph.n_seen(destinations[0]))))
        each = [made[key] if key in made else self._inputs[key] for key in keys]
        found = each[0][None] if len(each) == 1 else torch.stack(each)
        if sum(x.nbytes for x in self._inputs.values()) + sum(x.nbytes for x in made.values()) <= CACHED_BYTES:
            self._inputs |= made
        return found

    def parts(self, layer: int, part: Part, destinations: Sequence[int], everywhere: bool) -> dict[int, Tensor]:
        """The queries, keys or values that destinations give in this run: [batch row d_head] each."""
        missing = [each for each in destinations if (each, everywhere) not in self._parts]
        if missing:
            alike = {self.columns[each]: each for each in missing}
            x = self.inputs(Place("attention_in", layer, everywhere), list(alike.values()))
            x = dict(zip(alike, apply_norm(self.transformer.blocks[layer].attention_norm, x)))
            made = self.projected(layer, part, {each: x[self.columns[each]] for each in missing})
            self._parts |= {(each, everywhere): value for each, value in made.items()}
        return {each: self._parts[each, everywhere] for each in destinations}

    def projected(
        self, layer: int, part: Part, inputs: dict[int, Float[Tensor, "batch row d_model"]]
    ) -> dict[int, Float[Tensor, "batch row d_head"]]:
        """The queries, keys or values of destinations from their normalised inputs; equal inputs are one object."""
        x, *others = inputs.values()
        if all(other is x for other in others):
            return dict(zip(inputs, self.projected_together(layer, part, list(inputs), x).unbind(-2)))
        return {each: self.projected_together(layer, part, [each], x)[..., 0, :] for each, x in inputs.items()}

    def projected_together(
        self, layer: int, part: Part, destinations: Sequence[int], x: Float[Tensor, "batch row d_model"]
    ) -> Float[Tensor, "batch row destination d_head"]:
        """The queries, keys or values of destinations that have one normalised input."""
        attention = self.transformer.blocks[layer].attention
        n_projections = len(attention.projection(part)[0])
        first, share = self.graph.part_destinations(layer, part).start, self.graph.n_parts[part] // n_projections
        heads = [(each - first) // share for each in destinations]
        distinct = sorted(set(heads))
        made = attention.project(part, x, None if len(distinct) == n_projections else distinct)
        return made if heads == distinct else made[..., [distinct.index(head) for head in heads], :]
