"""Logits read at several positions a prompt: runs, scores, ACDC and measures against slow references and one position at a time."""

from __future__ import annotations

import pytest
import torch
from models import prompt_pairs, random_circuit, relative_error, tiny
from references import edges
from references.edges import Prompt

import edge_circuits as ec
from edge_circuits.graphs.metrics import load
from edge_circuits.graphs.model.adapter import adapt

BASE = prompt_pairs([6, 1, 4], seed=5)
ANSWERS = [[3, 4, 5], [6, 7, 8], [9]]  # of the second prompt, as many rows as positions
WRONG = [[3, 9], [1], [2, 2]]
LOG_PROBABILITY = load("log_probability")


def rows_of(column: torch.Tensor) -> list[list[int]]:
    return [row[:n] for row, n in zip(column.tolist(), BASE.lengths.tolist())]


PAIRS = ec.PromptPairs(rows_of(BASE.clean), rows_of(BASE.corrupted), ANSWERS, WRONG, several_tokens=True)
NAMED = ec.PromptPairs(rows_of(BASE.clean), rows_of(BASE.corrupted), positions={"end": -1, "first": 0})

AS_MANY_ROWS_AS_TOKENS = ec.PromptPairs([[3, 4], [5, 6]], [[7, 4], [8, 9]], positions={"end": -1, "first": 0})


def prompts(pairs: ec.PromptPairs) -> list[Prompt]:
    """For the references: all positions in the place of one, the last one again where there are fewer."""
    found = []
    for clean, corrupted, n, rows in zip(
        *(x.tolist() for x in (pairs.clean, pairs.corrupted, pairs.lengths, pairs.rows))
    ):
        found.append(Prompt(clean[:n], corrupted[:n], [row if row >= 0 else n - 1 for row in rows]))
    return found


def joint(logits: torch.Tensor, pairs: ec.PromptPairs) -> torch.Tensor:
    """A metric that does not separate into its positions."""
    return logits[:, 0, 3] * logits[:, 1, 4].tanh()


def literal_metric(metric, pairs):
    return lambda logits, row: metric(logits[None], pairs[[row]])[0]


def one_at_a_time() -> list[ec.PromptPairs]:
    """The same tokens as pairs of answers of one token."""
    found = []
    for row, (length, read, answer) in enumerate(
        zip(*(x.tolist() for x in (PAIRS.lengths, PAIRS.rows, PAIRS.answers)))
    ):
        for position, token in zip(read, answer):
            if position >= 0:
                ids = PAIRS.clean[row, :length].tolist(), PAIRS.corrupted[row, :length].tolist()
                found.append(ec.PromptPairs(*([each] for each in ids), [token], positions=[position]))
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox-parallel", "attention-only"])
@pytest.mark.parametrize("density, intervention", [(0.5, "patching"), (0.1, "mean"), (0.9, "zero")])
@pytest.mark.parametrize("batch_size", [1, None])
def test_runs_are_those_of_the_reference(kind, density, intervention, batch_size):
    model, circuit = tiny(kind).model, random_circuit(adapt(tiny(kind).model).graph, density, seed=7)
    for pairs in (PAIRS, NAMED, AS_MANY_ROWS_AS_TOKENS):
        found = ec.run(model, circuit, pairs, intervention, batch_size=batch_size)
        expected = edges.circuit_logits(
            tiny(kind).literal, prompts(pairs), dict.fromkeys(circuit.edges, True), intervention
        )
        real = pairs.rows >= 0
        assert relative_error(found[real], expected[real]) < 1e-12
        assert torch.equal(found.isnan().all(-1), ~real) and torch.equal(found.isnan().any(-1), ~real)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "attention-only"])
