"""Circuits of features as models, against literal substitution and by identities."""

from __future__ import annotations

import pytest
import torch
from dictionaries import random_dictionary
from models import D_VOCAB, RAGGED, prompt_pairs, prompts_of, tiny
from references.features import decode, encode, run, site_values

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.features.dictionary import AnyDictionary, Dictionary, heads, neurons
from edge_circuits.graphs.features.edges import LOGITS, FeatureEdges
from edge_circuits.graphs.features.nodes import ANY, ERROR, FeatureNodes
from edge_circuits.graphs.features.running import Dissection, run_features
from edge_circuits.graphs.features.sites import Site, changing, value_at
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.execution import run as run_edges

KINDS = ("gpt2", "gemma2", "neox-parallel", "attention-only", "rms-gated-grouped")
SITES = (Site("embed"), Site("attention_out", 0), Site("mlp_out", 0), Site("resid_pre", 1))
EVEN = prompt_pairs([6, 6, 6], seed=3)


def width_of(kind: str) -> int:
    return adapt(tiny(kind).model).W_U.shape[0]


def dictionaries_of(kind: str) -> list[Dictionary]:
    sites = [site for site in SITES if site.kind != "mlp_out" or tiny(kind).literal.mlps]
    sites.append(Site("resid_post", tiny(kind).literal.n_layers - 1))
    return [random_dictionary(site, width_of(kind), seed=number) for number, site in enumerate(sites)]


def nodes_of(dictionaries: list[AnyDictionary], rows: list[tuple[int, int, int]]) -> FeatureNodes:
    sites, counts = zip(*((each.site, each.n_features) for each in dictionaries))
    return FeatureNodes(sites, counts, torch.tensor(rows, dtype=torch.long).reshape(-1, 3), torch.zeros(len(rows)))


def everything(dictionaries: list[AnyDictionary]) -> FeatureNodes:
    rows = [(number, ANY, f) for number, each in enumerate(dictionaries) for f in (*range(each.n_features), ERROR)]
    return nodes_of(dictionaries, rows)


