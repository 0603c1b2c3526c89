"""Head importance score for pruning (HISP), carried from nodes to edges.

A node's importance is |sum over positions of (its cut minus its clean value) . gradient|, which equals the absolute
sum of its out-edges' EAP scores; with `zero` ablation this is the sensitivity of the original. An edge is as
important as the less important of its two nodes, as an edge is kept when both its nodes are; `input` and `logits`
never limit.

Deviation: the absolute value is taken of the mean over all prompts, not of each prompt.

Reference: Michel, Levy and Neubig 2019, equation 2; Conmy et al. 2023, section 4, for its use on circuits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.edge_attribution_patching import EAP
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import Graph, PromptPairs


@dataclass(frozen=True)
class HeadImportance(Method):
    """Edge importance, never negative."""

    short_names: ClassVar = {"hisp": {}}
    signed: ClassVar = False
    not_additive: ClassVar = "it takes an absolute value of a mean over prompts"

    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
        """EAP's scores, summed over the batch."""
        return EAP().scores(job, batch)

    def joined(self, each: Float[Tensor, "source destination"], graph: Graph) -> Float[Tensor, "source destination"]:
        """Importance, from EAP's scores over all prompts."""
        importance = each.sum(1).abs()
        importance[0] = torch.inf
        of_destination = importance.new_full((graph.n_destinations,), torch.inf)
        for source in range(1, graph.n_sources):
            own = list(graph.destinations_of(source))
            known = of_destination[own]
            of_destination[own] = torch.where(
                known.isinf(), importance[source], torch.maximum(known, importance[source])
            )
        edges = torch.minimum(importance[:, None], of_destination)
        unlimited = edges.isinf()  # input -> logits
        edges[unlimited] = edges[~unlimited].max() if (~unlimited).any() else 0.0
        return edges * graph.edge_mask.to(edges.device)
