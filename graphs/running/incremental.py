"""What follows when one destination of a circuit reads less, for many such cuts at a time.

1. The destination's input is made for every candidate; the candidates are stacked along the batch.
2. Layer by layer upwards, only nodes that read a node that moved are computed, and of a head only the letters that
   moved. What they read is their input in the standing run plus the differences of what they keep.
3. Nodes that are read at the answer position alone are computed there alone, and so are the logits.

This is exact: sums are only taken in another order, so values agree with `graphs.run` up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.model.attention import write
from edge_circuits.graphs.model.norm import apply_norm
from edge_circuits.graphs.model.transformer import take_rows
from edge_circuits.graphs.running.cached_run import Changes, Standing, Where
from edge_circuits.graphs.running.dependents import members, readers_of


@torch.no_grad()
def ask(
    standing: Standing, destination: int, candidates: Bool[Tensor, "candidate source"]
) -> Float[Tensor, "candidate batch d_vocab"]:
    """Logits at the answer positions when a destination reads, in turn, each of these sets of sources.

    Args:
        standing: a circuit's run on a batch.
        destination: of a node from which a path of kept edges leads to `logits`.
        candidates: the sources kept: what the circuit keeps there, or less.
    """
    return Ripple(standing, destination, candidates).run()


@torch.no_grad()
def settle(standing: Standing, destination: int, kept: Bool[Tensor, " source"]) -> None:
    """Move a standing run on to the circuit in which a destination keeps of its sources only these."""
    ripple = Ripple(standing, destination, kept[None], settles=True)
    standing.logits = ripple.run()[0]
    for everywhere, source, change in ripple.settled:
        changes = standing.changes[everywhere]
        changes.values[changes.places[source]] = change
    mask = standing.mask.clone()
    mask[:, destination] &= kept
    standing.forget(standing.downstream(destination).moved, destination)
    standing.set_mask(mask)


class Settled(NamedTuple):
    """A source's new change, at every position or at the answer row."""

    everywhere: bool
    source: int
    change: Float[Tensor, "batch row d_model"]


