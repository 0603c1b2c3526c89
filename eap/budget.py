"""Exact scores for as many edges or nodes as a budget pays for: the ones that a cheap method calls largest.

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

from collections.abc import Mapping, Sequence

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
    prices = edge_prices(transformer, batches)[None].expand_as(sizes)
    return torch.zeros_like(edges).masked_scatter(edges, _paid(sizes[edges], prices[edges], budget))


def affordable_nodes(
    transformer: Transformer,
    batches: Sequence[PromptPairs],
    means: Mapping[str, Float[Tensor, "layer *head pos"]],
    budget: float | int,
) -> dict[str, Bool[Tensor, "layer *head pos"]]:
    """By kind the nodes of largest mean score whose exact patching, together, costs at most the budget.

    The stream behind a layer is the one before the next, and counts once.

    Args:
        transformer: The model.
        batches: All prompts.
        means: Means of a cheap method by kind: positive, negative or, where no prompt has the position, NaN.
        budget: In plain passes over all prompts.
    """
    prices = node_prices(transformer, batches, means["resid_pre"].shape[-1])
    once = {kind: mean[-1:] if kind == "resid_post" else mean for kind, mean in means.items()}
    sizes = torch.cat([mean.abs().nan_to_num(-1.0).flatten() for mean in once.values()])
    price = {kind: prices[-1:] if kind == "resid_post" else prices[:-1] for kind in once}
    price = [each[:, None].expand_as(once[kind]) if kind == "heads" else each for kind, each in price.items()]
    paid = _paid(sizes, torch.cat([each.flatten() for each in price]), budget) & (sizes >= 0)
    split = dict(zip(once, paid.split([mean.numel() for mean in once.values()])))
    chosen = {kind: split[kind].view_as(mean) for kind, mean in once.items()}
    return chosen | {"resid_post": torch.cat((chosen["resid_pre"][1:], chosen["resid_post"]))}


def _paid(
    sizes: Float[Tensor, " place"], prices: Float[Tensor, " place"], budget: float | int
) -> Bool[Tensor, " place"]:
    """The largest places, ties in order, whose prices together are within the budget."""
    order = sizes.argsort(descending=True, stable=True)
    paid = torch.empty_like(order, dtype=torch.bool)
    paid[order] = START + prices[order].double().cumsum(0) <= budget
    return paid


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
    n_tokens = _n_tokens(batches)
    weights = _weights_of(transformer)
    logits = transformer.W_U.numel() * n_answers
    plain = _plain_work(transformer, batches)
    last = graph.head_sources(graph.n_layers - 1).start
    prices = []
    for destination in range(graph.n_destinations):
        moved = members(dependents_of(graph, columns, (1 << graph.n_sources) - 1, destination).moved)
        work = sum(weights[source] * (n_answers if source >= last else n_tokens) for source in moved)
        prices.append((work + logits) / plain)
    return torch.tensor(prices, dtype=torch.float64)


def node_prices(
    transformer: Transformer, batches: Sequence[PromptPairs], n_positions: int
) -> Float[Tensor, "layer_or_end pos"]:
    """What replacing one value before or in each layer, or at the end, costs at each position, in plain passes.

    Prompts that run together with one that has the position run again from the layer on.
    """
    graph, weights = transformer.graph, _weights_of(transformer)
    plain = _plain_work(transformer, batches)
    rest = [sum(weights[graph.head_sources(layer).start :]) for layer in range(graph.n_layers)]
    prices = torch.zeros(graph.n_layers + 1, n_positions, dtype=torch.float64)
    for batch in batches:
        tokens = trimmed(batch.clean, batch)
        work = torch.tensor([*rest, 0], dtype=torch.float64) * tokens.numel() + transformer.W_U.numel() * len(batch)
        prices[:, : tokens.shape[1]] += work[:, None] / plain
    return prices


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


def _n_tokens(batches: Sequence[PromptPairs]) -> int:
    return sum(trimmed(batch.clean, batch).numel() for batch in batches)


def _plain_work(transformer: Transformer, batches: Sequence[PromptPairs]) -> int:
    """Multiplications of a plain pass."""
    return PLAIN * _n_tokens(batches) * (sum(_weights_of(transformer)) + transformer.W_U.numel())


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