def some(dictionaries: list[AnyDictionary], n_positions: int, seed: int = 0) -> FeatureNodes:
    """Half of all nodes."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        (number, at, feature)
        for number, each in enumerate(dictionaries)
        for at in range(n_positions)
        for feature in (*range(each.n_features), ERROR)
    ]
    return nodes_of(dictionaries, [row for row in rows if torch.rand((), generator=generator) < 0.5])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intervention", ["patching", "zero", "mean-positional"])
def test_a_circuit_is_the_literal_substitution(kind: str, intervention: str) -> None:
    model, dictionaries, n = tiny(kind), dictionaries_of(kind), 6
    nodes = some(dictionaries, n)
    found = run_features(model.model, dictionaries, nodes, EVEN, intervention)
    weights = {(d.site.kind, d.site.layer): (d.W_enc, d.b_enc, d.W_dec, d.b_dec) for d in dictionaries}
    cuts = []
    for prompt in prompts_of(EVEN):
        values = site_values(model.literal, prompt.corrupted)
        features = {place: encode(each, values[place]) for place, each in weights.items()}
        cuts.append({p: (features[p], values[p] - decode(weights[p], features[p])) for p in weights})
    if intervention == "zero":
        cuts = [{p: tuple(0 * x for x in pair) for p, pair in cut.items()} for cut in cuts]
    if intervention == "mean-positional":
        cuts = [{p: tuple(sum(cut[p][i] for cut in cuts) / 3 for i in (0, 1)) for p in weights}] * 3
    masks = {}
    for number, place in enumerate(weights):
        kept, error = nodes.kept(number, n)
        masks[place] = (kept.double(), error[:, None].double())
    for row, prompt in enumerate(prompts_of(EVEN)):
        expected = run(model.literal, prompt.clean, cuts[row], weights, masks)[prompt.position]
        assert (found[row] - expected).abs().max() < 1e-10 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_with_every_node_kept_the_run_is_the_models_own(kind: str) -> None:
    model, transformer = tiny(kind).model, adapt(tiny(kind).model)
    for dictionaries in (
        dictionaries_of(kind),
        heads(model),
        neurons(model) if tiny(kind).literal.mlps else heads(model),
    ):
        found = run_features(model, dictionaries, everything(dictionaries), RAGGED)
        expected = run_edges(model, Circuit.full(transformer.graph), RAGGED)
        assert (found - expected).abs().max() < 1e-12
        kept = run_features(model, dictionaries, nodes_of(dictionaries, []), RAGGED, complement=True)
        assert torch.equal(found, kept)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "rms-gated-grouped"])
@pytest.mark.parametrize("intervention", ["patching", "zero", "mean", "mean-positional"])
def test_without_neurons_an_mlp_writes_what_its_neurons_average_to(kind: str, intervention: str) -> None:
    """All neurons of a layer cut: the layer's output is its output weights' map of the cut values."""
    model, transformer = tiny(kind).model, adapt(tiny(kind).model)
    neuron = neurons(model)[:1]
    found = run_features(model, neuron, nodes_of(neuron, []), EVEN, intervention)
    mlp, post = transformer.blocks[0].mlp, transformer.blocks[0].mlp_post_norm
    hidden = value_at(transformer, transformer.forward(transformer.embed(EVEN.corrupted)), neuron[0].site)
    hidden = {"patching": hidden, "zero": 0 * hidden, "mean": hidden.mean((0, 1)), "mean-positional": hidden.mean(0)}
    written = hidden[intervention] @ mlp.W_out + (0 if mlp.b_out is None else mlp.b_out)
    written = written if post is None else (written * post.inverse_scale(written) * post.weight)
    dissection = Dissection(model, neuron, EVEN, "zero")
    operations = changing(transformer, {(Site("mlp_out", 0), "site"): lambda value, read: written.expand_as(value)})
    expected = dissection.logits(dissection.forward(EVEN.clean, EVEN, operations), EVEN)
    assert (found - expected).abs().max() < 1e-10


def test_transcoders_encode_what_the_mlp_reads_and_replace_what_it_writes() -> None:
    model, transformer = tiny("gpt2").model, adapt(tiny("gpt2").model)
    block, clean = transformer.blocks[1], transformer.forward(transformer.embed(EVEN.clean))
    norm, x = block.mlp_norm, clean.mlp_in[1]
    plain = (x - x.mean(-1, keepdim=True)) * ((x.var(-1, keepdim=True, correction=0) + norm.eps) ** -0.5)
    for reads, expected in (("stream", x), ("normalised", plain), ("normed", plain * norm.weight + norm.bias)):
        transcoder = random_dictionary(Site("mlp_out", 1), 32, reads=reads)
        parts = Dissection(model, [transcoder], EVEN, "patching").parts(0, clean)
        assert torch.allclose(parts.features, transcoder.encode(expected), atol=1e-12)
        assert torch.allclose(parts.error + transcoder.decode(parts.features), clean.mlp_out[1], atol=1e-12)
        found = run_features(model, [transcoder], everything([transcoder]), EVEN)
        assert torch.allclose(found, transformer.unembed(clean.final[:, -1]), atol=1e-12)
        cut = run_features(model, [transcoder], nodes_of([transcoder], []), EVEN, "zero", errors="kept")
        less = parts.features @ transcoder.W_dec
        operations = changing(transformer, {(Site("mlp_out", 1), "site"): lambda value, read: value - less})
        without = transformer.forward(transformer.embed(EVEN.clean), operations=operations)
        assert torch.allclose(cut, transformer.unembed(without.final[:, -1]), atol=1e-12)


def test_an_untrained_dictionary_leaves_all_in_the_error_and_the_run_is_the_models_own() -> None:
    model = tiny("gpt2").model
    dead = [random_dictionary(Site("mlp_out", 1), 32)]
    dead = [Dictionary(dead[0].site, dead[0].W_enc, dead[0].b_enc - 1e3, dead[0].W_dec, dead[0].b_dec)]
    errors = nodes_of(dead, [(0, ANY, ERROR)])
    expected = run_edges(model, Circuit.full(adapt(model).graph), RAGGED)
    assert torch.allclose(run_features(model, dead, errors, RAGGED), expected, atol=1e-12)
    assert not torch.allclose(run_features(model, dead, nodes_of(dead, []), RAGGED), expected, atol=1e-3)
    assert torch.allclose(run_features(model, dead, nodes_of(dead, []), RAGGED, errors="kept"), expected, atol=1e-12)


def test_errors_can_be_kept_or_cut_whatever_the_nodes_say() -> None:
    model, dictionaries = tiny("gpt2").model, dictionaries_of("gpt2")
    nodes = some(dictionaries, 6)
    features = nodes[~nodes.is_error]
    with_errors = nodes_of(
        dictionaries, [*features.index.tolist(), *((n, ANY, ERROR) for n in range(len(dictionaries)))]
    )
    for errors, same in (("kept", with_errors), ("cut", features)):
        expected = run_features(model, dictionaries, same, EVEN)
        assert torch.equal(run_features(model, dictionaries, nodes, EVEN, errors=errors), expected)


def test_a_batch_changes_nothing_and_a_model_comes_back_untouched() -> None:
    model, dictionaries = tiny("llama").model, dictionaries_of("llama")
    nodes = some(dictionaries, 8)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for intervention in ("patching", "mean-positional"):
        together = run_features(model, dictionaries, nodes, RAGGED, intervention)
        alone = run_features(model, dictionaries, nodes, RAGGED, intervention, batch_size=1)
        assert torch.allclose(together, alone, atol=1e-12)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert together.shape == (4, D_VOCAB)


def test_names_masks_and_ranks_of_nodes() -> None:
    dictionaries = [random_dictionary(Site("mlp_out", 1), 8), *heads(tiny("gpt2").model)[2:]]
    table = nodes_of(dictionaries, [(0, 3, 17), (0, ANY, ERROR), (1, 0, 2)])
    table = FeatureNodes(table.sites, table.n_features, table.index, torch.tensor([0.1, -3.0, 2.0]))
    assert table.names == ["m1/17@3", "m1/error", "z2/2@0"]
    assert table.top(2).names == ["m1/error", "z2/2@0"]
    edges = FeatureEdges(table, torch.tensor([[0, LOGITS, 0, 0], [1, LOGITS, 0, 0]]), torch.tensor([0.1, -3.0]))
    assert edges.top(1).names == ["m1/error->logits"]
    for ranked in (table, edges):
        with pytest.raises(ValueError, match="k: expected a number from 0 on and finite scores, got -1"):
            ranked.top(-1)
    assert (table.total(0), table.total(1)) == (pytest.approx(-2.9), 2.0)
    features, error = table.kept(0, 4)
    assert features.nonzero().tolist() == [[3, 17]] and error.all()
    assert not table.kept(0, 2)[0].any()


def test_bad_input_is_refused(without_type_checks: None) -> None:
    model, dictionary = tiny("gpt2").model, random_dictionary(Site("mlp_out", 1), 32)
    nothing = nodes_of([dictionary], [])
    for dictionaries, message in (
        ([], "expected one or more, each at a place of its own, got none"),
        ([dictionary, dictionary], "each at a place of its own, got Site.* twice"),
        ([random_dictionary(Site("mlp_out", 9), 32)], "gpt2.* has the layers 0 to 2|has the layers 0 to 2"),
        ([random_dictionary(Site("mlp_out", 1), 31)], "expected to read 32 numbers and write 32 in this model, got 31"),
        ([random_dictionary(Site("mlp_out", 0), 32)], "expected nodes of the sites m0, got nodes of m1"),
    ):
        with pytest.raises(ValueError, match=message):
            run_features(model, dictionaries, nothing, EVEN)
    with pytest.raises(ValueError, match="errors: expected one of nodes, kept, cut, got 'all'"):
        run_features(model, [dictionary], nothing, EVEN, errors="all")
    with pytest.raises(ValueError, match="no MLP there"):
        run_features(tiny("attention-only").model, [random_dictionary(Site("mlp_out", 0), 24)], nothing, EVEN)
    with pytest.raises(ValueError, match="site embed: expected no layer, got 3"):
        Site("embed", 3)
