"""Blend: small effects by the gradient, large ones by relevance propagation, each exactly through its destination.

Cutting an edge of small effect does what the local gradient says, so gradients have the ranks of most edges right. An edge of
large effect changes what lies beyond, where coefficients of relevance propagation, which are those of the whole way to zero,
are nearer than a slope; but they are wrong about small effects by more than these are. So, with g by the gradient and r by
relevance propagation (both through the whole destination and along the metric's curve, both over all prompts),

    score = g + w (r - g),   w = r^2 / (r^2 + (share max |r|)^2)

Two forward and two backward passes beside that on the corrupted prompts, and as many again where the metric is not linear; what
the edges' changes do inside of a destination is computed once for both, since it does not depend on the coefficients. The
means over prompts are joined, not each prompt's scores: what tells small effects from large ones is then less noisy.

This combination is the project's own; it has no published counterpart that we know of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.destinations import Reader, check_reader
from edge_circuits.eap.exact_norm import N_EXACT
from edge_circuits.eap.gradient_method import scores_together
from edge_circuits.eap.methods.edge_attribution_patching import EAP
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.graphs import Graph, PromptPairs
from edge_circuits.graphs.checks import number
from edge_circuits.graphs.model.transformer import Transformer


@dataclass(frozen=True)
class Blend(Method):
    """Gradient and relevance propagation, each where it is nearer to the effect.

    Attributes:
        reader: how an edge's change passes the destination that it enters; see `edge_circuits.eap.destinations`.
        exact_sources: how many of a destination's sources are taken exactly at a token; see `EAP`.
        share: of the largest score by relevance propagation, where both count alike.
    """

    short_names: ClassVar = {"blend": {}}

    reader: Reader = "exact"
    exact_sources: int = N_EXACT
    share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        number("share", self.share, above=0)
        EAP(reader=self.reader, exact_sources=self.exact_sources)

    def check_model(self, transformer: Transformer) -> None:
        """Refuse a reader for which the model has no place."""
        super().check_model(transformer)
        check_reader(self.reader, transformer)

    @property
    def members(self) -> tuple[EAP, RelP]:
        """The two that are joined: by gradient, by relevance propagation."""
        settings = dict(reader=self.reader, exact_sources=self.exact_sources, metric_as="curve")
        return EAP(**settings), RelP(**settings)

    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination member"]:
        """Both members' scores, summed over the batch; positive: cutting the edge raises the metric."""
        return scores_together(self.members, job, batch).movedim(0, -1)

    def joined(self, each: Float[Tensor, "*group source destination member"], graph: Graph) -> Tensor:
        """Their blend, with weights by what relevance propagation says of all groups together."""
        by_gradient, by_relevance = each.unbind(-1)
        total = by_relevance.flatten(0, -3).sum(0) if each.dim() > 3 else by_relevance
        turn = self.share * total.abs().max()
        size = total.square() + turn.square()
        weight = total.square() / size.masked_fill(size == 0, 1)
        return by_gradient + weight * (by_relevance - by_gradient)
