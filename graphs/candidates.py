"""Many circuits that differ in the in-edges of one destination, run together.

Exact patching and ACDC ask the same question again and again: what does the metric become when these in-edges of
this destination are cut as well? All candidates share everything below the destination, which is computed once,
and its layer's other heads. From the destination upwards they are stacked along the batch; there only live nodes run,
and logits are computed for the answer row alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graphs.execution import Execution, started
from graphs.graph import Graph
from graphs.norm import apply_norm
from graphs.pairs import PromptPairs
from graphs.plan import Heads, Mixture, Plan, make_mixture, make_plan
from graphs.stream import repeated
from graphs.transformer import Activations, Transformer


class Below:
    """One batch run up to, not including, a layer of a circuit, with the change of every source at hand.

    Valid for every circuit that keeps the same in-edges below the layer and no further ones from it upwards.
    """

    def __init__(
        self,
        transformer: Transformer,
        mask: Bool[Tensor, "source destination"],
        layer: int,
        batch: PromptPairs,
        cut: Activations,
        patching: bool,
    ) -> None:
        graph = transformer.graph
        plan = make_plan(graph, mask, patching)
        plan = replace(plan, individual=frozenset(range(graph.n_sources)), keeps_current=True)
        self.transformer, self.layer, self.batch, self.patching = transformer, layer, batch, patching
        self.computed = plan.computed & (torch.arange(graph.n_sources) < (graph.head_sources(layer).start))
        self._execution = started(transformer, plan, batch, cut)
        self._execution.run_layers(0, layer)

    def logits(
        self, mask: Bool[Tensor, "source destination"], destination: int, candidates: Bool[Tensor, "candidate source"]
    ) -> Float[Tensor, "candidate batch d_vocab"]:
        """Logits at the answer positions of each candidate.

        Args:
            mask: the circuit that the candidates share, apart from this destination's in-edges. The destination's
                node must be live in it.
            destination: an index in this layer; `logits` belongs to the layer above the last.
            candidates: for each candidate the kept sources of the destination, a subset of what `mask` keeps.
        """
        graph = self.transformer.graph
        plan = make_plan(graph, mask, self.patching, also_computed=self.computed)
        n_visible = int(graph.n_visible[destination])
        mixtures = [make_mixture(kept[:n_visible], plan.computed[:n_visible]) for kept in candidates]
        execution = self._continued(plan)
        if destination == graph.n_destinations - 1:
            x = _stacked(execution.at_answer.mixture(mixture, execution.cut.final) for mixture in mixtures)
            return self.transformer.unembed(x[:, 0]).unflatten(0, (len(candidates), -1))
        if graph.mlps and destination == graph.mlp_destination(self.layer):
            stacked = self._with_mlp(execution, mixtures)
        else:
            stacked = self._with_head(execution, destination, mixtures)
        stacked.run_layers(self.layer + 1)
        return stacked.logits().unflatten(0, (len(candidates), -1))

    def _continued(self, plan: Plan) -> Execution:
        """The run below, to be carried on with the plan of a smaller circuit."""
        below = self._execution
        return Execution(self.transformer, replace(plan, keeps_current=True), below.cut, below.everywhere.copy(), below.at_answer.copy())

    def _with_mlp(self, execution: Execution, mixtures: list[Mixture]) -> Execution:
        """The layer done, its MLP reading each mixture in turn."""
        plan, layer = execution.plan, self.layer
        assert plan.layers[layer].mlp is not None, f"m{layer} is not live"
        execution.plan = replace(plan, individual=frozenset(range(plan.graph.n_sources)))  # heads of this layer, singly
        before = execution.mlp_stream(layer).copy()
        execution.add_heads(layer, *execution.attend(layer))
        stream = before if self.transformer.blocks[layer].parallel else execution.mlp_stream(layer)
        x = _stacked(stream.mixture(mixture, execution.cut.mlp_in[layer]) for mixture in mixtures)
        execution.plan = plan
        stacked = stack(execution, len(mixtures))
        stacked.add_mlp(layer, stacked.mlp_change(layer, x))
        return stacked

    def _with_head(self, execution: Execution, destination: int, mixtures: list[Mixture]) -> Execution:
        """The layer done, one letter of one head (of a group of heads) reading each mixture in turn."""
        n, plan = len(mixtures), execution.plan.layers[self.layer]
        letter, readers = self._readers(execution.plan.graph, destination)
        base = execution.attend(self.layer)
        stacked = stack(execution, n)
        changes = [repeated(change, n) for change in base]
        for change, heads in zip(changes, (plan.everywhere, plan.at_answer)):
            places = [place for place, head in enumerate(heads.heads) if head in readers]
            if places:
                chosen = Heads(
                    tuple(heads.heads[place] for place in places),
                    {name: tuple(reads[place] for place in places) for name, reads in heads.reads.items()},
                )
                at_answer = heads is plan.at_answer
                change[:, :, places] = self._attend(execution, stacked, chosen, at_answer, letter, mixtures)
        stacked.run_heads_and_mlp(self.layer, *changes)
        return stacked

    def _attend(
        self, execution: Execution, stacked: Execution, heads: Heads, at_answer: bool, letter: str, mixtures: list[Mixture]
    ) -> Float[Tensor, "stacked row head d_head"]:
        """What the mixed values of some heads change by, one letter reading each mixture in turn."""
        attention, norm = self.transformer.blocks[self.layer].attention, self.transformer.blocks[self.layer].attention_norm
        parts = {}
        for name in "qkv":
            stream = execution.at_answer if at_answer and name == "q" else execution.everywhere
            if name == letter:
                x = _stacked(stream.mixture(mixture, execution.cut.attention_in[self.layer]) for mixture in mixtures)
                parts[name] = execution.project_heads(self.layer, name, apply_norm(norm, x), list(heads.heads))
            else:
                parts[name] = repeated(execution.project(self.layer, name, heads, stream), len(mixtures))
        target = stacked.at_answer if at_answer else stacked.everywhere
        z = attention.mix(parts["q"], parts["k"], parts["v"], target.rows)
        return z - target.at_rows(stacked.cut.z[self.layer])[:, :, list(heads.heads)]

    def _readers(self, graph: Graph, destination: int) -> tuple[str, set[int]]:
        """The letter of a head's destination and the query heads that use it."""
        for letter in "qkv":
            part = graph.part_destinations(self.layer, letter)
            if part.start <= destination < part.stop:
                share = graph.n_heads // graph.n_parts[letter]
                first = (destination - part.start) * share
                return letter, set(range(first, first + share))
        raise AssertionError(f"destination {destination} is not in layer {self.layer}")


