"""Scores of feature nodes, against literal substitution and against the scores of whole nodes."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from dictionaries import random_dictionary
from models import RAGGED, build, curved, logit_difference, native, one_by_one, prompt_pairs, prompts_of, tiny
from references.features import integrated_effects, marks_effects

from edge_circuits.eap.feature_scores import score_features
from edge_circuits.eap.methods.integrated_gradients import IntegratedGradients
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.eap.node_scores import score_nodes
from edge_circuits.graphs.features.dictionary import AnyDictionary, Coordinates, Dictionary, heads, neurons
from edge_circuits.graphs.features.nodes import ERROR, FeatureNodes
from edge_circuits.graphs.features.running import run_features
from edge_circuits.graphs.features.sites import Site
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.prompts.pairs import PromptPairs

KINDS = ("gpt2", "gemma2", "neox-parallel", "attention-only", "rms-gated-grouped")
EVEN = prompt_pairs([6, 6, 6], seed=3)


@cache
def dictionaries_of(kind: str) -> list[Dictionary]:
    """One at each kind of site, the stream's too."""
    model, width = tiny(kind).literal, adapt(tiny(kind).model).W_U.shape[0]
    last = model.n_layers - 1
    sites = [Site("embed"), Site("attention_out", 0), Site("resid_pre", 1), Site("attention_out", last)]
    sites += [Site("mlp_out", 0), Site("mlp_out", last)] if model.mlps else []
    return [random_dictionary(site, width, seed=n) for n, site in enumerate([*sites, Site("resid_post", last)])]


def dense(nodes: FeatureNodes, site: int, n_positions: int) -> torch.Tensor:
    """Scores [pos feature+1] of a site, the error last."""
    out = torch.zeros(n_positions, nodes.n_features[site] + 1, dtype=torch.float64)
    rows = nodes.index[:, 0] == site
    out[nodes.index[rows, 1], nodes.index[rows, 2]] = nodes.scores[rows].double()
    return out


def score(
    kind: str, dictionaries: list[AnyDictionary], pairs: PromptPairs, method: object, **settings: object
) -> FeatureNodes:
    return score_features(tiny(kind).model, dictionaries, pairs, curved, method, quiet=True, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_one_backward_pass_gives_the_effects_of_marks_substitution(kind: str) -> None:
    pair = RAGGED[[0]]
    dictionaries, (prompt,), metric = dictionaries_of(kind), prompts_of(pair), one_by_one(curved, pair)
    found = score(kind, dictionaries, pair, "eap")
    weights = {(d.site.kind, d.site.layer): (d.W_enc, d.b_enc, d.W_dec, d.b_dec) for d in dictionaries}
    expected = marks_effects(
        tiny(kind).literal, prompt.clean, prompt.corrupted, lambda out: metric(out[prompt.position], 0), weights
    )
    scale = max(features.abs().max() for features, _ in expected.values())
    for number, (features, error) in enumerate(expected.values()):
        place = list(weights).index(list(expected)[number])
        scores = dense(found, place, len(prompt.clean))
        assert (scores[:, :-1] - features).abs().max() < 1e-12 * scale
        assert (scores[:, -1] - error).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["eap", "relp"])
def test_features_and_error_sum_to_the_score_of_the_node(kind: str, method: str) -> None:
    dictionaries = dictionaries_of(kind)
    nodes = score_nodes(tiny(kind).model, EVEN, curved, method, quiet=True)
    found = score(kind, dictionaries, EVEN, method)
    kinds = {"embed": "resid_pre"}
    for number, dictionary in enumerate(dictionaries):
        expected = nodes.mean(kinds.get(dictionary.site.kind, dictionary.site.kind))[dictionary.site.layer or 0]
        scores = dense(found, number, 6).sum(1)
        assert (scores - expected).abs().max() < 1e-10 * expected.abs().max(), dictionary.site
        assert found.total(number) == pytest.approx(expected.sum().item(), abs=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gemma2"])
@pytest.mark.parametrize("method", ["eap", "relp"])
def test_the_identity_gives_node_scores_to_rounding(kind: str, method: str) -> None:
    """Neurons sum to their MLP, heads are the heads, the stream as one group is the stream."""
    model, literal = tiny(kind).model, tiny(kind).literal
    nodes = score_nodes(model, EVEN, curved, method, quiet=True)
    whole = [Coordinates(Site("resid_pre", 1), 1, adapt(model).W_U.shape[0])]
    both = [*heads(model), *(neurons(model) if literal.mlps else [])]
    found = score(kind, [*both, *whole], EVEN, method)
    for number, dictionary in enumerate([*both, *whole]):
        scores, layer = dense(found, number, 6)[:, :-1], dictionary.site.layer
        if dictionary.site.kind == "z":
            expected = nodes.mean("heads")[layer].T
        else:
            expected = nodes.mean("mlp_out" if dictionary.site.kind == "neurons" else "resid_pre")[layer][:, None]
            scores = scores.sum(1, keepdim=True)
        assert (scores - expected).abs().max() < 1e-11 * max(1, expected.abs().max())
    assert not found.is_error.any()


@pytest.mark.parametrize("method", ["eap", "relp", IntegratedGradients(steps=3)])
def test_a_rotation_of_the_identity_changes_no_sum_and_no_run(method: object) -> None:
    width, site = 32, Site("mlp_out", 1)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)).double())[0]
    none = torch.zeros(width, dtype=torch.float64)
    turned = [Dictionary(site, rotation, none, rotation.T.contiguous(), none, "linear")]
    plain = [Coordinates(site, width)]
    sums = [dense(score("gpt2", each, EVEN, method), 0, 6).sum(1) for each in (turned, plain)]
    assert torch.allclose(*sums, atol=1e-12)
    assert dense(score("gpt2", turned, EVEN, method), 0, 6)[:, -1].abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "gemma2"])
