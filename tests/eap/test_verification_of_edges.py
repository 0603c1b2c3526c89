"""Faults that leave whole circuits as they are, and sound scores of methods that are no estimates of effects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from models import bridged, hugging_face, logit_difference, prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.benchmarks import planted
from edge_circuits.eap import rules
from edge_circuits.eap.methods import relp
from edge_circuits.eap.methods.edge_attribution_patching import EAP
from edge_circuits.eap.verification import Verification, verify
from edge_circuits.graphs import Graph, PromptPairs
from edge_circuits.graphs.model import adapter, transformer_bridge
from edge_circuits.graphs.running import execution

PAIRS = prompt_pairs([7, 5, 6, 5], positions=[-1, -2, -1, -1], seed=5)


def verified(kind: str, method: str, dtype: torch.dtype = torch.float64, spoil: Callable = lambda graph: graph):
    model = tiny(kind, dtype).model
    scored = eap.score(model, PAIRS, logit_difference, method, quiet=True)
    return verify(model, spoil(scored), PAIRS, logit_difference, n_edges=12, bf16=False)


def failed(result: Verification) -> list[str]:
    return [check.name for check in result.checks if not check.passed]


SOUND = [
    *(
        ("gpt2", "eap"),
        ("gpt2", "learned-mask:steps=5"),
        ("gpt2", "information-flow-routes"),
        ("gpt2", "exact"),
        ("gpt2", "hisp"),
    ),
    *(
        ("llama", "relp"),
        ("llama", "learned-mask:steps=5"),
        ("llama", "top-k-mask:steps=5"),
        ("llama", "information-flow-routes"),
        ("neox-parallel", "eap-ig"),
    ),
    *(("gemma2", "relp:gate=exact"), ("rms-gated-grouped", "gim"), ("attention-only", "clean-corrupted")),
]


@pytest.mark.parametrize(("kind", "method"), SOUND)
def test_sound_scores_raise_no_alarm(kind: str, method: str) -> None:
    result = verified(kind, method, torch.float32 if kind == "llama" else torch.float64)
    assert result.passed, result.text


@pytest.mark.parametrize(
    ("kind", "method", "settings"),
    [
        ("gpt2", "relp:reader=norm", dict(intervention="zero")),
        ("qwen3", "eap:reader=softmax", dict(intervention="mean")),
        ("neox-sequential", "eap-ig:steps=2", dict(intervention="mean-positional")),
        ("rms-gated-grouped", "relp:reader=exact", {}),
        ("llama", "relp:attention=attnlrp", dict(kv_destinations="kv-head")),
        ("gemma2", "relp:attention=ah", dict(intervention="mean")),
        ("gpt2", "relp:attention=secant", dict(budget=12)),
    ],
)
def test_sound_scores_of_other_settings_raise_no_alarm(kind: str, method: str, settings: dict) -> None:
    model = tiny(kind).model
    scored = eap.score(model, PAIRS, logit_difference, method, quiet=True, **settings)
    result = verify(model, scored, PAIRS, logit_difference, n_edges=8, bf16=False)
    assert all(check.passed for check in result.checks if check.at_most), result.text


def test_sound_scores_in_half_precision_and_of_groups_raise_no_alarm() -> None:
    model = tiny("llama", torch.bfloat16).model
    scored = eap.score(model, PAIRS, logit_difference, "relp", quiet=True)
    groups = eap.score_groups(tiny("gpt2").model, PAIRS, logit_difference, "relp", n_groups=2, quiet=True)
    for each, graph in ((model, scored), (tiny("gpt2").model, groups)):
        result = verify(each, graph, PAIRS, logit_difference, n_edges=8, bf16=False)
        assert all(check.passed for check in result.checks if check.at_most), result.text


def moved(part: str, step: int) -> Callable:
    """Scores whose columns of a part are those of another head."""

    def spoil(graph):
        columns = [i for i, name in enumerate(graph.graph.destinations) if name.endswith(f"<{part}>")]
        scores = graph.scores.clone()
        scores[:, columns] = scores[:, columns].roll(step, 1) * graph.graph.edge_mask[:, columns]
        return replace(graph, scores=scores)

    return spoil


def test_heads_that_are_shifted_by_one() -> None:
    assert failed(verified("gpt2", "relp", spoil=moved("v", 1)))[0] == "scores against relp asked again, into <v>"


def exchanged(graph: Graph, scores: Tensor) -> Tensor:
    """Scores with the columns of <q> and <k> exchanged."""
    q, k = ([i for i, name in enumerate(graph.destinations) if name.endswith(f"<{part}>")] for part in "qk")
    scores = scores.clone()
    scores[:, q], scores[:, k] = scores[:, k], scores[:, q]
    return scores


def test_queries_and_keys_that_are_exchanged_in_scores() -> None:
    result = verified("llama", "eap", spoil=lambda each: replace(each, scores=exchanged(each.graph, each.scores)))
    assert {f"scores against eap asked again, into <{part}>" for part in "qk"} <= set(failed(result))
    assert "suspected: scores of another model, metric or prompts, or columns that were moved" in result.text


def test_queries_and_keys_that_are_exchanged_in_attribution(monkeypatch: pytest.MonkeyPatch) -> None:
    right = EAP.scores
    monkeypatch.setattr(
        EAP, "scores", lambda self, job, batch: exchanged(job.transformer.graph, right(self, job, batch))
    )
    assert {f"EAP against soft gates of run, into <{part}>" for part in "qk"} <= set(failed(verified("gpt2", "eap")))


def test_a_half_rule_that_gives_the_whole_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(relp.GATES, "half", torch.mul)
    result = verified("llama", "relp")
    assert "relevance lost or made in the MLP of layer 0" in failed(result), result.text


def test_a_wrong_coefficient_of_the_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rules.COEFFICIENTS["gelu_new"]
    monkeypatch.setitem(rules.COEFFICIENTS, "gelu_new", lambda x: 1.01 * right(x))
    result = verified("gpt2", "relp")
    assert "relevance lost or made in the MLP of layer 0" in failed(result), result.text


def test_run_drops_an_edge_of_every_partial_circuit(monkeypatch: pytest.MonkeyPatch) -> None:
    right = execution.make_plan

    def dropping(graph: Graph, mask: Tensor, *settings: object):
        if mask.dtype is torch.bool and 0 < int(mask.sum()) < graph.n_edges:
            mask = mask.clone()
            mask[tuple(mask.nonzero()[-1].tolist())] = False
        return right(graph, mask, *settings)

    monkeypatch.setattr(execution, "make_plan", dropping)
    (name,) = failed(verified("gpt2", "eap"))
    assert name.startswith("exact patching against run without the edge")


def test_an_unembedding_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_check_logits", lambda *_: None)
    right = transformer_bridge.Transformer
    monkeypatch.setattr(
        transformer_bridge, "Transformer", lambda **given: right(**given | {"W_U": given["W_U"].half().float()})
    )
    model = bridged(hugging_face("gpt2"))
    scored = eap.score(model, PAIRS, logit_difference, "eap", quiet=True)
    result = verify(model, scored, PAIRS, logit_difference, n_edges=4, bf16=False)
    assert failed(result)[0].startswith("logits against the model's own")


def test_answers_that_are_read_one_token_early() -> None:
    model, _, task = planted.load("ioi")
    pairs = task.pairs(8)

    def shifted(step: int) -> PromptPairs:
        rows = zip(pairs.clean.tolist(), pairs.corrupted.tolist(), pairs.lengths.tolist())
        clean, corrupted = zip(*((row[:n], other[:n]) for row, other, n in rows))
        answers = (pairs.answers.tolist(), pairs.wrong_answers.tolist())
        return PromptPairs(list(clean), list(corrupted), *answers, positions=(pairs.positions - step).tolist())

    for step in (0, 1):
        scored = eap.score(model, shifted(step), logit_difference, "eap", quiet=True)
        result = verify(model, scored, shifted(step), logit_difference, n_edges=4, bf16=False)
        assert ("nats by which the answers are likelier one token later" in failed(result)) == (step == 1), result.text


def test_scores_of_another_metric() -> None:
    model = tiny("gpt2").model
    scored = eap.score(model, PAIRS, lambda logits, pairs: logits.gather(1, pairs.answers)[:, 0], "eap", quiet=True)
    result = verify(model, scored, PAIRS, logit_difference, n_edges=4, bf16=False)
    assert any(name.startswith("scores against eap asked again") for name in failed(result))
