"""Circuits of transformers: what they are, and how a model runs as one.

    from edge_circuits.graphs import Graph, PromptPairs, prune, render, run

nodes, graph (the immutable topology) <- scores <- circuit, pruning <- files and drawing; model/ reads a model, prompts/ its
prompts, running/ runs it with edges cut, measures/ says how good a circuit is. Names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_circuits.graphs.lazy_names import lazy_names

if TYPE_CHECKING:
    from edge_circuits.graphs.by_span import SpanCircuit, SpanScores, prune_spans
    from edge_circuits.graphs.circuit import Circuit
    from edge_circuits.graphs.drawing.rendering import render
    from edge_circuits.graphs.graph import Graph
    from edge_circuits.graphs.measures.quality import measure
    from edge_circuits.graphs.prompts.pairs import PromptPairs
    from edge_circuits.graphs.pruning import prune
    from edge_circuits.graphs.running.circuit_model import as_model
    from edge_circuits.graphs.running.execution import run
    from edge_circuits.graphs.scores import ScoredGraph

__all__ = [
    "Circuit",
    "Graph",
    "PromptPairs",
    "ScoredGraph",
    "SpanCircuit",
    "SpanScores",
    "as_model",
    "measure",
    "prune",
    "prune_spans",
    "render",
    "run",
]

__getattr__, __dir__ = lazy_names(__name__)
