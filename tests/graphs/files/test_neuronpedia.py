"""Graphs for Neuronpedia's viewer: the rules of its schema, what the viewer needs beyond it, and a graph by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import prompt_pairs, tiny

from edge_circuits import eap
from edge_circuits.command.line import main
from edge_circuits.eap.attending import why_attends
from edge_circuits.graphs import Circuit, Graph, PromptPairs, ScoredGraph, prune
from edge_circuits.graphs.by_span import SpanCircuit, prune_spans
from edge_circuits.graphs.files.neuronpedia import export
from edge_circuits.graphs.metrics import load

GRAPH = Graph(2, 2)
SPANS = ("end", "name", "rest")
EDGES = {
    "input->a0.h1<v>@name": -2.0, "input->a0.h1<k>@name": 0.5, "a0.h1->m0@end": 0.25, "m0->a1.h0<q>@end": -1.0,
    "input->a1.h0<v>@name": 3.0, "a1.h0->logits@end": -4.0, "input->a1.h1<v>@name": 9.0,
}  # fmt: skip
REQUIRED = {
    "metadata": {"slug": str, "scan": str, "prompt_tokens": list, "prompt": str},
    "nodes": {"node_id": str, "feature": (int, type(None)), "layer": (str, int), "ctx_idx": int,
              "feature_type": str, "jsNodeId": str, "clerp": str},
    "links": {"source": str, "target": str, "weight": (int, float)},
}  # fmt: skip


def by_hand() -> SpanCircuit:
    scores = torch.zeros(*GRAPH.edge_mask.shape, len(SPANS))
    for name, score in EDGES.items():
        edge, span = name.split("@")
        scores[(*GRAPH.edge_index(edge), SPANS.index(span))] = score
    mask = scores != 0
    for cut in ("input->a0.h1<q>", "a0.h0->a1.h0<v>"):
        scores[(*GRAPH.edge_index(cut), SPANS.index("name"))] = 7.0
    example = ((" When", "rest"), (" Mary", "name"), (" Ann", "name"), (" to", "end"))
    return SpanCircuit(GRAPH, SPANS, mask, scores, {"metric": "logit_difference", "method": "eap"}, example)


def written(path: Path, circuit: Any, **settings: Any) -> dict[str, Any]:
    content = json.loads(export(circuit, path, **{"scan": "gpt2-small", **settings}).read_text())
    check(content)
    return content


def check(content: dict[str, Any]) -> None:
    """The schema's required entries and types, and what the viewer needs beyond them."""
    assert {"metadata", "qParams", "nodes", "links"} == content.keys()
    for name, entries in REQUIRED.items():
        for each in content[name] if isinstance(content[name], list) else [content[name]]:
            assert entries.keys() <= each.keys()
            assert all(isinstance(each[key], kind) and not isinstance(each[key], bool) for key, kind in entries.items())
    assert all(isinstance(token, str) for token in content["metadata"]["prompt_tokens"])
    ids = [node["node_id"] for node in content["nodes"]]
    assert len(set(ids)) == len(ids) == len({node["jsNodeId"] for node in content["nodes"]})
    assert all(link["source"] in ids and link["target"] in ids for link in content["links"])
    assert all(0 <= node["ctx_idx"] < len(content["metadata"]["prompt_tokens"]) for node in content["nodes"])
    assert max(int(node["layer"]) for node in content["nodes"] if node["layer"] != "E") > 0
    (logit,) = [node for node in content["nodes"] if node["feature_type"] == "logit"]
    assert '"' in logit["clerp"] and "(p=" in logit["clerp"]
    assert {isinstance(each, list) and set(each[1:]) <= set(ids) for each in content["qParams"]["supernodes"]} <= {True}


def test_a_graph_by_hand(tmp_path: Path) -> None:
    content = written(tmp_path / "my.graph.json", by_hand(), answer=(" Mary", 0.9), roles={"a1.h0": "mover"})
    nodes = {node["clerp"]: node for node in content["nodes"]}
    assert set(nodes) == {
        'Emb: " Ann"', "a0.h1 at name", "a0.h1 at end", "m0 at end", "a1.h0 at name", "a1.h0 at end", 'Output " Mary" (p=0.900)',
    }  # fmt: skip
    assert nodes['Emb: " Ann"']["ctx_idx"] == 2 and nodes["m0 at end"]["ctx_idx"] == 3
    assert (nodes["a1.h0 at end"]["layer"], nodes["a1.h0 at end"]["feature"]) == ("1", 0)
    names = {node["node_id"]: name for name, node in nodes.items()}
    links = {(names[link["source"]], names[link["target"]]): link["weight"] for link in content["links"]}
    assert links == {
        ('Emb: " Ann"', "a0.h1 at name"): -1.5, ("a0.h1 at name", "a0.h1 at end"): -1.5, ("a0.h1 at end", "m0 at end"): 0.25,
        ("m0 at end", "a1.h0 at end"): -1.0, ('Emb: " Ann"', "a1.h0 at name"): 3.0, ("a1.h0 at name", "a1.h0 at end"): 3.0,
        ("a1.h0 at end", 'Output " Mary" (p=0.900)'): -4.0,
    }  # fmt: skip
    assert dict(content["metadata"]["generation_settings"]["edges"]) == {
        name: score for name, score in EDGES.items() if "a1.h1" not in name
    }
    assert content["metadata"]["slug"] == "my.graph" and content["metadata"]["prompt"] == " When Mary Ann to"
    (supernode,) = content["qParams"]["supernodes"]
    assert supernode[0] == "mover" and {names[each] for each in supernode[1:]} == {"a1.h0 at name", "a1.h0 at end"}


