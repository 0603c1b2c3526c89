"""Exact scores for as many edges as a budget pays for: the ones that a cheap method calls largest.

1. A cheap method scores every edge.
2. Edges are taken by descending absolute score while the price of patching them one by one stays within the budget. Where
   scores have groups of prompts, the far end of an edge's interval counts: whatever may be among the largest is taken.
3. Those are measured by exact patching (`edge_circuits.eap.methods.exact`), and their scores replace the cheap ones.

The largest edges by the result are all exact as long as none of them is smaller than the smallest that was taken: an edge that
was not taken has a smaller estimate. The price is counted, not timed, so that the same call measures the same edges:
multiplications by weights on the tokens where a node runs again, in units of plain passes, which are two forward passes and one
backward pass of the model to the stream, three times the multiplications of a forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs, ScoredGraph
from edge_circuits.graphs.checks import number, refusal
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.running.dependents import bit_columns, dependents_of, members
from edge_circuits.graphs.running.patching import trimmed

PLAIN = 3  # forward passes
START = 1.0  # of plain: the corrupted run, and the clean one with what every source writes


def affordable(
    transformer: Transformer,
    batches: Sequence[PromptPairs],
    sizes: Float[Tensor, "source destination"],
    budget: float | int,
) -> Bool[Tensor, "source destination"]:
    """The edges of largest size whose exact patching, together, costs at most the budget.

    Args:
        transformer: The model.
        batches: All prompts.
        sizes: Absolute scores of a cheap method, or how large prompts let them be; edges of size 0 are taken last.
        budget: In plain passes over all prompts.
    """
    edges = transformer.graph.edge_mask
    prices = edge_prices(transformer, batches)[None].expand_as(sizes)[edges]
    order = sizes[edges].argsort(descending=True, stable=True)
    paid = START + prices[order].double().cumsum(0) <= budget
    chosen = torch.zeros_like(edges)
    places = edges.nonzero()[order[paid]]
    chosen[places[:, 0], places[:, 1]] = True
    return chosen


def check_budget(budget: float | int | None, method: Method, by: str | None = None) -> None:
    """
    Raises:
        ValueError: The budget is no number above 0, or has no place beside the method or `by`.
    """
    if budget is None:
        return
    number("budget", budget, above=0)
    if by is not None:
        raise refusal("budget", "None where scores are by span", repr(budget), "score without `by`")
    if not (method.signed and method.needs_metric) or isinstance(method, Exact):
        remedy = "take a method such as 'eap' or 'relp'"
        raise refusal(
            "budget",
            "None for a method whose scores are no estimates of effects",
            f"{budget} with {method.name!r}",
            remedy,
        )


def edge_prices(transformer: Transformer, batches: Sequence[PromptPairs]) -> Float[Tensor, " destination"]:
    """What patching one edge into each destination costs, in plain passes."""
    graph, columns = transformer.graph, bit_columns(transformer.graph.edge_mask)
    n_answers = sum(map(len, batches))
    n_tokens = sum(trimmed(batch.clean, batch).numel() for batch in batches)
    weights = _weights_of(transformer)
    logits = transformer.W_U.numel() * n_answers
    plain = PLAIN * (n_tokens * (sum(weights) + transformer.W_U.numel()))
    last = graph.head_sources(graph.n_layers - 1).start
    prices = []
    for destination in range(graph.n_destinations):
        moved = members(dependents_of(graph, columns, (1 << graph.n_sources) - 1, destination).moved)
        work = sum(weights[source] * (n_answers if source >= last else n_tokens) for source in moved)
        prices.append((work + logits) / plain)
    return torch.tensor(prices, dtype=torch.float64)


def with_exact(
    scored: ScoredGraph, exact: ScoredGraph, chosen: Bool[Tensor, "source destination"], budget: float | int
) -> ScoredGraph:
    """The cheap scores, and the exact ones of the edges that were chosen, which `ScoredGraph.exact` marks; group by group if
    they have groups."""
    metadata = dict(scored.metadata) | {"exact_edges": list(scored.graph.edge_names(chosen))}
    metadata["settings"] = {**metadata["settings"], "budget": budget}
    scores = torch.where(chosen, exact.scores, scored.scores)
    per_group = None if scored.per_group is None else torch.where(chosen, exact.per_group, scored.per_group)
    return ScoredGraph(scored.graph, scores, metadata, per_group)


def _weights_of(transformer: Transformer) -> list[int]:
    """How many weights each source multiplies by; `input` none."""
    graph, weights = transformer.graph, [0]
    for block in transformer.blocks:
        attention = block.attention
        size = sum(each.numel() for each in (attention.W_Q, attention.W_K, attention.W_V, attention.W_O))
        weights += [size // graph.n_heads] * graph.n_heads
        if block.mlp is not None:
            tensors = (each for each in vars(block.mlp).values() if isinstance(each, Tensor) and each.dim() > 1)
            weights.append(sum(each.numel() for each in tensors))
    return weights
