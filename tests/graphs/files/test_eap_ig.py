"""Files of EAP-IG and MIB are read and written as those projects do it, and published scores come out right.

The files here are written out by hand from the layouts, independently of the code that writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.files.eap_ig import export, import_circuit, import_scores
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.scores import ScoredGraph

REFERENCE = Path(__file__).parents[4] / "shared" / "reference"

HAND = Graph(1, 1)
HAND_SCORES = {
    "input->a0.h0<q>": 0.5,
    "input->a0.h0<k>": -0.25,
    "input->a0.h0<v>": 2.0,
    "input->m0": 0.0,
    "a0.h0->m0": -1.0,
    "input->logits": 1.5,
    "a0.h0->logits": 3.0,
    "m0->logits": -4.0,
}
HAND_KEPT = {"input->a0.h0<v>", "a0.h0->logits", "m0->logits"}
ENDINGS = [".json", ".pt"]


def json_content() -> dict[str, Any]:
    """By hand: one layer, one head, three edges kept, one of them (m0->logits) a dead end."""
    return {
        "cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": False, "d_model": 16},
        "nodes": {
            "input": {"in_graph": True},
            "a0.h0": {"in_graph": True},
            "m0": {"in_graph": False},
            "logits": {"in_graph": True},
        },
        "edges": {name: {"score": score, "in_graph": name in HAND_KEPT} for name, score in HAND_SCORES.items()},
    }


def pt_content() -> dict[str, Any]:
    """The same; rows input, a0.h0, m0, columns q, k, v, m0, logits."""
    scores = torch.tensor([[0.5, -0.25, 2.0, 0.0, 1.5], [0.0, 0.0, 0.0, -1.0, 3.0], [0.0, 0.0, 0.0, 0.0, -4.0]])
    kept = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    return {
        "cfg": json_content()["cfg"],
        "src_nodes": ["input", "a0.h0", "m0"],
        "dst_nodes": ["a0.h0<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits"],
        "edges_scores": scores,
        "edges_in_graph": kept,
        "nodes_in_graph": torch.tensor([True, True, False]),
    }


def write(content: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        torch.save(content, path)
    return path


@pytest.fixture(params=ENDINGS)
def by_hand(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The file made by hand, in either layout."""
    content = json_content() if request.param == ".json" else pt_content()
    return write(content, tmp_path / f"by_hand{request.param}")


# Reading


def test_scores_are_read_by_name(by_hand: Path) -> None:
    scored = import_scores(by_hand, negate=False)
    assert scored.graph == HAND and scored.scores.dtype == torch.float32
    assert {name: scored.score(name) for name in HAND.edges} == HAND_SCORES


def test_negate_turns_the_sign_and_nothing_else(by_hand: Path) -> None:
    scored = import_scores(by_hand, negate=True)
    assert scored.scores.equal(import_scores(by_hand).scores)  # a file that does not say is taken for one of a loss
    assert {name: scored.score(name) for name in HAND.edges} == {name: -score for name, score in HAND_SCORES.items()}
    assert not torch.signbit(scored.scores[scored.scores == 0]).any()


def test_the_marked_circuit_is_read_with_its_dead_ends(by_hand: Path) -> None:
    circuit = import_circuit(by_hand)
    assert set(circuit.edges) == HAND_KEPT
    assert torch.equal(circuit.scores, import_scores(by_hand).scores)
    assert torch.equal(import_circuit(by_hand, negate=False).scores, -circuit.scores)


def test_metadata_tells_the_origin(by_hand: Path) -> None:
    metadata = import_scores(by_hand, negate=True, metadata={"method": "eap-ig"}).metadata
    imported = {"layout": f"EAP-IG {by_hand.suffix}", "file": by_hand.name, "negated": True}
    assert metadata == {"d_model": 16, "imported": imported, "method": "eap-ig"}


def test_older_files_with_plain_nodes_and_unscored_edges_are_read(tmp_path: Path) -> None:
    content = json_content()
    content["nodes"] = {name: node["in_graph"] for name, node in content["nodes"].items()}
    content["cfg"].pop("d_model")
    for entry in content["edges"].values():
        entry["score"] = None
    path = write(content, tmp_path / "older.json")
    circuit = import_circuit(path)
    assert set(circuit.edges) == HAND_KEPT and circuit.scores is None and "d_model" not in circuit.metadata
    with pytest.raises(ValueError, match="older.json: expected a score for every edge, got fewer; import_circuit"):
        import_scores(path)


