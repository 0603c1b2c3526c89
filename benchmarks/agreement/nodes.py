"""Node scores held against exact node patching: residual stream, attention and MLP outputs, heads, at every position.

Both are those of `edge_circuits.eap.node_scores`, with its kinds of node and its signs.

Reference: Jafari et al. 2025, RelP, Figures 1, 2, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from jaxtyping import Float
from torch import Tensor

from edge_circuits.benchmarks.agreement.edges import Settings
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.eap.node_scores import Direction, NodeScores, score_nodes
from edge_circuits.graphs.correlation import Agreement, agreement

METHODS = ("eap", "relp")
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


@dataclass(frozen=True, eq=False)
class NodeAgreement:
    """How node scores agree with exact node patching.

    Attributes:
        per_kind: By kind of node, over all layers and positions (and heads).
        means: Scores, means over the prompts that have the position. [layer *head pos]
    """

    method: str
    direction: Direction
    per_kind: Mapping[str, Agreement]
    means: Mapping[str, Float[Tensor, "layer *head pos"]]


def compare_nodes(
    problem: Problem, direction: Direction, settings: Settings = Settings()
) -> tuple[dict[str, Tensor], list[NodeAgreement]]:
    """The means of exact patching by kind of node, and each method's agreement with it.

    Correlations are between means over all prompts, each position counted from the start of its prompt; a prompt adds
    nothing where it has no such position. Intervals are the bootstrap's over prompts.
    """
    asked = problem.model, problem.pairs, problem.metric
    exact = score_nodes(*asked, "exact", direction, heads=True, quiet=True)
    found = []
    for method in METHODS:
        scored = score_nodes(*asked, method, direction, quiet=True)
        drawn = {"n_resamples": settings.n_resamples, "seed": settings.seed}
        per_kind = {kind: agreement(*(_shares(of, kind) for of in (scored, exact)), **drawn) for kind in scored.kinds}
        found.append(NodeAgreement(method, direction, per_kind, _means(scored)))
    return _means(exact), found


def _means(scored: NodeScores) -> dict[str, Tensor]:
    return {kind: scored.mean(kind) for kind in scored.kinds}


def _shares(scored: NodeScores, kind: str) -> Float[Tensor, "pair value"]:
    """What each prompt adds to the mean over all."""
    per_prompt = scored.per_prompt[kind]
    return per_prompt.nan_to_num().flatten(1) / len(per_prompt)