def stack(execution: Execution, n: int) -> Execution:
    """n runs along the batch, each where `execution` stands."""
    named = execution.plan.individual
    return Execution(
        execution.transformer,
        execution.plan,
        repeated_activations(execution.cut, n),
        execution.everywhere.stacked(n, named),
        execution.at_answer.stacked(n, named),
    )


def repeated_activations(activations: Activations, n: int) -> Activations:
    """The batch n times over, each layer when it is asked for."""
    lists = {
        field.name: RepeatedLayers(getattr(activations, field.name), n)
        for field in fields(Activations)
        if isinstance(getattr(activations, field.name), list)
    }
    return Activations(embed=repeated(activations.embed, n), final=repeated(activations.final, n), **lists)


class RepeatedLayers(Sequence[Tensor]):
    """A list of tensors, an entry a layer, repeated along the batch; the last one asked for is kept."""

    def __init__(self, layers: list[Tensor], n: int) -> None:
        self._layers, self._n = layers, n
        self._kept: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> Tensor:
        if self._kept is None or self._kept[0] != layer:
            self._kept = (layer, repeated(self._layers[layer], self._n))
        return self._kept[1]


def _stacked(inputs: Iterable[Float[Tensor, "batch row d_model"]]) -> Float[Tensor, "stacked row d_model"]:
    return torch.cat(list(inputs))
