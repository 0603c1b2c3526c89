"""ACDC over nodes, against the plain sweep that cuts one node after the other."""

from __future__ import annotations

import pytest
import torch
from models import logit_difference
from plain_sweep import objective

import edge_circuits as ec


@torch.no_grad()
def plain(model, graph, pairs, metric, threshold, intervention):
    """Name, objective before and after, kept: nodes from the end, a layer's MLP before its heads."""

    def mask_without(gone):
        return graph.mask_of(edge for edge in graph.edges if edge.split("->")[0] not in gone)

    def from_the_end(name):
        return -int(name[1:].split(".")[0]), name[0] == "a", int(name.split(".h")[1]) if name[0] == "a" else 0

    gone, rows = set(), []
    value = objective(model, graph, graph.edge_mask, pairs, metric, intervention)
    for node in sorted(graph.sources[1:], key=from_the_end):
        after = objective(model, graph, mask_without(gone | {node}), pairs, metric, intervention)
        kept = not after - value < threshold
        rows.append([node, value, after, kept])
        gone, value = (gone, value) if kept else (gone | {node}, after)
    return rows


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("metric, threshold", [("kl", 0.02), (logit_difference, 3.5)])
@pytest.mark.parametrize("intervention", ["patching", "zero"])
def test_trained_model(trained, metric, threshold, intervention):
    model, pairs = trained
    circuit = ec.discover_nodes(model, pairs, metric, threshold, intervention=intervention, batch_size=4, quiet=True)
    expected = plain(model, circuit.graph, pairs, metric, threshold, intervention)
    decisions = circuit.metadata["decisions"]
    assert [(row[0], row[3]) for row in decisions] == [(row[0], row[3]) for row in expected]
    for row, other in zip(decisions, expected):
        assert row[1:3] == pytest.approx(other[1:3], abs=1e-12)
    kept = [row[0] for row in expected if row[3]]
    assert 0 < len(kept) < len(expected)
    assert circuit == ec.prune_nodes(scores_of(circuit.graph, kept), len(kept))


def scores_of(graph, names):
    from edge_circuits.graphs.node_circuits import ScoredNodes

    return ScoredNodes(graph, torch.tensor([float(name in names) for name in graph.sources[1:]]))


def test_its_edges_may_be_refined_next(trained, tmp_path):
    model, pairs = trained
    nodes = ec.discover_nodes(model, pairs, "kl", 0.02, quiet=True)
    nodes.save(tmp_path / "nodes.json")
    assert ec.Circuit.load(tmp_path / "nodes.json").metadata == nodes.metadata
    edges = ec.refine(model, nodes, pairs, "kl", 0.02, quiet=True)
    assert 0 < edges.n_edges < nodes.n_edges and not (edges - nodes).n_edges


@pytest.mark.usefixtures("without_type_checks")
def test_thresholds_at_the_ends(trained):
    model, pairs = trained
    nothing = ec.discover_nodes(model, pairs, "kl", float("inf"), quiet=True)
    assert nothing.edges == ("input->logits",)
    with pytest.raises(ValueError, match="threshold: expected a number from 0"):
        ec.discover_nodes(model, pairs, "kl", -1.0)
