"""Edges by span: where in the prompt an edge works.

An edge `a->b` at span s is that edge at the tokens of s: there b reads a's value. `SpanScores` has a score for each,
`prune_spans` keeps the largest, and a `SpanCircuit` runs like any circuit (`edge_circuits.graphs.run`), each edge cut
outside of its spans. Between spans information moves inside of heads, from the spans at which <k> and <v> read to those
at which <q> does; such a move belongs to the head and is not cut by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.checks import choice, described, refusal, whole_number
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.drawing.picture import AT
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.prompts.tokenization import token_texts
from edge_circuits.graphs.scores import ScoredGraph


@dataclass(frozen=True, eq=False)
class SpanScores:
    """Scores of the edges of a graph, span by span; positive: cutting the edge at the span's tokens raises the metric.

    Attributes:
        graph: The topology.
        spans: Names of the spans, in order.
        scores: In the metric's unit, 0 where there is no edge; on the CPU. [source destination span]
        metadata: What is worth knowing of their origin, as a `ScoredGraph` has it.
    """

    graph: Graph
    spans: tuple[str, ...]
    scores: Float[Tensor, "source destination span"]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_shape("scores", self.scores, self.graph, self.spans)

    def __repr__(self) -> str:
        return f"SpanScores({self.graph}, {self.graph.n_edges} edges at {', '.join(self.spans)})"

    def at(self, span: str) -> ScoredGraph:
        """The scores at one span.

        Raises:
            ValueError: There is no such span.
        """
        number = self.spans.index(choice("span", span, self.spans))
        return ScoredGraph(self.graph, self.scores[:, :, number], {**self.metadata, "span": span})

    @property
    def total(self) -> ScoredGraph:
        """The sum over spans: the scores without positions, for methods that take the destination linearly."""
        return ScoredGraph(self.graph, self.scores.sum(2), dict(self.metadata))

    def top(self, n: int) -> list[tuple[str, float]]:
        """The n edges and spans of largest absolute score, "a0.h1->m1@S1", largest first."""
        order = self.scores.abs().flatten().sort(descending=True, stable=True).indices
        real = self.graph.edge_mask[:, :, None].expand_as(self.scores).flatten()
        chosen = order[real[order]][: whole_number("n", n)]
        places = [tuple(map(int, torch.unravel_index(each, self.scores.shape))) for each in chosen]
        return [(_name(self.graph, self.spans, place), float(self.scores[place])) for place in places]


@dataclass(frozen=True, eq=False)
class SpanCircuit:
    """Kept edges, each at some spans; everything else is cut.

    Attributes:
        graph: The topology.
        spans: Names of the spans, in order; the prompts that it is run on have spans of the same names.
        mask: [source destination span]
        scores: The scores by which it was chosen, or None. [source destination span]
        metadata: What is worth knowing of its origin.
        example: Tokens of a prompt, each with its span, for drawings; empty if there are none.
    """

    graph: Graph
    spans: tuple[str, ...]
    mask: Bool[Tensor, "source destination span"]
    scores: Float[Tensor, "source destination span"] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    example: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        _check_shape("mask", self.mask, self.graph, self.spans)
        if self.scores is not None:
            _check_shape("scores", self.scores, self.graph, self.spans)
        if (self.mask & ~self.graph.edge_mask[:, :, None]).any():
            raise refusal("mask", "False where there is no edge", "others", "multiply by graph.edge_mask")

    def __repr__(self) -> str:
        return f"SpanCircuit({self.graph}, {self.n_edges} of {self.graph.n_edges} edges x {len(self.spans)} spans)"

    @property
    def n_edges(self) -> int:
        """How many edges are kept, counted once for each span."""
        return int(self.mask.sum())

    @property
    def edges(self) -> tuple[str, ...]:
        """Their names, "a0.h1->m1@S1", by destination, source and span."""
        places = self.mask.permute(1, 0, 2).nonzero().tolist()
        return tuple(_name(self.graph, self.spans, (source, destination, span)) for destination, source, span in places)

    @property
    def anywhere(self) -> Circuit:
        """The edges that are kept at any span, as a circuit without positions."""
        return Circuit(self.graph, self.mask.any(2))

    def live(self) -> SpanCircuit:
        """Without the edges on no path from `input` to `logits`, which change no run."""
        fed, ahead = joined(self.graph, self.mask)
        return replace(self, mask=self.mask & fed[:, None] & ahead[None])

    def over(self, pairs: PromptPairs, row: int = 0, tokenizer: Any = None) -> SpanCircuit:
        """The same with a clean prompt as its example.

        Args:
            pairs: Prompts with the circuit's spans.
            row: Which of them.
            tokenizer: Tells tokens as text; None: ids are shown.

        Raises:
            ValueError: Other spans, or no such row.
        """
        check_spans(pairs, self.spans)
        row = whole_number("row", row, 0, len(pairs) - 1)
        length = int(pairs.lengths[row])
        texts = token_texts(tokenizer, pairs.clean[row, :length].tolist())
        spans = [self.spans[number] for number in pairs.spans.of_token[row, :length].tolist()]
        return replace(self, example=tuple(zip(texts, spans)))


def prune_spans(scores: SpanScores, k: int) -> SpanCircuit:
    """The k edges and spans of largest absolute score, without those on no path from `input` to `logits`.

    A path may change its span inside of a head, from any span at which <k> or <v> read to any at which <q> does.
    Dead ends are removed after the choice, so that fewer than k can remain.

    Args:
        scores: Scores by span.
        k: How many to choose; an edge counts once for each span.

    Raises:
        ValueError: k is no count, or a score is not finite.
    """
    whole_number("k", k)
    if not scores.scores.isfinite().all():
        raise refusal("scores", "finite numbers", "NaN or infinite ones", "score again in a wider dtype")
    real = scores.graph.edge_mask[:, :, None].expand_as(scores.scores)
    sizes = scores.scores.abs().masked_fill(~real, -1).flatten()
    chosen = sizes.sort(descending=True, stable=True).indices[: min(k, int(real.sum()))]
    mask = torch.zeros(sizes.shape, dtype=torch.bool)
    mask[chosen] = True
    mask = mask.view(scores.scores.shape)
    return SpanCircuit(scores.graph, scores.spans, mask, scores.scores, {**scores.metadata}).live()


def check_spans(pairs: PromptPairs, spans: tuple[str, ...]) -> None:
    """Refuse prompts that have not the spans of a circuit."""
    names = None if pairs.spans is None else pairs.spans.names
    if names != spans:
        remedy = "give PromptPairs the spans that the circuit was found with, or use pairs.by_token()"
        raise refusal("pairs.spans", f"those of the circuit, {spans}", names, remedy)


def joined(
    graph: Graph, mask: Bool[Tensor, "source destination span"]
) -> tuple[Bool[Tensor, "source span"], Bool[Tensor, "destination span"]]:
    """Which sources a path of kept edges reaches from `input` at each span, and from which destinations one leads to `logits`."""
    n_spans = mask.shape[2]
    fed = torch.zeros(graph.n_sources, n_spans, dtype=torch.bool)  # a path from `input` reaches the source there
    fed[0] = True
    for source in range(1, graph.n_sources):
        reads = [(mask[:, destination] & fed).any(0) for destination in graph.destinations_of(source)]
        moved = sum(each.any() for each in reads[1:]) > 0  # <k> or <v> at any span
        fed[source] = reads[0] | moved
    wanted = torch.zeros(graph.n_sources, n_spans, dtype=torch.bool)
    ahead = torch.zeros(graph.n_destinations, n_spans, dtype=torch.bool)  # a path to `logits` begins there
    ahead[-1] = True
    for source in reversed(range(graph.n_sources)):
        wanted[source] = (mask[source] & ahead).any(0)
        own = graph.destinations_of(source)
        for place, destination in enumerate(own):
            ahead[destination] |= wanted[source] if place == 0 else wanted[source].any()
    return fed, ahead


def _name(graph: Graph, spans: tuple[str, ...], place: tuple[int, int, int]) -> str:
    source, destination, span = place
    return f"{graph.edge_name(source, destination)}{AT}{spans[span]}"


def _check_shape(name: str, tensor: Tensor, graph: Graph, spans: tuple[str, ...]) -> None:
    expected = (graph.n_sources, graph.n_destinations, len(spans))
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != expected:
        raise refusal(name, f"a tensor of shape {expected} [source destination span]", described(tensor))
