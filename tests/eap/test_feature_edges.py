"""Scores of edges between features, heads and logits, against edges of whole nodes and a literal reference."""

from __future__ import annotations

import pytest
import torch
from dictionaries import random_dictionary
from models import curved, logit_difference, native, one_by_one, prompt_pairs, prompts_of, tiny
from references.features import edge_effects

from edge_circuits.eap.feature_edges import score_feature_edges
from edge_circuits.eap.feature_scores import score_features
from edge_circuits.eap.methods.integrated_gradients import IntegratedGradients
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.eap.scoring import score
from edge_circuits.graphs.features.dictionary import AnyDictionary, Coordinates, heads, neurons
from edge_circuits.graphs.features.edges import LOGITS, FeatureEdges
from edge_circuits.graphs.features.nodes import ANY, FeatureNodes
from edge_circuits.graphs.features.sites import Site
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.nodes import parse_destination, parse_source

KINDS = ("layer-norm", "neox-parallel", "attention-only", "rms-gated-grouped")
EVEN = prompt_pairs([6, 6, 6], seed=3)


def every(dictionaries: list[AnyDictionary], errors: bool = False) -> FeatureNodes:
    """All features, each at all positions."""
    rows = [(n, ANY, f) for n, each in enumerate(dictionaries) for f in range(-1 if errors else 0, each.n_features)]
    sites, counts = zip(*((each.site, each.n_features) for each in dictionaries))
    return FeatureNodes(sites, counts, torch.tensor(rows), torch.zeros(len(rows)))


def summed(edges: FeatureEdges) -> dict[tuple[str, str], float]:
    """Scores by source and destination of whole nodes, neurons or experts of an MLP added up."""
    nodes, found = edges.nodes, {}

    def node(site: Site, feature: int) -> str:
        kinds = {"embed": "input", "z": f"a{site.layer}.h{feature}"} | dict.fromkeys(
            ("neurons", "experts"), f"m{site.layer}"
        )
        return kinds[site.kind]

    for (row, at, feature, part), value in zip(edges.index.tolist(), edges.scores.tolist()):
        start = node(nodes.sites[nodes.index[row, 0]], int(nodes.index[row, 2]))
        end = "logits" if at == LOGITS else node(nodes.sites[at], feature) + ("", "<q>", "<k>", "<v>")[part]
        found[start, end] = found.get((start, end), 0.0) + value
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["eap", "relp"])
def test_edges_of_the_identity_are_the_edges_between_heads_and_mlps(kind: str, method: str) -> None:
    """Every edge of the graph: neurons' edges add up to their MLP's."""
    model = tiny(kind).model
    dictionaries = [Coordinates(Site("embed"), 1, adapt(model).W_U.shape[0]), *heads(model)]
    dictionaries += neurons(model) if tiny(kind).literal.mlps else []
    nodes = every(dictionaries)
    found = summed(score_feature_edges(model, dictionaries, nodes, EVEN, curved, method))
    scored = score(model, EVEN, curved, method, quiet=True)
    scale = scored.scores.abs().max().item()
    for edge, value in zip(scored.graph.edges, _values(scored)):
        start, end = edge.split("->")
        assert abs(found.pop((start, end), 0.0) - value) < 1e-11 * scale, edge
    assert not found  # nothing between nodes that the graph does not join


def _values(scored: object) -> list[float]:
    """Scores in the order of `graph.edges`."""
    graph = scored.graph
    ends = (edge.split("->") for edge in graph.edges)
    return [scored.scores[graph.source_index(start), graph.destination_index(end)].item() for start, end in ends]


