"""What the sign of a score says of an edge, in one place and in words.

A score is what cutting the edge does to the metric. So an edge with a negative score helps: without it the metric is lower. One
with a positive score hurts. Scores of some methods are sizes alone and say neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

Effect = Literal["helps", "hurts"]


def effect_of(score: float | None) -> Effect | None:
    """What a signed score says of its edge; None for 0, which says nothing."""
    return None if not score else "helps" if score < 0 else "hurts"


def has_sign(scores: Float[Tensor, "source destination *span"] | None, metadata: Mapping[str, Any]) -> bool:
    """Whether scores have a sign that means something: their metadata says so, or else some are below 0."""
    if scores is None:
        return False
    said = metadata.get("signed")
    return said if isinstance(said, bool) else bool((scores < 0).any())
