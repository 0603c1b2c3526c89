"""Edge scores under LRP rules, against literal models with the rules in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from models import (
    GRADIENT,
    KINDS,
    RAGGED,
    build,
    curved,
    logit_difference,
    one_by_one,
    prompt_pairs,
    prompts_of,
    relative_error,
    tiny,
)
from references.edges import circuit_logits, edge_attribution
from references.lrp import ruled
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.patching import cut_values

SHAPES = ("gpt2", "llama", "gemma2", "solu")
PAIRS = prompt_pairs([6, 4])
TOLERANCE = 1e-10
ALONE = [("norm", "ln"), ("activation", "identity"), ("attention", "ah"), ("attention", "attnlrp"), ("gate", "half")]


def scores(
    kind: str,
    rules: RelP,
    pairs: PromptPairs = PAIRS,
    metric: Callable = logit_difference,
    intervention: str = "patching",
    kv_destinations: str = "query-head",
    token_chunk: int = 7,
) -> tuple[Graph, Tensor]:
    """The graph and the mean edge scores of a tiny model."""
    transformer = adapt(tiny(kind).model, kv_destinations=kv_destinations)
    rules.check_model(transformer)
    batches = pairs.batches(3)
    cuts = cut_values(transformer, batches, intervention)
    job = Job(transformer, metric, cuts, intervention, token_chunk)
    return transformer.graph, sum(rules.scores(job, batch) for batch in batches) / len(pairs)


def literal_scores(
    kind: str, rules: RelP, pairs: PromptPairs = PAIRS, metric: Callable = logit_difference, **settings: object
) -> dict[str, float]:
    """The same from the literal model, by edge name."""
    model = tiny(kind).literal
    with ruled(model, rules.norm, rules.activation, rules.attention, rules.gate):
        return edge_attribution(model, prompts_of(pairs), one_by_one(metric, pairs), **settings)


def error(graph: Graph, found: Tensor, expected: dict[str, float]) -> float:
    """Largest difference, in units of the largest expected score."""
    assert set(graph.edges) == set(expected)
    named = torch.stack([found[graph.edge_index(edge)] for edge in expected])
    return relative_error(named, torch.tensor(list(expected.values()), dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_default_rules_give_the_literal_scores(kind: str) -> None:
    graph, found = scores(kind, RelP(), RAGGED, curved)
    assert error(graph, found, literal_scores(kind, RelP(), RAGGED, curved)) < TOLERANCE


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("rule", ALONE, ids="=".join)
def test_each_rule_alone_gives_the_literal_scores(kind: str, rule: tuple[str, str]) -> None:
    rules = replace(GRADIENT, **dict([rule]))
    graph, found = scores(kind, rules)
    assert error(graph, found, literal_scores(kind, rules)) < TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("attention", ["ah", "attnlrp"])
def test_all_rules_together_give_the_literal_scores(kind: str, attention: str) -> None:
    rules = RelP(attention=attention, gate="all")
    graph, found = scores(kind, rules)
    assert error(graph, found, literal_scores(kind, rules)) < TOLERANCE


def test_key_value_head_destinations_and_interventions() -> None:
    rules = RelP(attention="attnlrp")
    settings = {"intervention": "mean-positional"}
    graph, found = scores("qwen3", rules, kv_destinations="kv-head", **settings)
    assert error(graph, found, literal_scores("qwen3", rules, grouped=True, **settings)) < TOLERANCE


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("rule", ALONE, ids="=".join)
def test_each_rule_changes_scores_exactly_where_a_step_of_its_kind_comes_after(
    kind: str, rule: tuple[str, str]
) -> None:
    """The Identity-rule of a published fork was switched on too late and never applied; nothing noticed."""
    graph, plain = scores(kind, GRADIENT)
    _, ruled_scores = scores(kind, replace(GRADIENT, **dict([rule])))
    changed = ((ruled_scores - plain).abs() > 1e-9 * plain.abs().max()) & graph.edge_mask
    last = graph.n_layers - 1
    into_logits = torch.zeros_like(graph.edge_mask)
    into_logits[:, -1] = True
    into_last_mlp = torch.zeros_like(into_logits)
    into_last_mlp[:, graph.mlp_destination(last)] = True
    into_last_qk, into_last_v = torch.zeros_like(into_logits), torch.zeros_like(into_logits)
    for letter in "qk":
        into_last_qk[:, graph.part_destinations(last, letter)] = True
    into_last_v[:, graph.part_destinations(last, "v")] = True
    if rule[0] == "gate" and kind in ("gpt2", "solu"):  # not gated: nothing to do
        assert not changed.any()
        return
    assert (changed & into_logits).any() == (rule[0] == "norm")
    assert (changed & into_last_mlp).any() == (rule[0] != "attention")
    if rule[0] == "attention":
        assert (changed & into_last_v).any() == (rule[1] == "attnlrp")
        assert (changed == into_last_qk & graph.edge_mask)[into_last_qk].float().mean() > 0.9
    else:
        earlier = graph.edge_mask & ~into_logits & ~into_last_mlp
        assert changed[earlier].float().mean() > 0.9


def test_no_rules_at_all_are_edge_attribution_patching() -> None:
    for kind in SHAPES:
        graph, found = scores(kind, GRADIENT)
        assert error(graph, found, literal_scores(kind, GRADIENT)) < TOLERANCE


def test_ah_gives_queries_and_keys_exactly_nothing() -> None:
    graph, found = scores("gpt2", RelP(attention="ah"))
    to_qk = [d for d, name in enumerate(graph.destinations) if name.endswith(("<q>", "<k>"))]
    assert (found[:, to_qk] == 0).all()
    assert (found[:, [d for d in range(graph.n_destinations) if d not in to_qk]] != 0).any(0).all()


def test_attnlrp_in_the_last_layer_is_a_quarter_for_queries_and_keys_and_half_for_values() -> None:
    graph, live = scores("gpt2", RelP())
    _, shared = scores("gpt2", RelP(attention="attnlrp"))
    for letter, factor in (("q", 0.25), ("k", 0.25), ("v", 0.5)):
        columns = graph.part_destinations(graph.n_layers - 1, letter)
        assert relative_error(shared[:, columns], factor * live[:, columns]) < TOLERANCE


@pytest.mark.parametrize("intervention", ["patching", "zero", "mean"])
def test_secant_gives_edges_of_a_linear_reader_together_their_exact_effect(intervention: str) -> None:
    """Attention alone, no norms: into the last queries and keys, all sources together are the whole secant."""
    graph, found = scores("attention-only", replace(GRADIENT, attention="secant"), intervention=intervention)
    literal, last = tiny("attention-only").literal, graph.n_layers - 1
    prompts, row_metric = prompts_of(PAIRS), one_by_one(logit_difference, PAIRS)
    kept = dict.fromkeys(graph.edges, 1.0)
    whole = circuit_logits(literal, prompts, kept, intervention)
    for letter in "qk":
        for head, column in enumerate(range(*graph.part_destinations(last, letter).indices(graph.n_destinations))):
            into = f"->a{last}.h{head}<{letter}>"
            cut = circuit_logits(
                literal, prompts, {edge: 1.0 for edge in kept if not edge.endswith(into)}, intervention
            )
            change = sum(
                row_metric(after, row) - row_metric(before, row) for row, (after, before) in enumerate(zip(cut, whole))
            )
            assert abs(found[:, column].sum() - change / len(PAIRS)) < 1e-4 * found.abs().max()


def test_scores_do_not_depend_on_what_was_scored_before() -> None:
    _, first = scores("llama", RelP())
    scores("llama", GRADIENT)
    scores("llama", RelP(attention="secant"))
    assert torch.equal(scores("llama", RelP())[1], first)


def test_split_inputs_of_the_model_change_nothing() -> None:
    """In TransformerLens, hooks on a block's norm do nothing once its q, k, v inputs are split."""
    model = build("gpt2", torch.float64).model
    model.set_use_split_qkv_input(True)
    transformer = adapt(model)
    batches = PAIRS.batches(3)
    job = Job(transformer, logit_difference, cut_values(transformer, batches, "patching"), "patching", 7)
    found = sum(RelP().scores(job, batch) for batch in batches) / len(PAIRS)
    assert relative_error(found, scores("gpt2", RelP())[1]) < TOLERANCE


def test_a_rule_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="gate rule 'all' has no place in .*no gated MLP. Use 'half' or 'exact'"):
        scores("gpt2", RelP(gate="all"))
    with pytest.raises(ValueError, match="reader 'norm' has no place in .*no destination has a norm. Use 'linear'"):
        scores("attention-only", RelP(reader="norm"))
    scores("attention-only", RelP())  # RelP's own rules just have nothing to do