@pytest.mark.parametrize("method", ["eap", "eap-ig:steps=3"])
@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "neox-parallel"])
def test_edges_between_features_are_the_literal_derivatives(kind: str, method: str) -> None:
    pair = EVEN[[1]]
    (prompt,), metric = prompts_of(pair), one_by_one(curved, pair)
    sites = [Site("mlp_out", 0), Site("attention_out", 1), Site("mlp_out", 1)]
    dictionaries = [random_dictionary(site, 32, n=7, seed=n) for n, site in enumerate(sites)]
    places = [(site.kind, site.layer) for site in sites]
    weights = {p: (d.W_enc, d.b_enc, d.W_dec, d.b_dec) for p, d in zip(places, dictionaries)}
    nodes = score_features(tiny(kind).model, dictionaries, pair, curved, "eap", quiet=True)
    index = torch.tensor([(n, at, f) for n in range(3) for at in range(6) for f in range(7)])
    nodes = FeatureNodes(nodes.sites, nodes.n_features, index, torch.zeros(len(index)))
    edges = score_feature_edges(tiny(kind).model, dictionaries, nodes, pair, curved, method)
    for source, destination in ((0, 1), (0, 2), (1, 2)):
        expected = edge_effects(
            tiny(kind).literal,
            prompt.clean,
            prompt.corrupted,
            lambda out: metric(out[prompt.position], 0),
            weights,
            places[source],
            places[destination],
            steps=0 if method == "eap" else 3,
        )
        found = torch.zeros_like(expected)
        for (row, at, into, _), value in zip(edges.index.tolist(), edges.scores.tolist()):
            site, position, feature = nodes.index[row].tolist()
            if (site, at) == (source, destination):
                found[feature, position, into] += value  # attention's q, k and v together
        if kind == "neox-parallel" and (source, destination) == (1, 2):
            assert not found.any()  # heads do not feed their own layer's MLP
            continue
        assert expected.abs().max() > 1e-6
        assert (found - expected).abs().max() < 1e-11 * expected.abs().max(), (source, destination)


@pytest.mark.parametrize("intervention", ["patching", "mean-positional"])
def test_integrated_gradients_of_one_step_are_the_plain_gradient(intervention: str) -> None:
    model = tiny("gemma2").model
    dictionaries = [random_dictionary(Site("mlp_out", 0), 32), *heads(model)[1:]]
    nodes = score_features(model, dictionaries, EVEN, curved, "eap", quiet=True).top(12)
    both = [
        score_feature_edges(model, dictionaries, nodes, EVEN, curved, method, intervention=intervention)
        for method in ("eap", IntegratedGradients(steps=1))
    ]
    assert len(both[0]) > 12 and both[0].names == both[1].names
    assert torch.allclose(both[0].scores, both[1].scores, rtol=1e-10, atol=1e-14)


def test_integrated_gradients_into_the_logits_add_up_to_the_metrics_change() -> None:
    """All that is written, the embedding too, is cut in what `logits` reads: the sum tends to the change of the metric."""
    model = tiny("gpt2").model
    dictionaries = [Coordinates(Site("embed"), 1, adapt(model).W_U.shape[0]), *heads(model), *neurons(model)]
    method = IntegratedGradients(steps=30, rule="midpoint")
    edges = score_feature_edges(model, dictionaries, every(dictionaries), EVEN, curved, method)
    into_logits = edges.scores[edges.index[:, 1] == LOGITS].sum().item()
    rows = torch.arange(len(EVEN))
    clean, cut = (curved(model(x)[rows, EVEN.positions], EVEN).mean().item() for x in (EVEN.clean, EVEN.corrupted))
    assert into_logits == pytest.approx(cut - clean, rel=1e-4)


def test_edges_into_the_logits_of_the_last_site_are_node_scores() -> None:
    model = tiny("gpt2").model
    dictionaries = [random_dictionary(Site("mlp_out", 2), 32)]
    nodes = score_features(model, dictionaries, EVEN, curved, "relp", quiet=True)
    edges = score_feature_edges(model, dictionaries, nodes, EVEN, curved, "relp")
    assert set(edges.index[:, 1].tolist()) == {LOGITS}
    found = dict(zip(edges.names, edges.scores.tolist()))
    for name, value in zip(nodes.names, nodes.scores.tolist()):
        assert found[f"{name}->logits"] == pytest.approx(value, abs=1e-12)


