"""Edge-level circuits of transformer language models: score every edge, prune, refine, run, measure, draw.

    import edge_circuits as ec

    model = ec.open_model("gpt2")
    scores = ec.score(model, pairs, "logit_difference", "relp")
    circuit = ec.prune(scores, k=200)
    ec.render(circuit, "circuit.svg")

The parts are `edge_circuits.graphs`, `.eap`, `.acdc` and `.benchmarks`. Names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_circuits.graphs.lazy_names import lazy_names

if TYPE_CHECKING:
    from edge_circuits.acdc.by_span import SpanSweep, discover_spans
    from edge_circuits.acdc.discovery import discover, refine
    from edge_circuits.acdc.nodes import discover_nodes
    from edge_circuits.acdc.threshold_sweep import sweep
    from edge_circuits.benchmarks.problems.opening import open_model
    from edge_circuits.eap.attending import Attending, why_attends
    from edge_circuits.eap.averaging import mean_scores
    from edge_circuits.eap.between_spans import Crossing, crossing
    from edge_circuits.eap.feature_edges import score_feature_edges
    from edge_circuits.eap.feature_scores import score_features
    from edge_circuits.eap.intervals import error_bars, score_groups
    from edge_circuits.eap.methods.blend import Blend
    from edge_circuits.eap.methods.clean_corrupted import CleanCorrupted
    from edge_circuits.eap.methods.edge_attribution_patching import EAP
    from edge_circuits.eap.methods.exact import Exact
    from edge_circuits.eap.methods.head_importance import HeadImportance
    from edge_circuits.eap.methods.information_flow import InformationFlow
    from edge_circuits.eap.methods.integrated_gradients import IntegratedGradients
    from edge_circuits.eap.methods.learned_mask import LearnedMask
    from edge_circuits.eap.methods.method import Method
    from edge_circuits.eap.methods.random_scores import Random
    from edge_circuits.eap.methods.relp import RelP
    from edge_circuits.eap.methods.top_k_mask import TopKMask
    from edge_circuits.eap.node_patching import patch_nodes
    from edge_circuits.eap.node_scores import score_nodes
    from edge_circuits.eap.position_map import PositionMap, position_map
    from edge_circuits.eap.scoring import score
    from edge_circuits.eap.verification import verify
    from edge_circuits.graphs.by_span import SpanCircuit, SpanScores, prune_spans
    from edge_circuits.graphs.circuit import Circuit
    from edge_circuits.graphs.drawing.rendering import render
    from edge_circuits.graphs.features.dictionary import Dictionary, experts, heads, neurons
    from edge_circuits.graphs.features.drawing import render_features, token_labels
    from edge_circuits.graphs.features.measuring import feature_curves
    from edge_circuits.graphs.features.reading import read_dictionaries
    from edge_circuits.graphs.features.running import run_features
    from edge_circuits.graphs.graph import Graph
    from edge_circuits.graphs.measures.curves import curves
    from edge_circuits.graphs.measures.quality import measure
    from edge_circuits.graphs.node_circuits import prune_nodes
    from edge_circuits.graphs.prompts.pairs import PromptPairs
    from edge_circuits.graphs.pruning import prune
    from edge_circuits.graphs.running.circuit_model import as_model
    from edge_circuits.graphs.running.execution import run
    from edge_circuits.graphs.running.means import Mean, MeanPositional
    from edge_circuits.graphs.scores import ScoredGraph
    from edge_circuits.page.feature_page import write_feature_page
    from edge_circuits.page.report import write_page

__all__ = [
    "EAP",
    "Attending",
    "Blend",
    "Circuit",
    "CleanCorrupted",
    "Crossing",
    "Dictionary",
    "Exact",
    "Graph",
    "HeadImportance",
    "InformationFlow",
    "IntegratedGradients",
    "LearnedMask",
    "Mean",
    "MeanPositional",
    "Method",
    "PositionMap",
    "PromptPairs",
    "Random",
    "RelP",
    "ScoredGraph",
    "SpanCircuit",
    "SpanScores",
    "SpanSweep",
    "TopKMask",
    "as_model",
    "crossing",
    "curves",
    "discover",
    "discover_nodes",
    "discover_spans",
    "error_bars",
    "experts",
    "feature_curves",
    "heads",
    "mean_scores",
    "measure",
    "neurons",
    "open_model",
    "patch_nodes",
    "position_map",
    "prune",
    "prune_nodes",
    "prune_spans",
    "read_dictionaries",
    "refine",
    "render",
    "render_features",
    "run",
    "run_features",
    "score",
    "score_feature_edges",
    "score_features",
    "score_groups",
    "score_nodes",
    "sweep",
    "token_labels",
    "verify",
    "why_attends",
    "write_feature_page",
    "write_page",
]

_MODULES = {
    "Attending": "eap.attending",
    "Blend": "eap.methods.blend",
    "Circuit": "graphs.circuit",
    "CleanCorrupted": "eap.methods.clean_corrupted",
    "Crossing": "eap.between_spans",
    "Dictionary": "graphs.features.dictionary",
    "EAP": "eap.methods.edge_attribution_patching",
    "Exact": "eap.methods.exact",
    "Graph": "graphs.graph",
    "HeadImportance": "eap.methods.head_importance",
    "InformationFlow": "eap.methods.information_flow",
    "IntegratedGradients": "eap.methods.integrated_gradients",
    "LearnedMask": "eap.methods.learned_mask",
    "Mean": "graphs.running.means",
    "MeanPositional": "graphs.running.means",
    "Method": "eap.methods.method",
    "PositionMap": "eap.position_map",
    "PromptPairs": "graphs.prompts.pairs",
    "Random": "eap.methods.random_scores",
    "RelP": "eap.methods.relp",
    "ScoredGraph": "graphs.scores",
    "SpanCircuit": "graphs.by_span",
    "SpanScores": "graphs.by_span",
    "SpanSweep": "acdc.by_span",
    "TopKMask": "eap.methods.top_k_mask",
    "as_model": "graphs.running.circuit_model",
    "crossing": "eap.between_spans",
    "curves": "graphs.measures.curves",
    "discover": "acdc.discovery",
    "discover_nodes": "acdc.nodes",
    "discover_spans": "acdc.by_span",
    "error_bars": "eap.intervals",
    "experts": "graphs.features.dictionary",
    "feature_curves": "graphs.features.measuring",
    "heads": "graphs.features.dictionary",
    "mean_scores": "eap.averaging",
    "measure": "graphs.measures.quality",
    "neurons": "graphs.features.dictionary",
    "open_model": "benchmarks.problems.opening",
    "patch_nodes": "eap.node_patching",
    "position_map": "eap.position_map",
    "prune": "graphs.pruning",
    "prune_nodes": "graphs.node_circuits",
    "prune_spans": "graphs.by_span",
    "read_dictionaries": "graphs.features.reading",
    "refine": "acdc.discovery",
    "render": "graphs.drawing.rendering",
    "render_features": "graphs.features.drawing",
    "run": "graphs.running.execution",
    "run_features": "graphs.features.running",
    "score": "eap.scoring",
    "score_feature_edges": "eap.feature_edges",
    "score_features": "eap.feature_scores",
    "score_groups": "eap.intervals",
    "score_nodes": "eap.node_scores",
    "sweep": "acdc.threshold_sweep",
    "token_labels": "graphs.features.drawing",
    "verify": "eap.verification",
    "why_attends": "eap.attending",
    "write_feature_page": "page.feature_page",
    "write_page": "page.report",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