def test_why_a_head_attends_stands_in_its_node(tmp_path: Path) -> None:
    plain = prompt_pairs([5, 4])
    rows = [[side[row, :n].tolist() for row, n in enumerate((5, 4))] for side in (plain.clean, plain.corrupted)]
    pairs = PromptPairs(*rows, plain.answers, plain.wrong_answers, spans={"name": [(1, 3), 1], "end": [-1, -1]})
    model = tiny("gpt2").model
    scores = eap.score(model, pairs, load("logit_difference"), "relp", by="span", quiet=True)
    circuit = prune_spans(scores, 150).over(pairs)
    head = next(name for name in circuit.anywhere.nodes if name.startswith("a2"))
    why = why_attends(model, pairs, head, "end", "name")
    content = written(tmp_path / "g.json", circuit, reasons=[why])
    (node,) = [each for each in content["nodes"] if each["clerp"] == f"{head} at end"]
    ids = {each["clerp"]: each["node_id"] for each in content["nodes"]} | {
        "input at name": f"E_0_{2}", "input at end": f"E_0_{4}",
    }  # fmt: skip
    traced = node["qk_tracing_results"]
    for q, k, value in traced["pair_wise_contributors"]:
        (a,) = [at for at, name in enumerate(why.sources) if ids.get(f"{name} at end") == q]
        (b,) = [at for at, name in enumerate(why.sources) if ids.get(f"{name} at name") == k]
        assert float(why.terms[a, b]) == value
    assert 1 < len(traced["pair_wise_contributors"]) <= 20
    for q, value in traced["top_q_marginal_contributors"]:
        (a,) = [at for at, name in enumerate(why.sources) if ids.get(f"{name} at end") == q]
        assert float(why.terms.sum(1)[a]) == value
    with pytest.raises(
        ValueError, match="reasons: expected heads that are read at the query's span, got a0.h0 at start"
    ):
        export(
            circuit,
            tmp_path / "h.json",
            scan="x",
            reasons=[
                SimpleNamespace(head="a0.h0", query="start", key="end", sources=("input",), terms=torch.zeros(1, 1))
            ],
        )


def test_the_command_puts_every_node_at_the_last_word(tmp_path: Path) -> None:
    graph = Graph(1, 2)
    scored = ScoredGraph(
        graph, torch.rand(graph.edge_mask.shape, generator=torch.Generator().manual_seed(0)) * graph.edge_mask
    )
    prune(scored, 12).save(tmp_path / "circuit.json")
    asked = ["convert", tmp_path / "circuit.json", "--to", "neuronpedia", "--out", tmp_path / "g.json"]
    assert main([*map(str, asked), "--scan", "gpt2-small", "--prompt", "Mary went to"]) == 0
    content = json.loads((tmp_path / "g.json").read_text())
    check(content)
    assert {node["ctx_idx"] for node in content["nodes"]} == {2}
    assert content["metadata"]["prompt_tokens"] == ["Mary", " went", " to"]
    assert main([*map(str, asked), "--scan", "gpt2 small", "--prompt", "Mary"]) == 2
    assert main([*map(str, asked), "--scan", "gpt2-small"]) == 2


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    bare = SpanCircuit(GRAPH, SPANS, by_hand().mask, by_hand().scores)
    for circuit, settings, message in (
        (by_hand(), dict(scan="a/b"), "scan: expected letters, digits and _.- alone"),
        (by_hand(), dict(slug="two words"), "slug: expected letters"),
        (by_hand(), dict(answer=(" Mary", 2.0)), "answer: expected a finite number from 0 and up to 1, got 2.0"),
        (bare, {}, "circuit.example: expected tokens of every span that has edges, got none of"),
        (Circuit.full(GRAPH), dict(tokens=["a"]), "circuit: expected one with scores, got one without"),
        (Circuit(GRAPH, GRAPH.edge_mask, GRAPH.edge_mask.float()), {}, "tokens: expected the prompt's tokens, got none"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            written(path, circuit, **settings)
    assert not path.exists()