def test_a_circuit_may_list_only_its_edges(tmp_path: Path) -> None:
    content = json_content()
    content["edges"] = {name: content["edges"][name] for name in HAND_KEPT}
    circuit = import_circuit(write(content, tmp_path / "few.json"))
    assert set(circuit.edges) == HAND_KEPT and circuit.scores is None
    content["edges"] = {}
    assert import_circuit(write(content, tmp_path / "none.json")).n_edges == 0


def test_float64_is_kept_where_float32_would_lose_digits(tmp_path: Path) -> None:
    content = json_content()
    content["edges"]["input->m0"]["score"] = 0.1
    scored = import_scores(write(content, tmp_path / "wide.json"))
    assert scored.scores.dtype == torch.float64 and scored.score("input->m0") == -0.1


def test_entries_that_are_no_edges_are_ignored(tmp_path: Path) -> None:
    """EAP-IG marks whole rows when it chooses nodes, and leaves NaN where it never looks."""
    content = pt_content()
    content["edges_in_graph"][2] = True
    content["edges_scores"][2, :4] = float("nan")
    path = write(content, tmp_path / "rows.pt")
    assert set(import_circuit(path).edges) == HAND_KEPT
    assert import_scores(path).score("m0->logits") == 4.0


def test_files_without_mlps_are_read_as_attention_only(tmp_path: Path) -> None:
    content = json_content()
    content["nodes"].pop("m0")
    content["edges"] = {name: entry for name, entry in content["edges"].items() if "m0" not in name}
    scored = import_scores(write(content, tmp_path / "attention.json"))
    assert scored.graph == Graph(1, 1, mlps=False) and scored.score("a0.h0->logits") == -3.0


