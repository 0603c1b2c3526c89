"""Scores for the edges and nodes of a model: attribution patching, edge-RelP and their relatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_circuits.graphs.lazy_names import lazy_names

if TYPE_CHECKING:
    from edge_circuits.eap.averaging import mean_scores
    from edge_circuits.eap.between_spans import Crossing, crossing
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
    from edge_circuits.eap.node_scores import score_nodes
    from edge_circuits.eap.scoring import score
    from edge_circuits.eap.verification import verify

__all__ = [
    "EAP",
    "Blend",
    "CleanCorrupted",
    "Crossing",
    "Exact",
    "HeadImportance",
    "InformationFlow",
    "IntegratedGradients",
    "LearnedMask",
    "Method",
    "Random",
    "RelP",
    "TopKMask",
    "crossing",
    "error_bars",
    "mean_scores",
    "score",
    "score_groups",
    "score_nodes",
    "verify",
]

__getattr__, __dir__ = lazy_names(__name__)
