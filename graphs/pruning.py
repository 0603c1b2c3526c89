"""From scores to a circuit.

1. Every edge gets a rank value: its absolute score, its score, or its score with the sign turned (`by`).
2. Edges are chosen by it: the k best, all that reach a threshold, or greedily from `logits` backwards (`strategy`).
3. With `stable`, those are dropped that other samples of prompts would not have chosen.
4. Dead ends are removed: edges on no path of chosen edges from `input` to `logits`.

The greedy strategy is that of EAP-IG (Hanna, Pezzelle and Belinkov 2024, "Have Faith in Faithfulness"): the circuit
begins with the node `logits`; each step adds the best edge not yet added whose destination belongs to a node of the
circuit, and with it the edge's source as a node. What it adds always leads to `logits`, so dead ends are only edges not
fed from `input`.
"""

from __future__ import annotations

import bisect
import heapq
import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.graphs.bootstrap import N_RESAMPLES, resampled
from edge_circuits.graphs.checks import choice, described, number, refusal, share, whole_number
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.reachability import live_edges
from edge_circuits.graphs.scores import ScoredGraph

By = Literal["absolute", "signed", "negative"]
Strategy = Literal["top", "greedy"]


def prune(
    graph: ScoredGraph,
    k: int | None = None,
    *,
    threshold: float | None = None,
    by: By = "absolute",
    strategy: Strategy = "top",
    stable: float | None = None,
) -> Circuit:
    """Choose a circuit by score and remove its dead ends.

    Equal rank values are taken in edge order (`graph.graph.edges`: by destination, then by source), so the result is
    deterministic. k = 0 gives the empty circuit and k = n_edges the full one. The result may have fewer than k edges:
    `n_requested` says how many were chosen, `n_edges` how many are left, and `metadata["pruning"]` both, with the
    settings.

    Args:
        graph: Scores of every edge.
        k: How many edges to choose; or give `threshold`.
        threshold: Choose the edges whose rank value is at least this, compared in the scores' dtype. Both strategies
            then give the same circuit, since only the number of edges tells them apart.
        by: Rank value: "absolute" |score|; "signed" score, so that the largest come first (cutting them raises the
            metric most); "negative" -score, so that the most negative come first (cutting them lowers it most).
        strategy: "top": the best edges wherever they are; "greedy": a connected circuit grown from `logits`.
        stable: Of the k best keep only those that are among the k best in at least this share of other samples of prompts
            (`selection_frequency`), before dead ends are removed. Needs k, the strategy "top", and scores kept group by group.
            `metadata["pruning"]` then has `stable` and `n_stable`, how many were left.

    Warns:
        UserWarning: All edges chosen are dead ends, so the circuit is empty; with the k at which some stay.

    Raises:
        ValueError: k, threshold or stable is out of range, both or neither is given, a word is unknown, or a score is NaN or
            infinite.
    """
    _check_arguments(graph, k, threshold, by, strategy)
    _check_stable(stable, k, strategy)
    graph.check_finite()
    values = rank_values(graph.values, by)
    if threshold is not None:
        chosen = values >= torch.tensor(threshold, dtype=values.dtype, device="cpu")
    elif strategy == "top":
        chosen = _top(values, int(k))
    else:
        chosen = _greedy(graph.graph, values, int(k))
    certain = chosen if stable is None else chosen & (_frequency(graph, int(k), by) >= stable)
    mask = live_edges(graph.graph, graph.graph.matrix(certain))
    if chosen.any() and not mask.any():
        _warn_of_nothing(graph.graph, values, int(chosen.sum()), strategy)
    settings = {
        "k": None if k is None else int(k),
        "threshold": None if threshold is None else float(threshold),
        "by": by,
        "strategy": strategy,
        "n_requested": int(chosen.sum()),
        "n_edges": int(mask.sum()),
        **({} if stable is None else {"stable": float(stable), "n_stable": int(certain.sum())}),
    }
    return Circuit(graph.graph, mask, graph.scores, {**graph.metadata, "pruning": settings}, settings["n_requested"])


def _warn_of_nothing(graph: Graph, values: Float[Tensor, "edge"], n_chosen: int, strategy: Strategy) -> None:
    """Say from which k on an edge would stay, when all that were chosen are dead ends."""
    remedy = "choose more"
    if strategy == "top":
        sizes = range(len(values) + 1)
        enough = bisect.bisect_left(
            sizes, True, n_chosen, key=lambda k: bool(live_edges(graph, graph.matrix(_top(values, k))).any())
        )
        remedy = f"some are from k={enough} on, or with strategy='greedy', which grows a circuit from logits"
    warnings.warn(
        f"prune: none of the {n_chosen} edges chosen is on a path of chosen edges from input to logits, so the circuit is "
        f"empty; {remedy}",
        stacklevel=3,
    )