# Writing


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_is_the_layout(tmp_path: Path, ending: str) -> None:
    expected = json_content() if ending == ".json" else pt_content()
    circuit = import_circuit(write(expected, tmp_path / f"by_hand{ending}"))
    export(circuit, tmp_path / f"written{ending}")
    if ending == ".json":
        written = json.loads((tmp_path / "written.json").read_text())
        ours = {name: written.pop(name) for name in ("score_sign", "scored", "digest")}
        assert written == expected and list(written["edges"]) == list(HAND.edges)
        assert (ours["score_sign"], ours["scored"]) == ("loss", "all edges")
    else:
        written = torch.load(tmp_path / "written.pt", weights_only=True)
        assert written.keys() == expected.keys() | {"score_sign", "scored"}
        for name, value in expected.items():
            is_same = torch.equal(written[name], value) if isinstance(value, torch.Tensor) else written[name] == value
            assert is_same, name


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("negate", [None, False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "graph",
    [Graph(3, 2), Graph(3, 2, parallel=True), Graph(3, 3, mlps=False)],
    ids=["sequential", "parallel", "attention"],
)
def test_values_come_back(
    tmp_path: Path, graph: Graph, ending: str, negate: bool, dtype: torch.dtype, random_mask: Callable
) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(graph.edge_mask.shape, generator=generator, dtype=dtype) * graph.edge_mask
    scored = ScoredGraph(graph, scores)
    export(scored, tmp_path / f"scores{ending}", negate=negate, d_model=8)
    back = import_scores(tmp_path / f"scores{ending}")
    assert back.graph == graph and back.scores.dtype == dtype and torch.equal(back.scores, scores)
    assert import_circuit(tmp_path / f"scores{ending}").n_edges == 0

    circuit = Circuit(graph, random_mask(graph, 0.3, 1))
    export(circuit, tmp_path / f"circuit{ending}", d_model=8)
    back = import_circuit(tmp_path / f"circuit{ending}")
    assert back == circuit and back.scores is None


def test_attention_only_is_written_with_idle_mlps(tmp_path: Path) -> None:
    """EAP-IG's graph has an MLP in every layer and refuses tensors of another shape."""
    export(Circuit.full(Graph(1, 1, mlps=False)), tmp_path / "attention.pt", d_model=8)
    written = torch.load(tmp_path / "attention.pt", weights_only=True)
    assert written["cfg"]["attn_only"] is True
    assert written["src_nodes"] == ["input", "a0.h0", "m0"] and written["edges_scores"].shape == (3, 5)
    assert not written["edges_in_graph"][2].any() and not written["edges_in_graph"][:, 3].any()


def test_what_the_layout_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="<k> and <v> per query head.*score with kv_destinations='query-head'"):
        export(Circuit.full(Graph(1, 4, n_kv_heads=2)), tmp_path / "file.json", d_model=8)
    with pytest.raises(
        ValueError, match="d_model: expected a whole number from 1, got None; the width of the residual stream"
    ):
        export(Circuit.full(HAND), tmp_path / "file.json")
    with pytest.raises(ValueError, match="path: expected an ending .json or .pt, .*, got .*file.npz"):
        export(Circuit.full(HAND), tmp_path / "file.npz", d_model=8)
    infinite = ScoredGraph(HAND, torch.full((3, 5), float("inf")).where(HAND.edge_mask, 0))
    with pytest.raises(ValueError, match="scores: expected finite numbers, .*, got NaN or infinite"):
        export(infinite, tmp_path / "file.json", d_model=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("negate", "metadata", "sign", "written"),
    [
        (None, {}, "loss", -1.0),
        (None, {"signed": True}, "loss", -1.0),
        (None, {"signed": False}, "size", 1.0),
        (False, {}, "metric", 1.0),
        (True, {}, "loss", -1.0),
    ],
)
def test_a_file_says_which_sign_its_scores_have(
    tmp_path: Path, ending: str, negate: bool | None, metadata: dict, sign: str, written: float
) -> None:
    """The score 1.0 of every edge says that cutting it raises the metric, which EAP-IG calls -1.0."""
    scored = ScoredGraph(HAND, HAND.edge_mask.float(), metadata)
    export(scored, tmp_path / f"s{ending}", negate=negate, d_model=8)
    if ending == ".json":
        content = json.loads((tmp_path / "s.json").read_text())
        found = content["edges"]["input->m0"]["score"]
    else:
        content = torch.load(tmp_path / "s.pt", weights_only=True)
        found = content["edges_scores"][0, 3].item()
    assert (content["score_sign"], found) == (sign, written)
    back = import_scores(tmp_path / f"s{ending}")
    assert torch.equal(back.scores, scored.scores) and back.metadata.get("signed") == (
        False if sign == "size" else None
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_circuit_that_knows_its_own_scores_alone_comes_back(tmp_path: Path, ending: str) -> None:
    scores = torch.randn(HAND.edge_mask.shape, generator=torch.Generator().manual_seed(0)) * HAND.edge_mask
    Circuit.from_edges(HAND, HAND_KEPT, scores=scores).save(tmp_path / "circuit.json")
    loaded = Circuit.load(tmp_path / "circuit.json")
    export(loaded, tmp_path / f"c{ending}", d_model=8)
    back = import_circuit(tmp_path / f"c{ending}")
    assert back == loaded and torch.equal(back.scores[back.mask], scores[back.mask])
    assert back.scores[HAND.edge_mask & ~back.mask].isnan().all() and not back.scores[~HAND.edge_mask].any()


def test_a_changed_json_file_of_ours_is_refused(tmp_path: Path) -> None:
    export(ScoredGraph(HAND, HAND.edge_mask.float()), tmp_path / "s.json", d_model=8)
    text = (tmp_path / "s.json").read_text()
    (tmp_path / "s.json").write_text(text.replace('"score": -1.0', '"score": -1.5', 1))
    with pytest.raises(ValueError, match='s.json: "digest": expected .*changed after it was written'):
        import_scores(tmp_path / "s.json")


# Refused files


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_torn_file_is_refused(tmp_path: Path, ending: str, part: float) -> None:
    path = write(json_content() if ending == ".json" else pt_content(), tmp_path / f"torn{ending}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(
        ValueError, match=f"torn{ending}: expected (JSON, got a torn|a file of torch.save, got one that is torn)"
    ):
        import_scores(path)


def test_a_pickle_of_objects_is_not_run(tmp_path: Path) -> None:
    torch.save({"cfg": Path("anything")}, tmp_path / "objects.pt")
    with pytest.raises(ValueError, match="objects.pt: .* holds more than tensors and plain values"):
        import_scores(tmp_path / "objects.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("cfg"), 'expected the layout of EAP-IG, which has a "cfg"'),
        (lambda c: c.pop("edges"), 'expected the layout of EAP-IG, which has "nodes" and "edges"'),
        (lambda c: c["cfg"].pop("parallel_attn_mlp"), "got none of parallel_attn_mlp"),
        (lambda c: c["cfg"].update(n_heads="1"), "n_heads: expected a whole number from 1, got '1'"),
        (lambda c: c["edges"].update({"a0.h0->a0.h0<q>": {"score": 1.0}}), "impossible edge 'a0.h0->a0.h0<q>'"),
        (
            lambda c: c["edges"].update({"input->m0": 1.0}),
            'edge input->m0: expected a "score" and an "in_graph", got 1.0',
        ),
        (lambda c: c["edges"]["input->m0"].update(score="1"), "score of input->m0: expected a number, got '1'"),
        (lambda c: c["edges"]["input->m0"].update(in_graph=1), "in_graph of input->m0: expected true or false, got 1"),
        (
            lambda c: c["edges"]["input->m0"].update(score=float("nan")),
            "scores: expected finite numbers, got 1 NaN or infinite, the first for input->m0",
        ),
    ],
)
def test_json_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str, without_type_checks: None
) -> None:
    content = json_content()
    change(content)
    with pytest.raises(ValueError, match=f"wrong.json: .*{message}"):
        import_scores(write(content, tmp_path / "wrong.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("src_nodes"), '"src_nodes": expected the'),
        (lambda c: c["dst_nodes"].reverse(), '"dst_nodes": expected the 5 names that the cfg implies, in order'),
        (
            lambda c: c.update(edges_scores=torch.zeros(5, 3)),
            r'"edges_scores": expected .*\(3, 5\).*, got torch.float32 of shape \(5, 3\)',
        ),
        (lambda c: c.update(edges_scores=torch.zeros(3, 5).int()), '"edges_scores": expected floating point'),
        (lambda c: c.update(edges_in_graph=[]), '"edges_in_graph": expected a tensor .*, got list'),
        (lambda c: c["edges_scores"][0].fill_(float("inf")), "got 5 NaN or infinite, the first for input->"),
    ],
)
def test_pt_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = pt_content()
    change(content)
    with pytest.raises(ValueError, match=f"wrong.pt: .*{message}"):
        import_scores(write(content, tmp_path / "wrong.pt"))


