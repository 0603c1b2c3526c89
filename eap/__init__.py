"""Scores for the edges and nodes of a model: attribution patching, edge-RelP and their relatives."""

from eap.nodes import score_nodes
from eap.rules import RelPRules
from eap.score import score

__all__ = ["RelPRules", "score", "score_nodes"]
