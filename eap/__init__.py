"""Scores for the edges and nodes of a model: attribution patching, edge-RelP and their relatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_circuits.graphs.lazy_names import lazy_names

if TYPE_CHECKING:
    from edge_circuits.eap.intervals import error_bars, score_groups
    from edge_circuits.eap.node_scores import score_nodes
    from edge_circuits.eap.relp_rules import RelPRules
    from edge_circuits.eap.scoring import score
    from edge_circuits.eap.verification import verify

__all__ = ["RelPRules", "error_bars", "score", "score_groups", "score_nodes", "verify"]

_MODULES = {
    "RelPRules": "relp_rules",
    "error_bars": "intervals",
    "score": "scoring",
    "score_groups": "intervals",
    "score_nodes": "node_scores",
    "verify": "verification",
}
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
