"""Exact patching of nodes: each head and MLP cut from everything, alone, and the metric measured.

Reference: Wang et al. 2023, Interpretability in the Wild, and Zhang and Nanda 2024, Towards Best Practices of Activation
Patching (noising, over all positions at once).
"""

from __future__ import annotations

import torch
from torch import nn

from edge_circuits.graphs import Graph, PromptPairs
from edge_circuits.graphs.graph import KVDestinations
from edge_circuits.graphs.measures.values import values_of
from edge_circuits.graphs.metrics import Metric, metric_name
from edge_circuits.graphs.node_circuits import ScoredNodes, node_circuit
from edge_circuits.graphs.running.patching import Intervention
from edge_circuits.graphs.surroundings import in_plain_surroundings


@in_plain_surroundings
def patch_nodes(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    intervention: Intervention = "patching",
    *,
    kv_destinations: KVDestinations = "query-head",
    batch_size: int | None = None,
) -> ScoredNodes:
    """What cutting each head and MLP from everything adds to the metric, the mean over prompts; a pass a node.

    Args:
        model: A TransformerLens model; left unchanged.
        pairs: The prompts.
        metric: `metric(logits, pairs)`, one value a prompt, or a metric's name.
        intervention: What whatever reads the node reads instead.
        kv_destinations: As in `score`.
        batch_size: Prompts in a batch; by default as many as fit in 4,096 tokens.

    Raises:
        ValueError: As `measure`.
    """
    graph = Graph.from_model(model, kv_destinations)
    without = [node_circuit(graph, torch.arange(graph.n_sources) != node) for node in range(1, graph.n_sources)]
    values = values_of(model, without, pairs, metric, intervention, batch_size=batch_size)
    metadata = {"method": "exact", "metric": metric if isinstance(metric, str) else metric_name(metric)}
    settings = {"intervention": str(intervention), "n_prompts": len(pairs)}
    return ScoredNodes(graph, (values.metric - values.ends.clean).mean(1), {**metadata, "settings": settings})
