"""Pictures of feature circuits, and the tokens that label features."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from dictionaries import random_dictionary
from models import curved, prompt_pairs, tiny

from edge_circuits.eap.feature_edges import score_feature_edges
from edge_circuits.eap.feature_scores import score_features
from edge_circuits.graphs.features.dictionary import AnyDictionary, heads, neurons
from edge_circuits.graphs.features.drawing import feature_svg, kind_of, render_features, token_labels
from edge_circuits.graphs.features.edges import FeatureEdges
from edge_circuits.graphs.features.nodes import FeatureNodes
from edge_circuits.graphs.features.sites import Site, value_at
from edge_circuits.graphs.model.adapter import adapt

EVEN = prompt_pairs([6, 6, 6], seed=3)
SVG = "{http://www.w3.org/2000/svg}"


class Letters:
    """Token 7 is "t7"."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"t{token}" for token in ids]


def circuit() -> tuple[list[AnyDictionary], FeatureEdges]:
    model = tiny("gpt2").model
    dictionaries = [*neurons(model)[1:2], random_dictionary(Site("mlp_out", 0), 32), *heads(model)[1:2]]
    scores = score_features(model, dictionaries, EVEN, curved, "eap", quiet=True)
    tops = [scores[scores.index[:, 0] == site].top(4) for site in range(3)]
    index, values = (torch.cat([getattr(each, name) for each in tops]) for name in ("index", "scores"))
    nodes = FeatureNodes(scores.sites, scores.n_features, index, values)
    return dictionaries, score_feature_edges(model, dictionaries, nodes, EVEN, curved, "eap").top(15)


def test_every_node_and_edge_is_drawn_and_kinds_are_told_apart(tmp_path: Path) -> None:
    _, edges = circuit()
    nodes = edges.nodes
    labels = [f"label {row}" for row in range(len(nodes))]
    path = render_features(edges, tmp_path / "x.svg", labels=labels, tokens=list("abcdef"), title="a <title>")
    root = ElementTree.parse(path).getroot()
    groups = root.findall(f"{SVG}g")
    drawn = {group.find(f"{SVG}title").text.split("  ")[0]: group.get("class") for group in groups}
    expected = {f"{kind_of(nodes, row)} {name}": kind_of(nodes, row) for row, name in enumerate(nodes.names)}
    assert drawn == expected | {"feature logits": "feature"}
    assert set(expected.values()) == {"neuron", "feature", "head", "error"}
    looks = {
        group.get("class"): (group.find(f"{SVG}rect").get("fill"), group.find(f"{SVG}rect").get("rx"))
        for group in groups
    }
    assert len(set(looks.values())) == 4
    lines = root.findall(f"{SVG}path")
    assert {line.find(f"{SVG}title").text.split("  ")[0] for line in lines} <= set(edges.names)
    assert {name for name in edges.names if name.endswith("logits")} <= {
        line.find(f"{SVG}title").text.split("  ")[0] for line in lines
    }
    dashed = {line.find(f"{SVG}title").text.split("  ")[0] for line in lines if line.get("stroke-dasharray")}
    assert dashed <= {name for name, score in zip(edges.names, edges.scores.tolist()) if score > 0} and dashed
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"label 0", "a <title>", "m0", "m1.neuron", "z1"} <= set(texts)
    heights = {text.text: float(text.get("y")) for text in root.iter(f"{SVG}text")}
    assert heights["m0"] > heights["z1"] > heights["m1.neuron"] > heights["logits"]  # upwards as in the model
    assert feature_svg(edges, labels) == feature_svg(edges, labels)


def test_labels_are_the_tokens_on_which_a_feature_is_most_active() -> None:
    dictionaries, edges = circuit()
    labels = token_labels(tiny("gpt2").model, dictionaries, edges.nodes, EVEN, Letters(), n_tokens=2)
    transformer, both = adapt(tiny("gpt2").model), torch.cat((EVEN.clean, EVEN.corrupted))
    kept = transformer.forward(transformer.embed(both))
    for row, label in enumerate(labels):
        site, _, feature = edges.nodes.index[row].tolist()
        if feature < 0:
            assert label == ""
            continue
        dictionary = dictionaries[site]
        values = dictionary.active(dictionary.encode(value_at(transformer, kept, dictionary.site)))[:, :, feature]
        best = {token: values[both == token].max().item() for token in both.unique().tolist()}
        ranked = sorted((token for token in best if best[token] > 0), key=lambda token: -best[token])
        assert label == " ".join(f"t{token}" for token in ranked[:2])


@pytest.mark.parametrize("kind", ["embed", "mlp_out"])
def test_a_circuit_without_edges_is_drawn(kind: str) -> None:
    _, edges = circuit()
    assert ElementTree.fromstring(feature_svg(edges[:0])).findall(f"{SVG}path") == []