@pytest.mark.parametrize("metric, pairs", [(LOG_PROBABILITY, PAIRS), (joint, NAMED)], ids=["tokens", "joint"])
@pytest.mark.usefixtures("without_type_checks")
def test_attribution_is_the_derivative_of_the_metric(kind, metric, pairs):
    expected = edges.edge_attribution(tiny(kind).literal, prompts(pairs), literal_metric(metric, pairs))
    for batch_size in (1, None):
        found = ec.score(tiny(kind).model, pairs, metric, "eap", batch_size=batch_size, token_chunk=3, quiet=True)
        largest = max(map(abs, expected.values()))
        assert max(abs(found[edge] - score) for edge, score in expected.items()) < 1e-9 * largest


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.usefixtures("without_type_checks")
def test_exact_patching_cuts_every_edge_one_by_one(kind):
    model, graph = tiny(kind).model, adapt(tiny(kind).model).graph
    found = ec.score(model, NAMED, joint, "exact", quiet=True)
    whole = joint(ec.run(model, ec.Circuit.full(graph), NAMED), NAMED)
    names = graph.edges[:: graph.n_edges // 25]
    for name in names:
        cut = joint(ec.run(model, ec.Circuit.full(graph) - ec.Circuit.from_edges(graph, [name]), NAMED), NAMED)
        assert found[name] == pytest.approx((cut - whole).mean().item(), abs=1e-11)


METHODS = [
    "relp",
    "relp:reader=norm",
    "eap-ig:steps=2",
    "eap-ig-activations:steps=2",
    "clean-corrupted",
    "relp:attention=secant",
]
METHODS += ["eap:reader=softmax,exact_sources=999", "relp:reader=exact,exact_sources=999", "gim", "exact"]


SOFT_CAPPED = ["relp:reader=exact,exact_sources=999", "clean-corrupted"]


@pytest.mark.parametrize(
    "kind, method", [*(("gpt2", method) for method in METHODS), *(("gemma2", method) for method in SOFT_CAPPED)]
)
@pytest.mark.usefixtures("without_type_checks")
def test_scores_of_an_answer_are_the_sum_over_its_tokens(kind, method):
    model = tiny(kind).model
    found = ec.score(model, PAIRS, "log_probability", method, quiet=True).scores * len(PAIRS)
    each = [ec.score(model, pairs, "log_probability", method, quiet=True).scores for pairs in one_at_a_time()]
    torch.testing.assert_close(found, sum(each), rtol=0, atol=1e-9 * float(found.abs().max()))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("method", ["relp", "exact"])
def test_scores_of_nodes_are_the_sum_over_the_tokens_too(method):
    model = tiny("llama").model
    found, *each = (
        {
            kind: value.nan_to_num().sum((0, -1))
            for kind, value in ec.score_nodes(model, pairs, "log_probability", method, quiet=True).per_prompt.items()
        }
        for pairs in (PAIRS, *one_at_a_time())
    )
    for kind, value in found.items():
        torch.testing.assert_close(
            value, sum(other[kind] for other in each), rtol=0, atol=1e-9 * float(value.abs().max())
        )


def test_the_curve_of_a_metric_and_groups_take_several_positions():
    model = tiny("gpt2").model
    ec.score(model, PAIRS, "log_probability", "relp:metric_as=curve", quiet=True).check_finite()
    groups = ec.score_groups(model, PAIRS, "log_probability", "eap", n_groups=3, quiet=True)
    whole = ec.score(model, PAIRS, "log_probability", "eap", quiet=True)
    torch.testing.assert_close(groups.scores, whole.scores, rtol=0, atol=1e-12)


def test_measures_and_divergence_are_taken_over_the_tokens():
    model, graph = tiny("llama").model, adapt(tiny("llama").model).graph
    circuit = random_circuit(graph, 0.6, seed=2)
    measured = ec.measure(model, circuit, PAIRS, "log_probability")[0]
    logits, whole = (ec.run(model, each, PAIRS) for each in (circuit, ec.Circuit.full(graph)))
    torch.testing.assert_close(measured.values, LOG_PROBABILITY(logits, PAIRS), rtol=0, atol=1e-12)
    p, q = whole.log_softmax(-1), logits.log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1).nansum(1)
    torch.testing.assert_close(measured.divergences, expected, rtol=0, atol=1e-12)
    assert measured.right.tolist() == load("accuracy")(logits, PAIRS).bool().tolist()
    exact = ec.score(model, PAIRS, "kl", "exact", quiet=True)
    assert exact.scores.max() < 1e-12 and exact.scores.min() < -1e-3


@pytest.mark.parametrize("call", [ec.verify, ec.score_features])
def test_what_reads_one_position_refuses_several(call):
    model = tiny("gpt2").model
    first = ec.score(model, PAIRS, "log_probability", "eap", quiet=True) if call is ec.verify else ec.neurons(model)
    with pytest.raises(ValueError, match="pairs: expected pairs read at one position"):
        call(model, first, PAIRS, "log_probability")
