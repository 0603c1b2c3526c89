"""Checks of `verify` that look at single edges and positions; each says what it suspects.

They have their own way to a number: EAP's scores are the derivatives of `run` by soft gates, edge by edge; an exact score is
what `run` gives without the edge; the scores that are checked are those that their method gives again.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.scoring import score
from edge_circuits.graphs import Circuit, PromptPairs, ScoredGraph, run
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.nodes import parse_destination
from edge_circuits.graphs.running.execution import run_batch
from edge_circuits.graphs.running.patching import Intervention, cut_values
from edge_circuits.graphs.running.plan import make_plan

N_PROMPTS, N_EDGES = 8, 6
LEAST_SHARE = 1e-3  # of the largest score: a part whose scores are all smaller is compared in units of this

Found = tuple[str, float, str]
"""What was compared, the relative difference, and what is suspected if it is large."""


def method_of(graph: ScoredGraph) -> Method | None:
    """The method that scores say they were made with; None if they do not, or it cannot be asked again."""
    try:
        usual = find(str(graph.metadata["method"]))
    except (KeyError, ValueError):
        return None
    settings = {key: value for key, value in graph.metadata.get("settings", {}).items() if key in usual.settings}
    given = {key: value for key, value in settings.items() if value != usual.settings[key]}
    if any(isinstance(value, (dict, list)) for value in given.values()):  # a mask, which is kept as a digest
        return None
    return type(usual)(**({**type(usual).short_names.get(usual.name, {})} | given))


def soft_gates(
    model: nn.Module, graph: Graph, pairs: PromptPairs, metric: Metric, intervention: Intervention
) -> Iterator[Found]:
    """EAP's scores are minus the derivatives of `run` by a gate on each edge, at open gates."""
    pairs = pairs[:N_PROMPTS]
    transformer = adapt(model, kv_destinations=graph.kv_destinations)
    batches = [batch.to(transformer.device) for batch in pairs.batches()]
    gates = graph.edge_mask.to(transformer.device, transformer.dtype).requires_grad_()
    with torch.enable_grad():
        cuts = cut_values(transformer, batches, intervention)
        plan = make_plan(graph, gates)
        values = [metric(run_batch(transformer, plan, batch, cuts(batch)), batch) for batch in batches]
        (gradient,) = torch.autograd.grad(torch.cat(values).sum(), gates)
    expected = -(gradient * gates.detach()).cpu().double() / len(pairs)
    asked = dict(kv_destinations=graph.kv_destinations, intervention=intervention, quiet=True)
    found = score(model, pairs, metric, "eap", **asked).scores
    for part, difference in by_part(graph, found, expected):
        yield f"EAP against soft gates of run, into {part}", difference, f"gradients or changes at {part}, or run"


def without_an_edge(
    model: nn.Module, graph: Graph, pairs: PromptPairs, metric: Metric, sample: Tensor, intervention: Intervention
) -> Iterator[Found]:
    """Exact patching of an edge is `run` without it."""
    full, pairs = Circuit.full(graph), pairs[:N_PROMPTS]
    places = sample.nonzero()[:: max(1, int(sample.sum()) // N_EDGES)][:N_EDGES]
    chosen = torch.zeros_like(sample)
    chosen[places[:, 0], places[:, 1]] = True
    asked = dict(kv_destinations=graph.kv_destinations, intervention=intervention, quiet=True)
    exact = score(model, pairs, metric, Exact(chosen), **asked).scores
    with torch.no_grad():
        uncut, expected = _mean(model, full, pairs, metric, intervention), torch.zeros_like(exact)
        for source, destination in places.tolist():
            edge = Circuit.from_edges(graph, [graph.edge_name(source, destination)])
            without = _mean(model, full - edge, pairs, metric, intervention)
            expected[source, destination] = without - uncut
    size = max(0.01 * abs(uncut), float(expected.abs().max()))
    difference = float((exact - expected).abs().max()) / max(size, 1e-12)
    name = f"exact patching against run without the edge, {len(places)} edges"
    yield name, difference, "run of partial circuits, or exact"


def is_of(graph: ScoredGraph, pairs: PromptPairs) -> bool:
    """Whether scores say that they were made with as many prompts."""
    return graph.metadata.get("settings", {}).get("n_prompts") == len(pairs)


def again(model: nn.Module, graph: ScoredGraph, pairs: PromptPairs, metric: Metric) -> Iterator[Found]:
    """The scores are those that their own method gives on these prompts, if these are all of theirs.

    Scores that were measured exactly, all or for a budget, are not: they are measured again in a sample.
    """
    method, settings = method_of(graph), graph.metadata.get("settings", {})
    if method is None or method.takes_all or isinstance(method, Exact) or not is_of(graph, pairs):
        return
    asked = dict(intervention=settings.get("intervention", "patching"), quiet=True)
    found = score(model, pairs, metric, method, kv_destinations=graph.graph.kv_destinations, **asked)
    found = found.scores.masked_fill(graph.exact, 0)
    for part, difference in by_part(graph.graph, graph.scores.masked_fill(graph.exact, 0), found):
        suspected = f"scores of another model, metric or prompts, or columns that were moved at {part}"
        yield f"scores against {method.name} asked again, into {part}", difference, suspected


def answers_where_they_are_given(model: nn.Module, graph: Graph, pairs: PromptPairs) -> Iterator[Found]:
    """Nats by which the model likes the answers better one token later, where every answer is read before the prompt's end."""
    if pairs.answers is None or not bool((pairs.positions == pairs.lengths - 2).all()):
        return
    at, later = (_log_probability(model, graph, _read_at(pairs, pairs.positions + step)) for step in (0, 1))
    name = "nats by which the answers are likelier one token later"
    yield name, later - at, "answer positions that are one too early"


def by_part(graph: Graph, found: Tensor, expected: Tensor) -> Iterator[tuple[str, float]]:
    """The largest difference among the in-edges of each kind of destination, in units of the largest score there."""
    kinds = [parse_destination(name) for name in graph.destinations]
    names = [f"<{kind.part}>" if kind.part else ("MLPs" if kind.kind == "mlp" else "logits") for kind in kinds]
    found, expected = found.double().cpu(), expected.double().cpu()
    least = LEAST_SHARE * expected.abs().max()
    for part in dict.fromkeys(names):
        columns = torch.tensor([name == part for name in names])
        difference = (found - expected)[:, columns].abs().max()
        yield part, float(difference / expected[:, columns].abs().max().clamp(min=max(float(least), 1e-12)))


def _mean(model: nn.Module, circuit: Circuit, pairs: PromptPairs, metric: Metric, intervention: Intervention) -> float:
    logits = run(model, circuit, pairs, intervention)
    return float(metric(logits, pairs.to(logits.device)).double().mean())


def _read_at(pairs: PromptPairs, positions: Tensor) -> PromptPairs:
    rows = zip(pairs.clean.tolist(), pairs.corrupted.tolist(), pairs.lengths.tolist())
    clean, corrupted = zip(*((clean[:n], other[:n]) for clean, other, n in rows))
    answers = [[token for token in row if token >= 0] for row in pairs.answers.tolist()]
    return PromptPairs(list(clean), list(corrupted), answers, positions=positions.tolist())


@torch.no_grad()
def _log_probability(model: nn.Module, graph: Graph, pairs: PromptPairs) -> float:
    logits = run(model, Circuit.full(graph), pairs).double().log_softmax(-1).cpu()
    first = pairs.answers[:, :1].cpu()
    return float(logits.gather(1, first).mean())
