"""Scores by span: against a reference token by token, and their identities."""

from __future__ import annotations

import pytest
import torch
from models import KINDS, curved, logit_difference, one_by_one, prompt_pairs, prompts_of, relative_error, tiny
from references.spans import by_span, span_circuit_logits
from torch import Tensor

from edge_circuits import eap
from edge_circuits.graphs import Graph, PromptPairs
from edge_circuits.graphs.by_span import SpanScores
from edge_circuits.graphs.prompts.spans import Spans

LENGTHS = [7, 5, 6]
STRETCHES = {"subject": [(1, 3), (0, 2), (2, 3)], "end": [-1, -1, (4, None)]}


def with_spans(order: tuple[str, ...] = ("subject", "end")) -> PromptPairs:
    plain = prompt_pairs(LENGTHS)
    rows = [range(n) for n in LENGTHS]
    clean, corrupted = (
        [side[i, : len(r)].tolist() for i, r in enumerate(rows)] for side in (plain.clean, plain.corrupted)
    )
    spans = {name: STRETCHES[name] for name in order}
    return PromptPairs(clean, corrupted, plain.answers, plain.wrong_answers, spans=spans)


PAIRS = with_spans()
ROWS = [PAIRS.spans.stretches(row) for row in range(len(PAIRS))]


def as_tensor(graph: Graph, scores: dict[tuple[str, str], float]) -> Tensor:
    out = torch.zeros(graph.n_sources, graph.n_destinations, len(PAIRS.spans), dtype=torch.float64)
    for (edge, span), value in scores.items():
        out[(*graph.edge_index(edge), PAIRS.spans.names.index(span))] = value
    return out


def scored(kind: str, method: object, pairs: PromptPairs = PAIRS, by: str | None = "span") -> SpanScores:
    return eap.score(tiny(kind).model, pairs, curved, method, by=by, batch_size=2, quiet=True)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox-parallel", "gemma2"])
def test_eap_is_the_derivative_at_each_span(kind: str) -> None:
    found = scored(kind, "eap")
    expected = by_span(tiny(kind).literal, prompts_of(PAIRS), ROWS, one_by_one(curved, PAIRS))
    assert found.spans == ("subject", "end", "rest")
    assert relative_error(found.scores, as_tensor(found.graph, expected)) < 1e-9


@pytest.mark.parametrize(
    "method", ["eap", "relp", "eap-ig", "eap-ig-activations", "clean-corrupted", "eap:reader=norm"]
)
def test_linear_scores_of_all_spans_sum_to_those_without_positions(method: str) -> None:
    found, plain = scored("llama", method), scored("llama", method, by=None)
    assert relative_error(found.total.scores, plain.scores.double()) < 1e-9


def test_exact_patching_at_a_span_is_the_run_with_that_edge_cut_there() -> None:
    kind = "gpt2"
    found, literal, prompts = scored(kind, "exact"), tiny(kind).literal, prompts_of(PAIRS)
    everything = {(edge, span) for edge in found.graph.edges for span in found.spans}
    clean = curved(span_circuit_logits(literal, prompts, ROWS, everything), PAIRS)
    for edge in ("input->a0.h1<k>", "a0.h2->a1.h0<q>", "m1->a2.h3<v>", "a1.h1->m1", "a2.h0->logits"):
        for number, span in enumerate(found.spans):
            cut = curved(span_circuit_logits(literal, prompts, ROWS, everything - {(edge, span)}), PAIRS)
            value = found.scores[(*found.graph.edge_index(edge), number)]
            assert abs(float(value - (cut - clean).mean())) < 1e-9, (edge, span)


def test_one_span_over_everything_gives_the_scores_without_positions() -> None:
    whole = PromptPairs(
        *([side[i, :n].tolist() for i, n in enumerate(LENGTHS)] for side in (PAIRS.clean, PAIRS.corrupted)),
        PAIRS.answers, PAIRS.wrong_answers, spans={"all": [(0, None)] * 3},
    )  # fmt: skip
    for method in ("exact", "eap:reader=softmax"):
        found, plain = scored("llama", method, whole), scored("llama", method, whole, by=None)
        assert found.spans == ("all",)
        assert relative_error(found.scores[:, :, 0], plain.scores.double()) < 1e-9, method


def test_another_order_of_spans_gives_the_scores_in_that_order() -> None:
    found, other = scored("gpt2", "relp"), scored("gpt2", "relp", with_spans(("end", "subject")))
    assert other.spans == ("end", "subject", "rest")
    assert torch.equal(other.scores[:, :, [1, 0, 2]], found.scores)


def test_by_token_is_by_spans_of_one_token() -> None:
    plain = prompt_pairs([4, 4])
    tokens = PromptPairs(
        plain.clean, plain.corrupted, plain.answers, plain.wrong_answers, spans={str(i): [i, i] for i in range(4)}
    )
    by_token, named = scored("gpt2", "eap", plain, "token"), scored("gpt2", "eap", tokens, "span")
    assert by_token.spans == named.spans == ("0", "1", "2", "3")
    assert torch.equal(by_token.scores, named.scores)


def test_a_stopped_job_resumes(tmp_path: object) -> None:
    first = eap.score(tiny("gpt2").model, PAIRS, logit_difference, "eap", by="span", checkpoint=tmp_path, quiet=True)
    again = eap.score(tiny("gpt2").model, PAIRS, logit_difference, "eap", by="span", checkpoint=tmp_path, quiet=True)
    assert torch.equal(first.scores, again.scores)
    plain = eap.score(tiny("gpt2").model, PAIRS, logit_difference, "eap", checkpoint=tmp_path, quiet=True)
    assert plain.scores.dim() == 2


def test_other_spans_are_another_question() -> None:
    assert PAIRS.digest != with_spans(("end", "subject")).digest != prompt_pairs(LENGTHS).digest
    assert isinstance(PAIRS.spans, Spans) and KINDS


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(method="hisp", by="span"), "by: expected None for method 'hisp'"),
        (dict(method="eap", by="word"), "by: expected one of 'span', 'token'"),
        (dict(method="eap", by="token"), "pairs: expected prompts of one length, got 5 to 7 tokens"),
    ],
)
def test_what_has_no_spans_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scored("gpt2", **settings)


def test_pairs_without_spans_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs without spans"):
        scored("gpt2", "eap", prompt_pairs([3, 3]))