class Ripple:
    """Candidates on their way up from a destination: the differences to the standing run of what has moved."""

    def __init__(
        self, standing: Standing, destination: int, candidates: Bool[Tensor, "candidate source"], settles: bool = False
    ) -> None:
        """Nothing runs yet.

        Args:
            settles: collect in `settled` what every source that moved changes by; for a single candidate.
        """
        assert len(candidates) == 1 or not settles
        self.standing, self.destination, self.n = standing, destination, len(candidates)
        self.candidates = candidates.to(standing.weights.device, standing.weights.dtype)
        self.reach = standing.downstream(destination)
        self.settles, self.settled = settles, list[Settled]()
        self.rows = standing.answer_row.rows.repeat(self.n, 1)
        self.differences = {everywhere: self._room(everywhere) for everywhere in (True, False)}
        self.sums: dict[bool, Tensor | float] = {True: 0.0, False: 0.0}

    def _room(self, everywhere: bool) -> Changes:
        """Where the differences of single sources go, for those that some reader tells apart."""
        held = self.standing.changes[everywhere]
        singly = [source for source in members(self.reach.singly) if source in held.places]
        batch, *rest = held.values.shape[1:]
        return Changes(singly, held.values.new_empty(len(singly), self.n * batch, *rest))

    def run(self) -> Float[Tensor, "candidate batch d_vocab"]:
        """Logits of each candidate."""
        standing, graph = self.standing, self.standing.graph
        logits = graph.n_destinations - 1
        if logits not in self.reach.readers:
            return standing.logits.expand(self.n, *standing.logits.shape)
        first = self.destination // (logits // graph.n_layers)  # every layer has as many destinations
        for layer in range(first, graph.n_layers):
            self._run_layer(layer)
        x = self._inputs(Where("final", graph.n_layers, False), [logits])[0]
        return standing.transformer.unembed(x[:, 0]).unflatten(0, (self.n, -1))

    def _run_layer(self, layer: int) -> None:
        standing = self.standing
        start = standing.graph.head_sources(layer).start
        moved = [head for head in range(standing.graph.n_heads) if self.reach.moved >> (start + head) & 1]
        z = self._attend(layer, moved) if moved else {}
        parallel = standing.transformer.blocks[layer].parallel
        mlp = self._run_mlp(layer) if parallel else None
        for everywhere, (heads, change) in z.items():
            self._add_heads(layer, everywhere, heads, change)
        mlp = mlp if parallel else self._run_mlp(layer)
        if mlp is not None:
            self._add_mlp(layer, mlp)

    # Reading

    def _inputs(self, where: Where, readers: Sequence[int]) -> Float[Tensor, "reader stacked row d_model"]:
        """What destinations read, candidate by candidate."""
        standing, stop = self.standing, self.standing.n_visible[readers[0]]
        if readers[0] == self.destination:
            return standing.read(where, self.candidates, stop).flatten(0, 1)[None]
        x = self._stacked(standing.inputs(where, readers))
        summed = [place for place, reader in enumerate(readers) if reader in self.reach.reads_all]
        if summed:
            x[summed] += self.sums[where.everywhere]
        weights = standing.weights[readers]
        weights[summed] = 0
        held, moved = standing.changes[where.everywhere], self.differences[where.everywhere]
        for group in standing.groups:
            bounds = group.start, min(stop, group.stop)
            if group.norm is None:
                moved.add_mixed(x, weights, *bounds)
            else:
                cut_sum = standing.cut_sum(group, where.everywhere)
                before = cut_sum.repeat(len(readers), 1, 1, 1)
                held.add_mixed(before, weights, *bounds)
                before = self._stacked(before)
                after = before.clone()
                if moved.add_mixed(after, weights, *bounds):
                    x += apply_norm(group.norm, after) - apply_norm(group.norm, before)
        return x

    def _stacked(self, x: Float[Tensor, "reader batch *rest"]) -> Float[Tensor, "reader stacked *rest"]:
        return x.repeat(1, self.n, *[1] * (x.dim() - 2))

    def _attend(self, layer: int, moved: list[int]) -> dict[bool, tuple[list[int], Tensor]]:
        """What the mixed values of heads change by, with the heads: at every position (True), at the answer row."""
        standing, start = self.standing, self.standing.graph.head_sources(layer).start
        everywhere = [head for head in moved if start + head in standing.changes[True].places]
        at_answer = [head for head in moved if head not in everywhere]
        readers = {head: readers_of(standing.graph)[start + head] for head in moved}
        rows = {head: head in everywhere for head in moved}
        inputs = {
            True: self._attention_inputs(
                layer, True, [r for head in moved for r in readers[head][0 if rows[head] else 1 :]]
            ),
            False: self._attention_inputs(layer, False, [readers[head][0] for head in at_answer]),
        }
        z = {}
        for heads, is_everywhere in ((everywhere, True), (at_answer, False)):
            if heads:
                parts = [
                    self._parts(
                        layer, letter, [readers[head][place] for head in heads], inputs, is_everywhere or letter != "q"
                    )
                    for place, letter in enumerate("qkv")
                ]
                mixed = standing.transformer.blocks[layer].attention.mix(*parts, None if is_everywhere else self.rows)
                z[is_everywhere] = (
                    heads,
                    self._minus(mixed, standing.at_rows(standing.cut.z[layer], is_everywhere)[:, :, heads]),
                )
        if everywhere:
            known = [self._at_answer(z[True][1]), *([z[False][1]] if at_answer else [])]
            z[False] = everywhere + at_answer, torch.cat(known, dim=2)
        return z

    def _attention_inputs(self, layer: int, everywhere: bool, readers: Sequence[int]) -> dict[int, Tensor]:
        """The normalised inputs of those attention destinations that moved, by destination."""
        standing = self.standing
        where = Where("attention_in", layer, everywhere)
        moved = dict.fromkeys(reader for reader in readers if reader in self.reach.readers)
        alike = {standing.columns[reader]: reader for reader in moved if reader != self.destination}
        norm = standing.transformer.blocks[layer].attention_norm
        made = {}
        if alike:
            x = dict(zip(alike, apply_norm(norm, self._inputs(where, list(alike.values())))))
            made = {reader: x[standing.columns[reader]] for reader in moved if reader != self.destination}
        if self.destination in moved:
            made[self.destination] = apply_norm(norm, self._inputs(where, [self.destination])[0])
        return made

    def _parts(
        self, layer: int, letter: str, readers: Sequence[int], inputs: dict[bool, dict[int, Tensor]], everywhere: bool
    ) -> Float[Tensor, "stacked row head d_head"]:
        """Queries, keys or values, head by head."""
        moved = {reader: inputs[everywhere][reader] for reader in readers if reader in self.reach.readers}
        still = [reader for reader in readers if reader not in moved]
        parts = self.standing.projected(layer, letter, moved) if moved else {}
        parts = {reader: part.unflatten(0, (self.n, -1)) for reader, part in parts.items()}
        if still:
            known = self.standing.parts(layer, letter, still, everywhere)
            parts |= {reader: part.expand(self.n, *part.shape) for reader, part in known.items()}
        return torch.stack([parts[reader] for reader in readers], dim=3).flatten(0, 1)

    def _run_mlp(self, layer: int) -> Float[Tensor, "stacked row d_model"] | None:
        """The MLP's output minus its cut value; None where it has not moved."""
        standing, graph = self.standing, self.standing.graph
        if not graph.mlps or not self.reach.moved >> graph.mlp_source(layer) & 1:
            return None
        block = standing.transformer.blocks[layer]
        everywhere = graph.mlp_source(layer) in standing.changes[True].places
        x = self._inputs(Where("mlp_in", layer, everywhere), [graph.mlp_destination(layer)])[0]
        out = apply_norm(block.mlp_post_norm, block.mlp(apply_norm(block.mlp_norm, x)))
        return self._minus(out, standing.at_rows(standing.cut.mlp_out[layer], everywhere))

    # Writing

    def _minus(self, x: Float[Tensor, "stacked row *rest"], y: Float[Tensor, "batch row *rest"]) -> Tensor:
        """x less the same y for every candidate."""
        return (x.unflatten(0, (self.n, -1)) - y).flatten(0, 1)

    def _at_answer(self, x: Float[Tensor, "stacked row *rest"]) -> Float[Tensor, "stacked 1 *rest"]:
        return take_rows(x, self.rows) if x.shape[1] > 1 else x

    def _add_heads(
        self, layer: int, everywhere: bool, heads: list[int], z: Float[Tensor, "stacked row head d_head"]
    ) -> None:
        """Take note of what heads change by, given for their mixed values."""
        standing, start = self.standing, self.standing.graph.head_sources(layer).start
        W_O = standing.transformer.blocks[layer].attention.W_O
        held, room = standing.changes[everywhere], self.differences[everywhere]
        if self.reach.reads_all:
            before = held.values[[held.places[start + head] for head in heads]].sum(0)
            self.sums[everywhere] = self.sums[everywhere] + self._minus(write(z, W_O[heads], None), before)
        for place, head in enumerate(heads):
            source = start + head
            if self.settles or source in room.places:
                self._note(everywhere, source, z[:, :, place] @ W_O[head].to(z.device))

    def _add_mlp(self, layer: int, change: Float[Tensor, "stacked row d_model"]) -> None:
        """Take note of what an MLP changes by."""
        source = self.standing.graph.mlp_source(layer)
        for everywhere in (True, False) if source in self.standing.changes[True].places else (False,):
            at_rows = change if everywhere else self._at_answer(change)
            if self.reach.reads_all:
                held = self.standing.changes[everywhere]
                before = held.values[held.places[source]]
                self.sums[everywhere] = self.sums[everywhere] + self._minus(at_rows, before)
            if self.settles or source in self.differences[everywhere].places:
                self._note(everywhere, source, at_rows)

    def _note(self, everywhere: bool, source: int, change: Float[Tensor, "stacked row d_model"]) -> None:
        """Keep a source's difference for readers that tell it apart, and its change where the run settles."""
        held, room = self.standing.changes[everywhere], self.differences[everywhere]
        if source in room.places:
            before = held.values[held.places[source]]
            torch.sub(
                change.unflatten(0, (self.n, -1)),
                before,
                out=room.values[room.places[source]].unflatten(0, (self.n, -1)),
            )
        if self.settles:
            self.settled.append(Settled(everywhere, source, change))
