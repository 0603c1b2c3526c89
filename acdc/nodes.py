"""ACDC over nodes: heads and MLPs are cut from everything, one after the other, while the objective can do without.

1. Nodes are visited from the last layer to the first, the MLP of a layer before its heads, heads ascending.
2. A node is cut for good when the objective rises by less than the threshold; the objective then has its new value.

With at most a few hundred nodes each is tried alone, by a run of the circuit that is left, which gets cheaper as nodes go.
The edges of what stays may be refined next (`edge_circuits.acdc.refine`).

Reference: Conmy et al. 2023, Towards Automated Circuit Discovery, section 3, where nodes of any kind may stand in the graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from edge_circuits.acdc import order as orders
from edge_circuits.acdc.search import Search
from edge_circuits.acdc.trace import is_kept
from edge_circuits.graphs import Circuit, PromptPairs
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.node_circuits import node_circuit
from edge_circuits.graphs.surroundings import in_plain_surroundings


@in_plain_surroundings
@torch.no_grad()
def discover_nodes(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    threshold: float,
    *,
    quiet: bool = False,
    **settings: Any,
) -> Circuit:
    """The nodes that ACDC leaves, as the circuit of all edges between them.

    Args:
        model: A TransformerLens model; left unchanged.
        pairs: Clean prompts, and corrupted ones to cut to.
        metric: As in `discover`.
        threshold: Tau, in the unit of the metric, from 0 to infinity.
        quiet: No progress bar.
        **settings: As in `discover`, but for `order` and `stacked_tokens`.

    Returns:
        The circuit. Its `metadata["decisions"]` has a row a node, as tried: name, objective before and after, kept.

    Raises:
        ValueError: As `discover`.
    """
    search = Search(model, pairs, metric, settings, thresholds=[threshold])
    graph, kept, value = search.graph, torch.ones(search.graph.n_sources, dtype=torch.bool), search.start_value
    decisions = []
    for node in tqdm(list(orders.sources(graph, graph.n_destinations - 1))[:-1], desc="nodes", disable=quiet):
        kept[node] = False
        after = search.value_of(node_circuit(graph, kept).mask, f"{graph.sources[node]} cut")
        kept[node] = is_kept(value, after, threshold, search.settings.change)
        decisions.append([graph.sources[node], value, after, bool(kept[node])])
        value = value if kept[node] else after
    found = {"method": "acdc over nodes", **search.origin, "threshold": threshold, "change": search.settings.change}
    found = {name: each for name, each in found.items() if name not in ("order", "stacked_tokens")}
    return node_circuit(graph, kept, {**found, "objective": value, "decisions": decisions})
