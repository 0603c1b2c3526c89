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

__getattr__, __dir__ = lazy_names(__name__)
