"""Scores for the edges of a model: edge attribution patching and its relatives."""

from eap.rules import RelPRules
from eap.score import score

__all__ = ["RelPRules", "score"]
