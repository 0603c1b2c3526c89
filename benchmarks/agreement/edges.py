"""Edge scores held against exact edge patching: all edges, and by what they end at.

    classes = edge_classes(graph)             # masks: all, q, k, v, mlp, logits, input
    eap, exact = (score_groups(subject, method, parts, settings) for method in ("eap", "exact"))
    compare(subject, eap, exact, settings).classes["k"].pearson

Scores are taken on groups of prompts and are means over prompts, so the groups, weighted by their sizes, add up to all
prompts exactly, and the bootstrap can draw among them. "hisp" does not add up, since it takes an absolute value of
a sum; it scores all prompts at once, without an interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits import eap
from edge_circuits.benchmarks.output.cache import SavedParts, code_digest, model_digest
from edge_circuits.benchmarks.problems.any_model import Subject
from edge_circuits.eap.methods.lookup import find, known
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.graphs import Graph, PromptPairs, ScoredGraph
from edge_circuits.graphs.correlation import N_RESAMPLES, Agreement, agreement
from edge_circuits.graphs.model.adapter import adapt
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

    def groups(self, pairs: PromptPairs, method: str = EXACT) -> list[PromptPairs]:
        """The prompts in groups of nearly equal size, each a mixture; all together for a method that does not add up."""
        return pairs.groups(self.n_groups if adds_up(method) else 1)


@dataclass(frozen=True, eq=False)
class Scores:
    """A method's scores of every edge.

    Attributes:
        method: Its name.
        per_group: Sums over the prompts of each group. [group source destination]
        mean: Means over all prompts. [source destination]
        seconds: What scoring took, all groups together.
    """

    method: str
    per_group: Float[Tensor, "group source destination"]
    mean: Float[Tensor, "source destination"]
    seconds: float


@dataclass(frozen=True, eq=False)
class Compared:
    """How a method agrees with exact patching, by class of edges."""

    subject: Subject
    scores: Scores
    by_size: bool
    classes: dict[str, Agreement]


def method_names() -> tuple[str, ...]:
    """All methods of `eap.score` that estimate exact patching, RelP with other rules behind RelP."""
    names = [name for name in known() if name != EXACT]
    after = names.index("relp") + 1
    return (*names[:after], *RULES, *names[after:])


def named(method: str) -> Method:
    """The method of a name, those of `RULES` too."""
    return RULES[method] if method in RULES else find(method)


def adds_up(method: str) -> bool:
    """Whether its scores of groups of prompts add up to those of all; random scores are taken to."""
    return named(method).additive or method == "random"


def edge_classes(graph: Graph) -> dict[str, Bool[Tensor, "source destination"]]:
    """Masks by class: "all"; then, parting all edges, those out of `input` and the others by their destination.

    Destinations are "q", "k", "v", "mlp" and "logits"; a class without edges is left out.
    """
    masks = {ALL: graph.edge_mask}
    from_input = torch.zeros_like(graph.edge_mask)
    from_input[0] = True
    kinds = [_kind(name) for name in graph.destinations]
    for kind in ("q", "k", "v", "mlp", "logits"):
        masks[kind] = graph.edge_mask & torch.tensor([of == kind for of in kinds]) & ~from_input
    masks[INPUT] = graph.edge_mask & from_input
    return {name: mask for name, mask in masks.items() if mask.any()}


def score_groups(
    subject: Subject, method: str, parts: SavedParts, settings: Settings, step: Callable[[], None] = lambda: None
) -> Scores:
    """A method's scores, group by group; parts of an earlier run are taken from where they are kept.

    Raises:
        ValueError: The method cannot be asked of this model or with this metric, or there is no such method.
    """
    groups, model, scored = settings.groups(subject.pairs, method), model_digest(subject.model), []
    for group in groups:
        key = {
            "model": model,
            "pairs": group.digest,
            "method": method,
            "metric": subject.metric_name,
            "code": code_digest(),
        }
        label = f"{subject.stem}-{method}-{subject.metric_name}"
        scored.append(parts.get(label, key, lambda group=group: _score(subject, group, method)))
        step()
    per_group = torch.stack([part.scores.double() * len(group) for part, group in zip(scored, groups)])
    seconds = sum(part.metadata["seconds"] for part in scored)
    return Scores(method, per_group, per_group.sum(0) / len(subject.pairs), seconds)


def compare(subject: Subject, scores: Scores, exact: Scores, settings: Settings = Settings()) -> Compared:
    """Correlations of a method with exact patching, class by class; scores without a sign by size."""
    sides = [each.per_group / len(subject.pairs) for each in (scores, exact)]
    if len(sides[0]) != len(sides[1]):  # a method that does not add up
        sides = [side.sum(0, keepdim=True) for side in sides]
    by_size = not named(scores.method).signed
    drawn = {"n_resamples": settings.n_resamples, "seed": settings.seed, "by_size": by_size}
    classes = {
        name: agreement(*(side[:, mask] for side in sides), **drawn)
        for name, mask in edge_classes(subject.graph).items()
    }
    return Compared(subject, scores, by_size, classes)


@torch.no_grad()
def interpolated(subject: Subject, edge: str, shares: Sequence[float]) -> Float[Tensor, "share"]:
    """The mean metric when an edge is cut by a share: its destination reads (1 - share) clean + share corrupted.

    At 0 this is the clean model, at 1 the edge is cut; the difference is the edge's exact score.

    Raises:
        ValueError: There is no such edge.

    Reference: Syed, Rager and Conmy 2023, Figure 5.
    """
    transformer = adapt(subject.model)
    graph, where = transformer.graph, transformer.graph.edge_index(edge)
    batches = [batch.to(transformer.device) for batch in subject.pairs.batches(max_tokens=MAX_TOKENS)]
    cuts, values = cut_values(transformer, batches, "patching"), []
    for share in shares:
        kept = graph.edge_mask.to(transformer.device, transformer.dtype)
        kept[where] = 1 - share
        plan = make_plan(graph, kept, "patching")
        total = sum(
            subject.metric(run_batch(transformer, plan, batch, cuts(batch)), batch).sum().item() for batch in batches
        )
        values.append(total / len(subject.pairs))
    return torch.tensor(values, dtype=torch.float64)


def telling_edges(exact: Scores, estimate: Scores, graph: Graph) -> list[str]:
    """Edges to show: the largest effect up and down, and the largest error of an estimate, each once."""
    exact_values, error = exact.mean[graph.edge_mask], (estimate.mean - exact.mean)[graph.edge_mask].abs()
    where = graph.edge_mask.nonzero()
    places = [int(at) for at in (exact_values.argmax(), exact_values.argmin(), error.argmax())]
    names = [
        f"{graph.sources[source]}->{graph.destinations[destination]}" for source, destination in where[places].tolist()
    ]
    return list(dict.fromkeys(names))


def _kind(destination: str) -> str:
    if destination == "logits":
        return "logits"
    return "mlp" if destination.startswith("m") else destination[-2]


def _score(subject: Subject, group: PromptPairs, method: str) -> ScoredGraph:
    """Scores of one group, with the seconds they took in the metadata."""
    start = time.perf_counter()
    scored = eap.score(subject.model, group, subject.metric, named(method), quiet=True)
    return ScoredGraph(scored.graph, scored.scores, {**scored.metadata, "seconds": time.perf_counter() - start})
