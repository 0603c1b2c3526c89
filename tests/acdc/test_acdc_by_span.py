"""ACDC by span decides as a loop over edges and spans, one run each."""

from __future__ import annotations

import pytest
import torch
from models import logit_difference, prompt_pairs
from plain_sweep import order, reads

from edge_circuits.acdc import discover, discover_spans
from edge_circuits.graphs import Circuit, Graph, PromptPairs, run
from edge_circuits.graphs.by_span import SpanCircuit

LENGTHS = [6, 4]
PLAIN = prompt_pairs(LENGTHS, positions=[-1, -2], seed=3)
ROWS = [[side[row, :n].tolist() for row, n in enumerate(LENGTHS)] for side in (PLAIN.clean, PLAIN.corrupted)]
PAIRS = PromptPairs(
    *ROWS, PLAIN.answers, PLAIN.wrong_answers, positions=[-1, -2], spans={"name": [(1, 3), 0], "end": [-1, -2]}
)
SPANS = ("name", "end", "rest")


def objective(model, circuit, metric, intervention):
    logits = run(model, circuit, PAIRS, intervention)
    if metric != "kl":
        return -metric(logits, PAIRS).mean().item()
    whole = run(model, Circuit.full(circuit.graph), PAIRS).log_softmax(-1)
    return (whole.exp() * (whole - logits.log_softmax(-1))).sum(-1).mean().item()


def matters(circuit, destination, span):
    """Whether a path of kept edges leads from a destination at a span to `logits`."""
    live, before = {("logits", each) for each in SPANS}, 0
    while before != (before := len(live)):
        for name in circuit.edges:
            edge, at = name.split("@")
            source, reader = edge.split("->")
            if (reader, at) in live and source != "input":
                first, *others = reads(circuit.graph, source)
                live |= {(first, at)} | {(other, each) for other in others for each in SPANS}
    return (destination, span) in live


@torch.no_grad()
def plain_sweep(model, start, metric, threshold, intervention="patching", change="signed"):
    """Every decision: edge and span, value with it cut (None if untried), whether it stays."""
    graph, mask, decisions = start.graph, start.mask.clone(), []
    value = objective(model, start, metric, intervention)
    names = order(graph)
    places = [(e, s) for d in dict.fromkeys(n.split("->")[1] for n in names) for s in reversed(SPANS)
              for e in names if e.split("->")[1] == d]  # fmt: skip
    for edge, span in places:
        place = (*graph.edge_index(edge), SPANS.index(span))
        if not mask[place]:
            continue
        is_live = matters(SpanCircuit(graph, SPANS, mask), edge.split("->")[1], span)
        mask[place] = False
        after = objective(model, SpanCircuit(graph, SPANS, mask), metric, intervention) if is_live else None
        moved = 0.0 if after is None else abs(after - value) if change == "absolute" else after - value
        kept = is_live and not moved < threshold
        decisions.append((f"{edge}@{span}", after, kept))
        mask[place] = kept
        value = value if kept or after is None else after
    return decisions


def sparse(graph: Graph, density: float, seed: int) -> SpanCircuit:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand((*graph.edge_mask.shape, 3), generator=generator) < density
    return SpanCircuit(graph, SPANS, kept & graph.edge_mask[:, :, None])


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
@pytest.mark.parametrize(
    ("kind", "metric", "threshold", "settings"),
    [("gpt2", "kl", 0.003, {}), ("llama", logit_difference, 0.02, {}), ("attention-only", "kl", 0.0, {}),
     ("gpt2", logit_difference, 0.05, dict(intervention="zero")), ("gemma2", logit_difference, 0.01, dict(change="absolute"))],
)  # fmt: skip
def test_decisions_are_those_of_the_loop(small, kind, metric, threshold, settings) -> None:
    model = small(kind)
    start = sparse(Graph.from_model(model), 0.4, 1)
    found = discover_spans(model, PAIRS, metric, threshold, circuit=start, quiet=True, **settings)
    expected = plain_sweep(model, start, metric, threshold, **settings)
    assert [each.edge for each in found.decisions] == [edge for edge, _, _ in expected]
    assert [each.kept for each in found.decisions] == [kept for _, _, kept in expected]
    for mine, (_, after, _) in zip(found.decisions, expected):
        assert (mine.value_after is None) == (after is None)
        assert after is None or mine.value_after == pytest.approx(after, abs=1e-12)
    assert 0 < found.circuit.n_edges < len(expected)
    assert set(found.circuit.edges) == {edge for edge, _, kept in expected if kept}


@pytest.mark.usefixtures("without_type_checks")
def test_one_span_over_everything_is_the_sweep_without_positions(small) -> None:
    whole = PromptPairs(*ROWS, PLAIN.answers, PLAIN.wrong_answers, positions=[-1, -2], spans={"all": [(0, None)] * 2})
    found = discover_spans(small("gpt2"), whole, "kl", 0.01, quiet=True)
    plain = discover(small("gpt2"), PLAIN, "kl", 0.01, quiet=True)
    assert [each.kept for each in found.decisions] == [each.kept for each in plain.trace.decisions]
    assert torch.equal(found.circuit.mask[:, :, 0], plain.mask) and found.circuit.metadata["method"] == "acdc"


@pytest.mark.usefixtures("without_type_checks")
def test_batches_and_stacks_change_nothing(small) -> None:
    start = sparse(Graph.from_model(small("gpt2")), 0.2, 2)
    asked = (small("gpt2"), PAIRS, "kl", 0.003)
    one, other = (
        discover_spans(*asked, circuit=start, quiet=True, batch_size=size, stacked_tokens=tokens)
        for size, tokens in ((None, 1024), (1, 1))
    )
    assert [each.kept for each in one.decisions] == [each.kept for each in other.decisions]
    assert other.n_runs <= one.n_runs


@pytest.mark.usefixtures("without_type_checks")
def test_what_cannot_be_swept_is_refused(small) -> None:
    model = small("gpt2")
    with pytest.raises(ValueError, match="pairs: expected prompts with spans, got prompts without"):
        discover_spans(model, PLAIN, "kl", 0.1)
    with pytest.raises(ValueError, match="pairs.spans: expected those of the circuit"):
        discover_spans(model, PAIRS, "kl", 0.1, circuit=SpanCircuit(Graph(1, 1), ("a",), torch.zeros(3, 5, 1).bool()))
    with pytest.raises(ValueError, match="change: expected one of 'signed', 'absolute'"):
        discover_spans(model, PAIRS, "kl", 0.1, change="up")
    with pytest.raises(ValueError, match="circuit: expected one of Graph"):
        discover_spans(model, PAIRS, "kl", 0.1, circuit=SpanCircuit(Graph(1, 1), SPANS, torch.zeros(3, 5, 3).bool()))