def test_integrated_gradients_move_features_and_error_of_one_site_from_clean_to_cut(kind: str) -> None:
    pair = RAGGED[[0]]
    (prompt,), metric = prompts_of(pair), one_by_one(curved, pair)
    found = score(kind, dictionaries_of(kind), pair, IntegratedGradients(steps=3))
    for number, dictionary in enumerate(dictionaries_of(kind)):
        if dictionary.site.kind not in ("mlp_out", "resid_pre"):
            continue
        weights = (dictionary.W_enc, dictionary.b_enc, dictionary.W_dec, dictionary.b_dec)
        at = (dictionary.site.kind, dictionary.site.layer)
        features, error = integrated_effects(
            tiny(kind).literal,
            prompt.clean,
            prompt.corrupted,
            lambda out: metric(out[prompt.position], 0),
            weights,
            at,
            3,
        )
        scores = dense(found, number, len(prompt.clean))
        assert (scores[:, :-1] - features).abs().max() < 1e-11
        assert (scores[:, -1] - error).abs().max() < 1e-11
    assert found.metadata["backward_passes"] == 3 * len(dictionaries_of(kind))


def linear_model() -> object:
    """Attention that looks everywhere alike, no norms, no MLPs: the logits are linear in the embedding."""
    model = native(attn_only=True, normalization_type=None).double()
    for name, weight in model.named_parameters():
        if ".q." in name or ".k." in name:
            weight.data.zero_()
    return model


def test_all_methods_agree_on_a_linear_model() -> None:
    model = linear_model()
    dictionaries = [random_dictionary(Site("attention_out", 0), 24), random_dictionary(Site("embed"), 24, seed=1)]
    methods = ("eap", "relp", IntegratedGradients(steps=10), "exact")
    found = [score_features(model, dictionaries, EVEN, logit_difference, each, quiet=True) for each in methods]
    for number in range(2):
        scores = [dense(each, number, 6) for each in found]
        assert all((each - scores[0]).abs().max() < 1e-12 for each in scores)
        assert scores[0].abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "rms-gated-grouped"])
def test_exact_scores_are_runs_without_the_one_node(kind: str) -> None:
    dictionaries = [dictionaries_of(kind)[1], *heads(tiny(kind).model)[1:], *neurons(tiny(kind).model)[:1]]
    candidates = score(kind, dictionaries, EVEN, "eap").top(12)
    found = score(kind, dictionaries, EVEN, "exact", candidates=candidates)
    assert len(found) == 12
    model = tiny(kind).model
    nothing = candidates[:0]
    whole = curved(run_features(model, dictionaries, nothing, EVEN, complement=True), EVEN)
    for row in range(0, 12, 3):
        without = curved(run_features(model, dictionaries, found[row : row + 1], EVEN, complement=True), EVEN)
        assert abs((without - whole).mean() - found.scores[row]) < 1e-12
    all_of_one = score(kind, dictionaries[:1], EVEN, "exact", by_position=False, candidates=_anywhere(candidates))
    assert all("@" not in name for name in all_of_one.names)
    with pytest.raises(ValueError, match="candidates: expected nodes at single positions, got [0-9]+ at all"):
        score(kind, dictionaries[:1], EVEN, "exact", candidates=_anywhere(candidates))
    with pytest.raises(ValueError, match="candidates: expected nodes at all positions, got [0-9]+ at single"):
        score(kind, dictionaries, EVEN, "exact", by_position=False, candidates=candidates)