def linear_model() -> object:
    model = native(attn_only=True, normalization_type=None).double()
    for name, weight in model.named_parameters():
        if ".q." in name or ".k." in name:
            weight.data.zero_()
    return model


def test_exact_edges_are_the_scores_of_a_linear_model() -> None:
    """Neither features that switch on nor anything else bends, so a gradient is exact."""
    model = linear_model()
    dictionaries = [
        random_dictionary(Site("embed"), 24, n=4, activation="linear"),
        random_dictionary(Site("attention_out", 0), 24, n=4, activation="linear"),
        heads(model)[1],
    ]
    nodes = every(dictionaries, errors=True)
    nodes = nodes[~(nodes.is_error & (nodes.index[:, 0] == 2))]
    exact, eap = (score_feature_edges(model, dictionaries, nodes, EVEN, logit_difference, m) for m in ("exact", "eap"))
    found, expected = (dict(zip(each.names, each.scores.tolist())) for each in (exact, eap))
    assert len(expected) > 40
    for name, value in expected.items():
        assert found.get(name, 0.0) == pytest.approx(value, abs=1e-12), name
    assert "embed/error->z1/0<v>" in expected and "a0/2->z1/3<v>" in expected


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_exact_edges_of_all_nodes_at_once_cut_a_destinations_whole_input(kind: str) -> None:
    """A transcoder-free check by the graph's own exact patching: heads' edges into heads and logits."""
    model = tiny(kind).model
    dictionaries = heads(model)[:2]
    nodes = every(dictionaries)
    pair = EVEN[[0]]
    edges = score_feature_edges(model, dictionaries, nodes, pair, curved, "exact")
    scored = score(model, pair, curved, "exact", quiet=True)
    for (start, end), value in summed(edges).items():
        graph = scored.graph
        expected = scored.scores[graph.source_index(start), graph.destination_index(end)].item()
        assert value == pytest.approx(expected, abs=1e-9), (start, end)
        assert parse_source(start).layer < (parse_destination(end).layer or 9)


def test_what_edges_have_no_place_for_is_refused(without_type_checks: None) -> None:
    model, dictionaries = tiny("gpt2").model, [random_dictionary(Site("mlp_out", 1), 32)]
    nodes = every(dictionaries)
    for method, message in (
        (RelP(reader="norm"), "reader: expected 'linear' for edges of features, got 'norm'; leave it out"),
        (RelP(attention="secant"), "attention rule 'secant' serves one forward pass"),
    ):
        with pytest.raises(ValueError, match=message):
            score_feature_edges(model, dictionaries, nodes, EVEN, curved, method)
    stream = [random_dictionary(Site("resid_pre", 1), 32)]
    with pytest.raises(ValueError, match="site r1: expected sites that a source writes"):
        score_feature_edges(model, stream, every(stream), EVEN, curved)
    with pytest.raises(ValueError, match="nodes: expected nodes of these dictionaries"):
        score_feature_edges(model, stream, nodes, EVEN, curved)


def test_a_destination_counts_at_its_positions_alone() -> None:
    model = tiny("gpt2").model
    dictionaries = [random_dictionary(Site("mlp_out", 0), 32, n=3), random_dictionary(Site("mlp_out", 1), 32, n=1)]
    sources = [(0, at, feature) for at in range(6) for feature in range(3)]

    def edges(into: list[int]) -> dict[str, float]:
        index = torch.tensor([*sources, *((1, at, 0) for at in into)])
        table = FeatureNodes(tuple(d.site for d in dictionaries), (3, 1), index, torch.zeros(len(index)))
        found = score_feature_edges(model, dictionaries, table, EVEN, curved, "eap")
        return {name: value for name, value in zip(found.names, found.scores.tolist()) if name.endswith("->m1/0")}

    whole, single = edges([ANY]), edges([4])
    assert single and all(name.split("->")[0].endswith("@4") for name in single)  # an MLP reads its own position alone
    assert all(value == pytest.approx(whole[name], abs=1e-14) for name, value in single.items())
    assert len(whole) > len(single)
