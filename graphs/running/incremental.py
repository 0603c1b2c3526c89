"""What follows when one destination of a circuit reads less, for many such cuts at a time.

1. The destination's input is made for every candidate; the candidates are stacked along the batch.
2. Layer by layer upwards, only nodes with a destination that moved are computed, and of a head only the parts that moved.
   What they read is their input in the cached run plus the differences of what they keep.
3. Nodes that are read at the answer position alone are computed there alone, and so are the logits.
4. From the layer on from which no edge is cut, every destination reads one stream, and the layers run as in the model.

This is exact: sums are only taken in another order, so values agree with `graphs.run` up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.model.attention import write
from edge_circuits.graphs.model.norm import apply_norm
from edge_circuits.graphs.model.transformer import at_rows
from edge_circuits.graphs.nodes import PARTS, Part
from edge_circuits.graphs.running.cached_run import CachedRun, Changes, Moved, Place
from edge_circuits.graphs.running.dependents import members
from edge_circuits.graphs.running.patching import answered


@torch.no_grad()
def run_candidates(
    cached: CachedRun, destination: int, candidates: Bool[Tensor, "candidate source"]
) -> Float[Tensor, "candidate batch *rows d_vocab"]:
    """Logits at the answer positions when a destination reads, in turn, each of these sets of sources.

    Args:
        cached: A circuit's run on a batch.
        destination: Of a node from which a path of kept edges leads to `logits`.
        candidates: The sources kept: what the circuit keeps there, or less.
    """
    return IncrementalRun(cached, destination, candidates).run()


@torch.no_grad()
def move_on(cached: CachedRun, destination: int, kept: Bool[Tensor, " source"]) -> None:
    """Move a cached run on to the circuit in which a destination keeps of its sources only these."""
    incremental = IncrementalRun(cached, destination, kept[None], collects=True)
    logits = incremental.run()[0]
    cached.move(destination, kept, logits, incremental.moved)


class IncrementalRun:
    """Candidates on their way up from a destination: the differences to the cached run of what has moved."""

    def __init__(
        self, cached: CachedRun, destination: int, candidates: Bool[Tensor, "candidate source"], collects: bool = False
    ) -> None:
        """Nothing runs yet.

        Args:
            cached: A circuit's run on a batch.
            destination: Where edges are cut.
            candidates: The sources it keeps, for each candidate.
            collects: Collect in `moved` what every source that moved changes by; for a single candidate.
        """
        assert len(candidates) == 1 or not collects
        self.cached, self.destination, self.n = cached, destination, len(candidates)
        self.candidates = candidates.to(cached.logits.device, cached.logits.dtype)
        self.dependents = cached.dependents(destination)
        self.collects, self.moved = collects, list[Moved]()
        self.rows = cached.rows.repeat(self.n, 1)
        self.differences = {everywhere: self._room(everywhere) for everywhere in (True, False)}
        self.sums: dict[bool, Tensor | float] = {True: 0.0, False: 0.0}

    def _room(self, everywhere: bool) -> Changes:
        """Where the differences of single sources go, for those that some destination tells apart."""
        held = self.cached.changes(everywhere)
        singly = [source for source in members(self.dependents.singly) if source in held]
        batch, *rest = held.values.shape[1:]
        return Changes(singly, held.values.new_empty(len(singly), self.n * batch, *rest))

    def run(self) -> Float[Tensor, "candidate batch *rows d_vocab"]:
        """Logits of each candidate."""
        cached, graph = self.cached, self.cached.graph
        logits = graph.n_destinations - 1
        if logits not in self.dependents.destinations:
            return cached.logits.expand(self.n, *cached.logits.shape)
        first = graph.layer_of(self.destination)
        whole_from = graph.n_layers if self.collects else max(first + 1, cached.whole_from)
        for layer in range(first, min(whole_from, graph.n_layers)):
            self._run_layer(layer)
        if whole_from < graph.n_layers:
            x = self._go_on(whole_from)
        else:
            x = self._inputs(Place("final", graph.n_layers, False), [logits])[0]
        return cached.transformer.unembed(answered(x, cached.batch)).unflatten(0, (self.n, -1))

    def _go_on(self, layer: int) -> Float[Tensor, "stacked row d_model"]:
        """The stream that logits read; from this layer on nothing is cut, and layers run as in the model."""
        destination = self.cached.graph.part_destinations(layer, "q").start
        x = self._inputs(Place("attention_in", layer, True), [destination])[0]
        rest = replace(self.cached.transformer, blocks=self.cached.transformer.blocks[layer:])
        return rest.forward(x, self.rows, past=self.cached.cut.past[layer:]).final

    def _run_layer(self, layer: int) -> None:
        cached = self.cached
        start = cached.graph.head_sources(layer).start
        moved = [head for head in range(cached.graph.n_heads) if self.dependents.moved >> (start + head) & 1]
        z = self._attend(layer, moved) if moved else {}
        parallel = cached.transformer.blocks[layer].parallel
        mlp = self._run_mlp(layer) if parallel else None
        for everywhere, (heads, change) in z.items():
            self._add_heads(layer, everywhere, heads, change)
        mlp = mlp if parallel else self._run_mlp(layer)
        if mlp is not None:
            self._add_mlp(layer, mlp)

    # Reading

    def _inputs(self, place: Place, destinations: Sequence[int]) -> Float[Tensor, "destination stacked row d_model"]:
        """What destinations read, candidate by candidate."""
        cached, stop = self.cached, self.cached.graph.n_seen(destinations[0])
        if destinations[0] == self.destination:
            return cached.read_candidates(place, self.destination, self.candidates).flatten(0, 1)[None]
        x = cached.inputs(place, destinations)
        summed = [at for at, destination in enumerate(destinations) if destination in self.dependents.keep_all]
        if len(summed) == len(destinations):
            return (x[:, None] + self.sums[place.everywhere].unflatten(0, (self.n, -1))).flatten(1, 2)
        x = self._stacked(x)
        if summed:
            x[summed] += self.sums[place.everywhere]
        weights = cached.weights(destinations)
        weights[summed] = 0
        differences = self.differences[place.everywhere]
        for group in cached.groups:
            bounds = group.start, min(stop, group.stop)
            if group.norm is None:
                differences.add_mixed(x, weights, *bounds)
            else:
                before = cached.cut_sum(group, place.everywhere).repeat(len(destinations), 1, 1, 1)
                cached.changes(place.everywhere).add_mixed(before, weights, *bounds)
                before = self._stacked(before)
                after = before.clone()
                if differences.add_mixed(after, weights, *bounds):
                    x += apply_norm(group.norm, after) - apply_norm(group.norm, before)
        return x

    def _stacked(self, x: Float[Tensor, "destination batch *rest"]) -> Float[Tensor, "destination stacked *rest"]:
        return x.repeat(1, self.n, *[1] * (x.dim() - 2))

    def _attend(self, layer: int, moved: list[int]) -> dict[bool, tuple[list[int], Tensor]]:
        """What the mixed values of heads change by, with the heads: at every position (True), at the answer row."""
        cached, start = self.cached, self.cached.graph.head_sources(layer).start
        everywhere = [head for head in moved if cached.is_everywhere(start + head)]
        at_answer = [head for head in moved if head not in everywhere]
        own = {head: cached.graph.destinations_of(start + head) for head in moved}
        read_everywhere = [each for head in moved for each in own[head][0 if head in everywhere else 1 :]]
        inputs = {
            True: self._attention_inputs(layer, True, read_everywhere),
            False: self._attention_inputs(layer, False, [own[head][0] for head in at_answer]),
        }
        z = {}
        for heads, is_everywhere in ((everywhere, True), (at_answer, False)):
            if heads:
                parts = [
                    self._parts(layer, part, [own[head][i] for head in heads], inputs, is_everywhere or part != "q")
                    for i, part in enumerate(PARTS)
                ]
                rows = None if is_everywhere else self.rows
                past = cached.cut.past[layer] if cached.cut.past else None
                mixed = cached.transformer.blocks[layer].attention.mix(*parts, rows, heads=heads, past=past)
                cut_z = cached.at_rows(cached.cut.z[layer], is_everywhere)[:, :, heads]
                z[is_everywhere] = heads, self._minus(mixed, cut_z)
        if everywhere:
            known = [self._at_answer(z[True][1]), *([z[False][1]] if at_answer else [])]
            z[False] = everywhere + at_answer, torch.cat(known, dim=2)
        return z

    def _attention_inputs(self, layer: int, everywhere: bool, destinations: Sequence[int]) -> dict[int, Tensor]:
        """The normalised inputs of those attention destinations that moved, by destination."""
        cached, place = self.cached, Place("attention_in", layer, everywhere)
        moved = dict.fromkeys(each for each in destinations if each in self.dependents.destinations)
        alike = {cached.columns[each]: each for each in moved if each != self.destination}
        norm = cached.transformer.blocks[layer].attention_norm
        made = {}
        if alike:
            x = dict(zip(alike, apply_norm(norm, self._inputs(place, list(alike.values())))))
            made = {each: x[cached.columns[each]] for each in moved if each != self.destination}
        if self.destination in moved:
            made[self.destination] = apply_norm(norm, self._inputs(place, [self.destination])[0])
        return made

    def _parts(
        self,
        layer: int,
        part: Part,
        destinations: Sequence[int],
        inputs: dict[bool, dict[int, Tensor]],
        everywhere: bool,
    ) -> Float[Tensor, "stacked row head d_head"]:
        """Queries, keys or values, head by head."""
        found = [inputs[everywhere].get(each) for each in destinations]
        if found[0] is not None and all(each is found[0] for each in found):
            return self.cached.projected_together(layer, part, destinations, found[0])
        moved = {each: inputs[everywhere][each] for each in destinations if each in self.dependents.destinations}
        still = [each for each in destinations if each not in moved]
        values = self.cached.projected(layer, part, moved) if moved else {}
        values = {each: value.unflatten(0, (self.n, -1)) for each, value in values.items()}
        if still:
            known = self.cached.parts(layer, part, still, everywhere)
            values |= {each: value.expand(self.n, *value.shape) for each, value in known.items()}
        return torch.stack([values[each] for each in destinations], dim=3).flatten(0, 1)

    def _run_mlp(self, layer: int) -> Float[Tensor, "stacked row d_model"] | None:
        """The MLP's output minus its cut value; None where it has not moved."""
        cached, graph = self.cached, self.cached.graph
        if not graph.mlps or not self.dependents.moved >> graph.mlp_source(layer) & 1:
            return None
        block = cached.transformer.blocks[layer]
        everywhere = cached.is_everywhere(graph.mlp_source(layer))
        x = self._inputs(Place("mlp_in", layer, everywhere), [graph.mlp_destination(layer)])[0]
        out = apply_norm(block.mlp_post_norm, block.mlp(apply_norm(block.mlp_norm, x)))
        return self._minus(out, cached.at_rows(cached.cut.mlp_out[layer], everywhere))

    # Writing

    def _minus(self, x: Float[Tensor, "stacked row *rest"], y: Float[Tensor, "batch row *rest"]) -> Tensor:
        """x less the same y for every candidate."""
        return (x.unflatten(0, (self.n, -1)) - y).flatten(0, 1)

    def _at_answer(self, x: Float[Tensor, "stacked row *rest"]) -> Float[Tensor, "stacked answer_row *rest"]:
        return at_rows(x, self.rows)

    def _add_heads(
        self, layer: int, everywhere: bool, heads: list[int], z: Float[Tensor, "stacked row head d_head"]
    ) -> None:
        """Take note of what heads change by, given for their mixed values."""
        cached, start = self.cached, self.cached.graph.head_sources(layer).start
        W_O = cached.transformer.blocks[layer].attention.W_O
        if self.dependents.keep_all:
            before = cached.changes(everywhere).total([start + head for head in heads])
            self.sums[everywhere] = self.sums[everywhere] + self._minus(write(z, W_O[heads], None), before)
        for at, head in enumerate(heads):
            source = start + head
            if self.collects or source in self.differences[everywhere]:
                self._note(everywhere, source, z[:, :, at] @ W_O[head].to(z.device))

    def _add_mlp(self, layer: int, change: Float[Tensor, "stacked row d_model"]) -> None:
        """Take note of what an MLP changes by."""
        source = self.cached.graph.mlp_source(layer)
        for everywhere in (True, False) if self.cached.is_everywhere(source) else (False,):
            at_rows = change if everywhere else self._at_answer(change)
            if self.dependents.keep_all:
                before = self.cached.changes(everywhere)[source]
                self.sums[everywhere] = self.sums[everywhere] + self._minus(at_rows, before)
            if self.collects or source in self.differences[everywhere]:
                self._note(everywhere, source, at_rows)

    def _note(self, everywhere: bool, source: int, change: Float[Tensor, "stacked row d_model"]) -> None:
        """Keep a source's difference for destinations that tell it apart, and its change where it is collected."""
        differences = self.differences[everywhere]
        if source in differences:
            before, stacked = self.cached.changes(everywhere)[source], (self.n, -1)
            out = differences[source].unflatten(0, stacked)
            torch.sub(change.unflatten(0, stacked), before, out=out)
        if self.collects:
            self.moved.append(Moved(everywhere, source, change))