@pytest.mark.parametrize("batch_size", [1, None])
def test_an_exact_score_over_all_positions_is_of_one_cut_at_all_of_them(batch_size: int | None) -> None:
    dictionaries, model = [dictionaries_of("gpt2")[1], *heads(tiny("gpt2").model)[:1]], tiny("gpt2").model
    found = score("gpt2", dictionaries, RAGGED, "exact", by_position=False, batch_size=batch_size)
    assert found.is_error.any() and len(found.index.unique(dim=0)) == len(found)
    whole = curved(run_features(model, dictionaries, found[:0], RAGGED, complement=True), RAGGED)
    for row in (*range(0, len(found), 5), int(found.is_error.nonzero()[0]), len(found) - 1):
        without = curved(run_features(model, dictionaries, found[row : row + 1], RAGGED, complement=True), RAGGED)
        assert abs((without - whole).mean() - found.scores[row]) < 1e-12


def test_candidates_may_lie_beyond_the_prompts_of_a_batch() -> None:
    every = score("gpt2", heads(tiny("gpt2").model), RAGGED, "exact")
    chosen = every[every.index[:, 1] >= 2]
    alone = score("gpt2", heads(tiny("gpt2").model), RAGGED, "exact", candidates=chosen, batch_size=1)
    assert alone.names == chosen.names
    assert torch.allclose(alone.scores, chosen.scores, rtol=0, atol=1e-12)


def _anywhere(nodes: FeatureNodes) -> FeatureNodes:
    """The features of the first site, each at all positions."""
    features = nodes.index[nodes.index[:, 0] == 0, 2].unique()
    index = torch.stack((torch.zeros_like(features), torch.full_like(features, -1), features), dim=1)
    return FeatureNodes(nodes.sites[:1], nodes.n_features[:1], index, torch.zeros(len(features)))


def test_an_untrained_dictionary_leaves_the_whole_score_to_the_error() -> None:
    plain = random_dictionary(Site("mlp_out", 1), 32)
    dead = [Dictionary(plain.site, plain.W_enc, plain.b_enc - 1e3, plain.W_dec, plain.b_dec)]
    found = score("gpt2", dead, EVEN, "relp")
    assert found.is_error.all()
    expected = score_nodes(tiny("gpt2").model, EVEN, curved, "relp", quiet=True).mean("mlp_out")[1]
    assert torch.allclose(dense(found, 0, 6)[:, -1], expected, atol=1e-12)


@pytest.mark.parametrize("intervention", ["patching", "zero", "mean-positional"])
def test_prompts_do_not_touch_each_other_and_positions_add_up(intervention: str) -> None:
    dictionaries = dictionaries_of("gpt2")
    together = score("gpt2", dictionaries, RAGGED, "relp", intervention=intervention)
    alone = score("gpt2", dictionaries, RAGGED, "relp", intervention=intervention, batch_size=1)
    anywhere = score("gpt2", dictionaries, RAGGED, "relp", intervention=intervention, by_position=False)
    for number in range(len(dictionaries)):
        assert torch.allclose(dense(together, number, 8), dense(alone, number, 8), atol=1e-12)
        assert torch.allclose(dense(together, number, 8).sum(0), dense(anywhere, number, 1)[-1], atol=1e-12)
    assert (anywhere.index[:, 1] == -1).all()


def test_what_features_have_no_place_for_is_refused(without_type_checks: None) -> None:
    dictionaries = dictionaries_of("gpt2")
    for method, message in (
        (RelP(reader="norm"), "reader: expected 'linear' for features, got 'norm'; leave it out"),
        (IntegratedGradients(reader="exact"), "reader: expected 'linear' for features, got 'exact'"),
        ("hisp", "expected one of a single backward pass"),
        ("nothing", "method: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            score("gpt2", dictionaries, EVEN, method)
    with pytest.raises(ValueError, match="candidates: expected none for method 'relp'"):
        score("gpt2", dictionaries, EVEN, "relp", candidates=score("gpt2", dictionaries, EVEN, "relp"))
    found = score("gpt2", dictionaries, EVEN, RelP(attention="ah"))
    assert found.metadata["settings"]["attention"] == "ah" and found.metadata["backward_passes"] == 1
    assert found.index[found.is_error, 2].eq(ERROR).all()


def test_a_model_in_float32_comes_back_untouched() -> None:
    model = build("gpt2").model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    score_features(model, neurons(model), EVEN, "logit_difference", quiet=True)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