def test_scores_of_nodes_and_neurons_are_not_taken_for_scores_of_edges(tmp_path: Path) -> None:
    of_nodes, of_neurons = json_content(), pt_content()
    for entry in of_nodes["edges"].values():
        entry["score"] = 0.0
    of_nodes["nodes"]["m0"]["score"] = 1.0
    of_neurons.update(neurons_in_graph=torch.ones(3, 16), neurons_scores=torch.rand(3, 16))
    with pytest.raises(ValueError, match="expected a score for every edge, got fewer"):
        import_scores(write(of_nodes, tmp_path / "nodes.json"))
    path = write(of_neurons, tmp_path / "neurons.pt")
    assert import_scores(path).score("m0->logits") == 4.0
    with pytest.raises(ValueError, match="neurons.pt: expected a circuit of edges, got one that keeps single neurons"):
        import_circuit(path)


def test_a_circuit_needs_marks(tmp_path: Path) -> None:
    content = pt_content()
    content.pop("edges_in_graph")
    with pytest.raises(ValueError, match="expected edges with in_graph, got edges without; use import_scores"):
        import_circuit(write(content, tmp_path / "unmarked.pt"))


# Published scores


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the published scores are not here")
def test_published_scores_of_gpt2_small_load_and_give_the_published_auc(tmp_path: Path) -> None:
    """MIB's IOI scores, put back into the layout in which MIB publishes them."""
    numpy, metrics = pytest.importorskip("numpy"), pytest.importorskip("sklearn.metrics")
    published = numpy.load(REFERENCE / "published" / "mib_gpt2_small_edge_scores.npz")
    scores, kept = published["ioi_eap_ig"].tolist(), published["ioi_eap_ig_in_graph"].tolist()
    names = published["edge"].tolist()
    content = {
        "cfg": {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768},
        "nodes": {},
        "edges": {name: {"score": score, "in_graph": k} for name, score, k in zip(names, scores, kept)},
    }
    path = write(content, tmp_path / "importances.json")
    scored, circuit = import_scores(path, negate=False), import_circuit(path)
    assert scored.graph == Graph(12, 12) and set(scored.graph.edges) == set(names) and len(names) == 32_491
    assert scored.scores.dtype == torch.float32 and scored.score(names[3]) == scores[3]
    assert circuit.n_edges == sum(kept) == 756 and circuit.is_live

    figures = json.loads((REFERENCE / "published" / "measured_auc.json").read_text())["mib_scores"]
    circuits = json.loads((REFERENCE / "circuits" / "ioi.json").read_text())
    reference = Circuit.from_edges(scored.graph, circuits["edge_names"])
    is_positive = reference.mask.T[scored.graph.edge_mask.T]
    figure = next(f for f in figures if (f["scores"], f["positives"], f["universe"]) == ("ioi_eap_ig", "ACDC", "all"))
    auc = metrics.roc_auc_score(is_positive.numpy(), scored.values.abs().numpy())
    assert (reference.n_edges, round(auc, 4)) == (figure["pos"], figure["auc"])
