"""Edge scores held against exact edge patching: all edges, and by what they end at.

    classes = edge_classes(graph)             # masks: all, q, k, v, mlp, logits, input
    compare("eap", scored, exact, settings).classes["k"].pearson

Scores come group of prompts by group (`edge_circuits.benchmarks.group_scores`), and the bootstrap draws among the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.eap.methods.lookup import find, known
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.graphs import Graph, ScoredGraph
from edge_circuits.graphs.bootstrap import N_RESAMPLES
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.correlation import Agreement, agreement
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.nodes import parse_destination
from edge_circuits.graphs.running.execution import MAX_TOKENS, run_batch
from edge_circuits.graphs.running.patching import cut_values
from edge_circuits.graphs.running.plan import make_plan

EXACT = "exact"
ALL, INPUT = "all", "input"
RULES = {
    "relp+ah": RelP(attention="ah"),
    "relp+attnlrp": RelP(attention="attnlrp"),
    "relp+secant": RelP(attention="secant"),
    "relp+norm": RelP(reader="norm"),
    "relp+softmax": RelP(reader="softmax"),
}
"""RelP with one choice that is not its own; "relp" is RelP's own."""


@dataclass(frozen=True)
class Settings:
    """What a comparison is made with.

    Attributes:
        n_groups: Groups of prompts from which the bootstrap draws; one prompt a group if there are fewer prompts.
        n_resamples: Draws of the bootstrap.
        seed: Of the bootstrap.
    """

    n_groups: int = 20
    n_resamples: int = N_RESAMPLES
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Compared:
    """How a method agrees with exact patching, by class of edges.

    Attributes:
        method: Its name.
        scored: Its scores.
        by_size: Whether they have no sign, so that sizes are compared.
        classes: A class of edges -> agreement.
    """

    method: str
    scored: ScoredGraph
    by_size: bool
    classes: dict[str, Agreement]

    @property
    def n_groups(self) -> int:
        """Groups of prompts that the scores are made of."""
        return 1 if self.scored.per_group is None else len(self.scored.per_group)

    @property
    def seconds(self) -> float:
        """What scoring took."""
        return self.scored.metadata["seconds"]


def method_names() -> tuple[str, ...]:
    """All methods of `eap.score` that estimate exact patching, RelP with other rules behind RelP."""
    names = [name for name in known() if name != EXACT]
    after = names.index("relp") + 1
    return (*names[:after], *RULES, *names[after:])


def named(method: str) -> Method:
    """The method of a name, with settings behind a colon, or of `RULES`.

    Raises:
        ValueError: There is none, or it is exact patching itself.
    """
    if method.split(":")[0] not in method_names():
        raise refusal("method", f"one of {', '.join(method_names())}", repr(method), f"all are held against {EXACT}")
    return RULES[method] if method in RULES else find(method)


def edge_classes(graph: Graph) -> dict[str, Bool[Tensor, "source destination"]]:
    """Masks by class: "all"; then, parting all edges, those out of `input` and the others by their destination.

    Destinations are "q", "k", "v", "mlp" and "logits"; a class without edges is left out.
    """
    masks = {ALL: graph.edge_mask}
    from_input = torch.zeros_like(graph.edge_mask)
    from_input[0] = True
    kinds = [node.part or node.kind for node in map(parse_destination, graph.destinations)]
    for kind in ("q", "k", "v", "mlp", "logits"):
        masks[kind] = graph.edge_mask & torch.tensor([of == kind for of in kinds]) & ~from_input
    masks[INPUT] = graph.edge_mask & from_input
    return {name: mask for name, mask in masks.items() if mask.any()}


def compare(method: str, scored: ScoredGraph, exact: ScoredGraph, settings: Settings = Settings()) -> Compared:
    """Correlations of a method with exact patching, class by class; scores without a sign by size."""
    sides, by_size = grouped(scored, exact), not named(method).signed
    drawn = {"n_resamples": settings.n_resamples, "seed": settings.seed, "by_size": by_size}
    classes = {
        name: agreement(*(side[:, mask] for side in sides), **drawn) for name, mask in edge_classes(exact.graph).items()
    }
    return Compared(method, scored, by_size, classes)


def grouped(scored: ScoredGraph, exact: ScoredGraph) -> list[Float[Tensor, "group source destination"]]:
    """What each group of prompts adds to either; all prompts are one group where a method does not add up over prompts."""
    sides = [each.scores[None] if each.per_group is None else each.per_group for each in (scored, exact)]
    if len(sides[0]) != len(sides[1]):
        sides = [side.double().sum(0, keepdim=True) for side in sides]
    return sides


@torch.no_grad()
def interpolated(problem: Problem, edge: str, shares: Sequence[float]) -> Float[Tensor, "share"]:
    """The mean metric when an edge is cut by a share: its destination reads (1 - share) clean + share corrupted.

    At 0 this is the clean model, at 1 the edge is cut; the difference is the edge's exact score.

    Raises:
        ValueError: There is no such edge.

    Reference: Syed, Rager and Conmy 2023, Figure 5.
    """
    transformer, metric = adapt(problem.model), problem.metric
    graph, where = transformer.graph, transformer.graph.edge_index(edge)
    batches = [batch.to(transformer.device) for batch in problem.pairs.batches(max_tokens=MAX_TOKENS)]
    cuts, values = cut_values(transformer, batches, "patching"), []
    for share in shares:
        kept = graph.edge_mask.to(transformer.device, transformer.dtype)
        kept[where] = 1 - share
        plan = make_plan(graph, kept, "patching")
        total = sum(metric(run_batch(transformer, plan, batch, cuts(batch)), batch).sum().item() for batch in batches)
        values.append(total / len(problem.pairs))
    return torch.tensor(values, dtype=torch.float64)


def telling_edges(exact: ScoredGraph, estimate: ScoredGraph) -> list[str]:
    """Edges to show: the largest effect up and down, and the largest error of an estimate, each once."""
    values, error = exact.values, (estimate.values - exact.values).abs()
    places = torch.stack([values.argmax(), values.argmin(), error.argmax()])
    return list(dict.fromkeys(exact.graph.names_at(places)))