def selection_frequency(
    graph: ScoredGraph, k: int, *, by: By = "absolute", n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Float[Tensor, "source destination"]:
    """How surely each edge is among the k best: the share of samples of prompts in which it is, 0 where there is no edge.

    Samples are draws of groups of prompts with replacement (`edge_circuits.graphs.bootstrap`).

    Args:
        graph: Scores kept group by group.
        k: How many edges are chosen.
        by: As for `prune`.
        n_resamples: Number of draws.
        seed: Of the draws.

    Raises:
        ValueError: k or n_resamples is out of range, `by` is unknown, the scores are not finite or without groups.
    """
    _check_arguments(graph, k, None, by, "top")
    graph.check_finite()
    return graph.graph.matrix(_frequency(graph, int(k), by, n_resamples, seed))


def _frequency(
    graph: ScoredGraph, k: int, by: By, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Float[Tensor, "edge"]:
    """`selection_frequency` in edge order; ties are broken as everywhere."""
    times = torch.zeros(graph.graph.n_edges, dtype=torch.float64, device="cpu")
    for scores in resampled(graph, n_resamples, seed):
        times += _top_of_each(rank_values(scores, by), k).sum(0)
    return times / n_resamples


def _top_of_each(values: Float[Tensor, "draw edge"], k: int) -> Bool[Tensor, "draw edge"]:
    """`_top` of each row, without sorting it."""
    if k == 0:
        return torch.zeros(values.shape, dtype=torch.bool, device="cpu")
    least = values.kthvalue(values.shape[1] - k + 1, dim=1, keepdim=True).values
    above, equal = values > least, values == least
    return above | equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True))


def _check_stable(stable: float | None, k: int | None, strategy: str) -> None:
    if stable is None:
        return
    share("stable", stable)
    if k is None or strategy != "top":
        given = "a threshold" if k is None else f"strategy={strategy!r}"
        remedy = "how often an edge is chosen is counted among the k best"
        raise refusal("stable", "k and strategy='top' beside it", given, remedy)


def _check_arguments(graph: ScoredGraph, k: int | None, threshold: float | None, by: str, strategy: str) -> None:
    if not isinstance(graph, ScoredGraph):
        raise refusal("graph", "a ScoredGraph", described(graph), "it comes from score, or ScoredGraph(graph, scores)")
    choice("by", by, get_args(By))
    choice("strategy", strategy, get_args(Strategy))
    if (k is None) == (threshold is None):
        given = "neither" if k is None else f"k={k!r} and threshold={threshold!r}"
        raise refusal("k and threshold", "one of the two", given)
    if k is not None:
        whole_number("k", k, most=graph.graph.n_edges, remedy=f"the graph has {graph.graph.n_edges} edges")
    elif by == "absolute":
        number("threshold", threshold, least=0, remedy="by='absolute' compares |score|")
    else:
        number("threshold", threshold)


def rank_values(values: Float[Tensor, "*draw edge"], by: By) -> Float[Tensor, "*draw edge"]:
    """What edges, or nodes, are ranked by; the largest are the best."""
    return values.abs() if by == "absolute" else values if by == "signed" else -values


def _top(values: Float[Tensor, "edge"], k: int) -> Bool[Tensor, "edge"]:
    """The k edges of largest value; of equal ones the earlier."""
    chosen = torch.zeros(len(values), dtype=torch.bool, device="cpu")
    chosen[values.sort(descending=True, stable=True).indices[:k]] = True
    return chosen


def _greedy(graph: Graph, values: Float[Tensor, "edge"], k: int) -> Bool[Tensor, "edge"]:
    """The first k edges of a circuit grown backwards from `logits`; O(k log n_destinations) after sorting.

    The heap holds, for every destination of the circuit's nodes, the rank of its best edge not yet added.
    """
    ranking = _ranked(graph, values)
    waiting: dict[int, Iterator[int]] = {}  # the ranks not yet in the heap, by destination of a node of the circuit
    heap: list[tuple[int, int]] = []

    def push_next(destination: int) -> None:
        if (rank := next(waiting[destination], None)) is not None:
            heapq.heappush(heap, (rank, destination))

    def add_node(reads: list[int]) -> None:
        for destination in reads:
            if destination not in waiting:  # else another query head of the group was first
                waiting[destination] = iter(ranking.by_destination[destination].tolist())
                push_next(destination)

    add_node([graph.n_destinations - 1])
    nodes = {0}
    added = []
    while len(added) < k:
        rank, destination = heapq.heappop(heap)
        added.append(rank)
        push_next(destination)
        if (source := ranking.sources[rank]) not in nodes:
            nodes.add(source)
            add_node(graph.destinations_of(source))
    chosen = torch.zeros(len(values), dtype=torch.bool, device="cpu")
    chosen[ranking.edges[added]] = True
    return chosen


class _Ranking(NamedTuple):
    """Edges by rank, 0 the best.

    Attributes:
        edges: The edge of each rank, as a place in edge order.
        sources: The source of each rank's edge.
        by_destination: The ranks of the edges into each destination, best first.
    """

    edges: Int[Tensor, "edge"]
    sources: list[int]
    by_destination: tuple[Int[Tensor, "_"], ...]


def _ranked(graph: Graph, values: Float[Tensor, "edge"]) -> _Ranking:
    """Rank edges by value; of equal ones the earlier is better."""
    edges = values.sort(descending=True, stable=True).indices
    destinations = torch.arange(graph.n_destinations, device="cpu").repeat_interleave(graph.n_visible)[edges]
    first_edges = graph.n_visible.cumsum(0) - graph.n_visible
    sources = (edges - first_edges[destinations]).tolist()
    by_destination = destinations.sort(stable=True).indices.split(graph.n_visible.tolist())
    return _Ranking(edges, sources, by_destination)
