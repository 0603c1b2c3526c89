"""The page of features: what it holds, and that a reader can use it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from browser import Browser
from test_page import payload_of

from edge_circuits.graphs.features.edges import LOGITS, FeatureEdges
from edge_circuits.graphs.features.nodes import ANY, ERROR, FeatureNodes
from edge_circuits.graphs.features.sites import Site
from edge_circuits.page.feature_page import write_feature_page

SITES = (Site("neurons", 1), Site("mlp_out", 0), Site("z", 1), Site("embed"))
NODES = [(1, 2, 7), (1, 3, 7), (1, 3, ERROR), (2, 3, 0), (2, 4, 0), (0, 4, 5), (3, ANY, 1)]
LABELS = ["cat dog", "", "", "", "", "Mary", ""]
EDGES = {  # (source, site, feature, part): score
    (0, 2, 0, 3): -0.9,  # feature 7 at 2 into v of head 0, which is read at 3 and 4
    (2, 2, 0, 1): 0.8,
    (3, 0, 5, 0): -0.7,  # at 3; neuron 5 is a node at 4 alone
    (4, 0, 5, 0): -0.6,
    (5, LOGITS, 0, 0): -0.5,
    (1, LOGITS, 0, 0): 0.4,
    (6, 1, 7, 0): -0.3,
}


def edges() -> FeatureEdges:
    index, scores = torch.tensor(list(EDGES)), torch.tensor(list(EDGES.values()))
    nodes = FeatureNodes(SITES, (9, 9, 2, 3), torch.tensor(NODES), torch.zeros(len(NODES)) - 0.5)
    return FeatureEdges(nodes, index, scores, {"method": "relp", "metric": "logit_difference"})


def test_an_edge_enters_its_own_position_or_by_attention_a_later_one() -> None:
    assert [edges().entered(i) for i in range(7)] == [[3, 4], [3, 4], [], [5], [], [], [0, 1]]


def test_nodes_stand_in_the_models_order_and_edges_by_rank(tmp_path: Path) -> None:
    content = payload_of(write_feature_page(tmp_path / "a.html", edges(), labels=LABELS, tokens=list("abcde"), k=3))
    nodes, side = content["graph"]["nodes"], content["sides"][0]
    assert [node["name"] for node in nodes] == [
        *("embed/1", "m0/7@2", "m0/error@3", "m0/7@3", "z1/0@3", "z1/0@4", "m1.neuron/5@4", "logits")
    ]
    assert [node["kind"] for node in nodes] == [
        *("feature", "feature", "error", "feature", "head", "head", "neuron", "logits")
    ]
    assert nodes[1]["told"] == ["feature at position 2, “c”", "most active on cat dog", "score -0.5"]
    names = [
        f"{nodes[s]['name']}->{content['graph']['destinations'][d]['name']}"
        for s, d in zip(side["source"], side["destination"])
    ]
    assert names == edges().names and side["score"] == pytest.approx(list(EDGES.values()))
    assert (content["k"], content["most"]) == (3, 7)


def test_what_a_page_of_features_cannot_show_is_refused(tmp_path: Path) -> None:
    for changed, settings, message in (
        (edges()[:0], {}, "edges: expected one or more with finite scores, got 0"),
        (edges(), {"labels": ["one"]}, "labels: expected 7, one for each node, got 1"),
        (edges(), {"k": 8}, "k: expected 0 to 7, got 8"),
    ):
        with pytest.raises(ValueError, match=message):
            write_feature_page(tmp_path / "a.html", changed, **settings)
    assert not list(tmp_path.iterdir())


def test_a_reader_prunes_traces_and_finds_features(browser: Browser, tmp_path: Path) -> None:
    path = write_feature_page(tmp_path / "a.html", edges(), labels=LABELS, tokens=list("abcde"))
    browser.open(path)
    live = {"m0/7@2->z1/0<v>", "m0/error@3->z1/0<q>", "z1/0@4->m1.neuron/5", "m1.neuron/5@4->logits", "m0/7@3->logits"}
    assert set(browser.edges()) == live | {"embed/1->m0/7"}  # z1/0@3 enters no node
    browser.choose(6)
    assert set(browser.edges()) == live
    browser.choose(4)
    assert browser.edges() == [] and "No path of these edges leads to logits; from 5 edges on one does" in browser.text(
        "figcaption"
    )
    browser.choose(7)
    kinds = "return Object.fromEntries([...document.querySelectorAll('.node')].map((node) => [node.dataset.node, node.classList[1]]))"
    assert browser.do(kinds)["m1.neuron/5@4"] == "neuron" and browser.do(kinds)["m0/error@3"] == "error"
    assert "Mary" in browser.text("[data-node='m1.neuron/5@4']")
    browser.do("const s = document.getElementById('search'); s.value = 'mary'; s.dispatchEvent(new Event('input'))")
    assert browser.text("#found") == "1 found"
    browser.do("document.querySelector(`[data-node='m0/7@3']`).dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert "feature at position 3" in browser.text("#selected") and "1 edges in, 1 out" in browser.text("#selected")
    browser.toggle("feature")
    assert "embed/1->m0/7" not in browser.edges()
    assert not browser.errors()
    assert {url for url in browser.requests() if not url.startswith("data:")} == {path.as_uri()}
