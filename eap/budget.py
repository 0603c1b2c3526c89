"""Exact scores for as many edges or nodes as a budget pays for: the ones that a cheap method calls largest.

1. A cheap method scores every edge.
2. Edges are taken by descending absolute score while the price of patching them one by one stays within the budget. Where
   scores have groups of prompts, the far end of an edge's interval counts: whatever may be among the largest is taken.
3. Those are measured by exact patching (`edge_circuits.eap.methods.exact`), and their scores replace the cheap ones.

The largest edges by the result are all exact as long as none of them is smaller than the smallest that was taken: an edge that
was not taken has a smaller estimate. What the estimate itself costs comes on top of the budget.

A plain pass is what two forward passes and one backward pass of the model over all prompts take, logits at every position. The
price is counted, not timed, so that the same call measures the same edges on any machine: multiplications by weights on the
tokens where a node runs again, and what else takes as long as so many of them (`ELEMENTWISE`, `CALL`), three forward passes to a
plain one. In a model less than some 256 wide that other part is most of a plain pass as well as of the price. The two numbers are of one
CPU thread: what was asked is kept within a fifth or so there, exceeded by up to a half where short prompts of many lengths meet a
small model, and on a device of other speeds kept less well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.eap.methods.exact import Exact, run_together, stacked_tokens
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs, ScoredGraph
from edge_circuits.graphs.checks import number, refusal
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.running.changing import n_changing
from edge_circuits.graphs.running.dependents import bit_columns, dependents_of, members
from edge_circuits.graphs.running.patching import Intervention, trimmed

PLAIN = 3  # forward passes
ELEMENTWISE = 800  # multiplications: what a layer does a token beside its matrices, for each unit of its width
CALL = 9_000_000  # multiplications: what a layer takes each time that it runs forward, on however few tokens
PATCHED_CALLS = 2  # of a layer that runs again with an edge cut
START_CALLS = 6  # of each layer, before the first edge: the corrupted run, and the clean one, source by source
START = 500_000_000  # multiplications: what is done once


def affordable(
    transformer: Transformer,
    batches: Sequence[PromptPairs],
    sizes: Float[Tensor, "source destination"],
    budget: float | int,
    intervention: Intervention = "patching",
) -> Bool[Tensor, "source destination"]:
    """The edges of largest size whose exact patching, together, costs at most the budget.

    Args:
        transformer: The model.
        batches: All prompts.
        sizes: Absolute scores of a cheap method, or how large prompts let them be; edges of size 0 are taken last.
        budget: In plain passes over all prompts.
        intervention: What cut edges read.

    Raises:
        ValueError: The budget does not pay for one edge.
    """
    edges = transformer.graph.edge_mask
    order = sizes[edges].argsort(descending=True, stable=True)
    places = edges.nonzero()[order]
    chosen = torch.zeros_like(edges)
    spent = edge_prices(transformer, batches, places[:, 1], intervention)
    _check_enough(budget, spent[0].item(), "edge")
    chosen[tuple(places[spent <= budget].T)] = True
    return chosen


def affordable_nodes(
    transformer: Transformer,
    batches: Sequence[PromptPairs],
    means: Mapping[str, Float[Tensor, "layer ... pos"]],
    budget: float | int,
) -> dict[str, Bool[Tensor, "layer ... pos"]]:
    """By kind the nodes of largest mean score whose exact patching, together, costs at most the budget.

    The stream behind a layer is the one before the next, and counts once.

    Args:
        transformer: The model.
        batches: All prompts.
        means: Means of a cheap method by kind: positive, negative or, where no prompt has the position, NaN.
        budget: In plain passes over all prompts.

    Raises:
        ValueError: The budget does not pay for one node.
    """
    prices = node_prices(transformer, batches, means["resid_pre"].shape[-1])
    once = {kind: mean[-1:] if kind == "resid_post" else mean for kind, mean in means.items()}
    sizes = torch.cat([mean.abs().nan_to_num(-1.0).flatten() for mean in once.values()])
    price = {kind: prices[-1:] if kind == "resid_post" else prices[:-1] for kind in once}
    price = [each[:, None].expand_as(once[kind]) if kind == "heads" else each for kind, each in price.items()]
    order, paid = sizes.argsort(descending=True, stable=True), torch.empty_like(sizes, dtype=torch.bool)
    spent = 2 / PLAIN + torch.cat([each.flatten() for each in price])[order].cumsum(0)  # after both runs
    _check_enough(budget, spent[0].item(), "node")
    paid[order] = (spent <= budget) & (sizes[order] >= 0)
    split = dict(zip(once, paid.split([mean.numel() for mean in once.values()])))
    chosen = {kind: split[kind].view_as(mean) for kind, mean in once.items()}
    return chosen | {"resid_post": torch.cat((chosen["resid_pre"][1:], chosen["resid_post"]))}


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


def _check_enough(budget: float | int, first: float, what: str) -> None:
    if budget < first:
        expected = f"{first:.2f} plain passes or more, the price of one {what} here"
        raise refusal("budget", expected, repr(budget), "give as much, or leave it out")


def edge_prices(
    transformer: Transformer,
    batches: Sequence[PromptPairs],
    destinations: Int[Tensor, " edge"],
    intervention: Intervention = "patching",
) -> Float[Tensor, " edge"]:
    """What patching edges up to each of these costs in all, in plain passes; each is given by its destination.

    Edges into one destination are stacked, so that the first of a stack is the dearest.
    """
    distinct, places = destinations.unique(return_inverse=True)
    everywhere, at_answer, n_layers = _reruns(transformer, distinct.tolist())[:, places]
    earlier, spent = _n_earlier(places), torch.zeros(len(destinations), dtype=torch.float64)
    groups = [group for batch in batches for group in run_together(batch, intervention)]
    for group in groups:
        n_tokens, n_answers = len(group) * int(n_changing(group, intervention).max()), len(group)
        n_stacked = (stacked_tokens(transformer) // torch.where(everywhere > 0, n_tokens, n_answers)).clamp(min=1)
        spent += (
            everywhere * n_tokens + at_answer * n_answers + n_layers * PATCHED_CALLS * CALL * (earlier % n_stacked == 0)
        )
    return _start(transformer, groups, batches) + spent.cumsum(0) / _plain_work(transformer, batches)


def _n_earlier(places: Int[Tensor, " edge"]) -> Int[Tensor, " edge"]:
    """How many of the places before each are the same."""
    by_place = places.argsort(stable=True)
    counts = places.bincount()
    earlier = torch.empty_like(places)
    earlier[by_place] = torch.arange(len(places)) - (counts.cumsum(0) - counts)[places[by_place]]
    return earlier


def _reruns(transformer: Transformer, destinations: Sequence[int]) -> Float[Tensor, "3 destination"]:
    """What an edge into each destination runs again: multiplications for each token, for each answer, and how many layers."""
    graph, weights = transformer.graph, _weights_of(transformer)
    columns, every_source = bit_columns(graph.edge_mask), (1 << graph.n_sources) - 1
    last, attention = graph.head_sources(graph.n_layers - 1).start, transformer.blocks[-1].attention
    found = []
    for destination in destinations:
        moved = list(members(dependents_of(graph, columns, every_source, destination).moved))
        below = sum(weights[source] for source in moved if source < last)
        everywhere = below and below + attention.W_K.numel() + attention.W_V.numel()
        at_answer = transformer.W_U.numel() + sum(weights[source] for source in moved if source >= last)
        found.append((everywhere, at_answer, graph.n_layers - graph.layer_of(destination) + 1))
    return torch.tensor(found, dtype=torch.float64).T


def node_prices(
    transformer: Transformer, batches: Sequence[PromptPairs], n_positions: int
) -> Float[Tensor, "layer_or_end pos"]:
    """What replacing one value before or in each layer, or at the end, costs at each position, in plain passes.

    Prompts that run together with one that has the position run again from the layer on.
    """
    graph, weights = transformer.graph, _weights_of(transformer)
    plain = _plain_work(transformer, batches)
    rest = [sum(weights[graph.head_sources(layer).start :]) for layer in range(graph.n_layers)]
    calls = torch.arange(graph.n_layers + 1, 0, -1) * CALL
    prices = torch.zeros(graph.n_layers + 1, n_positions, dtype=torch.float64)
    for batch in batches:
        tokens = trimmed(batch.clean, batch)
        work = (
            torch.tensor([*rest, 0], dtype=torch.float64) * tokens.numel()
            + transformer.W_U.numel() * len(batch)
            + calls
        )
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


def _start(transformer: Transformer, groups: Sequence[PromptPairs], batches: Sequence[PromptPairs]) -> float:
    """What exact patching takes before its first edge, in plain passes: the corrupted run and the clean one."""
    work = 2 * _n_tokens(groups) * sum(_weights_of(transformer))
    calls = START_CALLS * len(groups) * transformer.graph.n_layers * CALL
    return (START + work + calls) / _plain_work(transformer, batches)


def _plain_work(transformer: Transformer, batches: Sequence[PromptPairs]) -> int:
    """A plain pass in multiplications."""
    work = _n_tokens(batches) * (sum(_weights_of(transformer)) + transformer.W_U.numel())
    return PLAIN * (work + len(batches) * transformer.graph.n_layers * CALL)


def _weights_of(transformer: Transformer) -> list[int]:
    """By how many weights each source multiplies a token, or what takes as long; `input` none."""
    graph, weights = transformer.graph, [0]
    for block in transformer.blocks:
        attention, beside = block.attention, ELEMENTWISE * transformer.W_U.shape[0] // (1 + graph.mlps)
        size = sum(each.numel() for each in (attention.W_Q, attention.W_K, attention.W_V, attention.W_O))
        weights += [(size + beside) // graph.n_heads] * graph.n_heads
        if block.mlp is not None:
            tensors = (each for each in vars(block.mlp).values() if isinstance(each, Tensor) and each.dim() > 1)
            weights.append(sum(each.numel() for each in tensors) + beside)
    return weights
