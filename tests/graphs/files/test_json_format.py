"""Scores and circuits come back from their files as they were; other files are refused by name and reason."""

from __future__ import annotations

import base64
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.files import json_format
from edge_circuits.graphs.files.documents import sealed
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.scores import ScoredGraph

SMALL = Graph(2, 2)
METADATA = {
    "model": "gpt2",
    "method": "relp",
    "task": "ioi",
    "settings": {"steps": 5, "rules": ["ln", "half"]},
    "é": None,
}


def random_scores(graph: Graph, dtype: torch.dtype) -> ScoredGraph:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(graph.edge_mask.shape, generator=generator, dtype=dtype) * graph.edge_mask
    return ScoredGraph(graph, scores, METADATA)


# There and back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_come_back_bit_for_bit(tmp_path: Path, graph: Graph, dtype: torch.dtype) -> None:
    scored = random_scores(graph, dtype)
    scored.save(tmp_path / "scores.json")
    loaded = ScoredGraph.load(tmp_path / "scores.json")
    assert loaded == scored and loaded.scores.dtype == dtype and loaded.scores.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_that_decimals_lose_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    scores = torch.zeros(SMALL.edge_mask.shape, dtype=dtype)
    hard = [-0.0, 1 / 3, torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal / 8, float("inf"), -float("inf")]
    for name, value in zip(SMALL.edges, hard):
        scores[SMALL.edge_index(name)] = value
    ScoredGraph(SMALL, scores).save(tmp_path / "scores.json")
    loaded = ScoredGraph.load(tmp_path / "scores.json").scores
    as_bits = torch.int32 if dtype == torch.float32 else torch.int64
    assert torch.equal(loaded.view(as_bits), scores.view(as_bits))


def test_half_precision_comes_back_as_the_same_numbers(tmp_path: Path) -> None:
    scored = ScoredGraph(SMALL, random_scores(SMALL, torch.float64).scores.bfloat16())
    scored.save(tmp_path / "scores.json")
    assert ScoredGraph.load(tmp_path / "scores.json") == scored


@pytest.mark.parametrize("with_scores", [True, False])
def test_circuits_come_back(tmp_path: Path, graph: Graph, with_scores: bool, random_mask: Callable) -> None:
    scores = random_scores(graph, torch.float32).scores if with_scores else None
    circuit = Circuit(graph, random_mask(graph, 0.4, 1), scores, METADATA, n_requested=7)
    circuit.save(tmp_path / "circuit.json")
    loaded = Circuit.load(tmp_path / "circuit.json")
    assert loaded == circuit and loaded.metadata == METADATA and loaded.n_requested == 7
    assert (loaded.scores is None) is not with_scores
    if with_scores:
        others = graph.edge_mask & ~circuit.mask
        assert torch.equal(loaded.scores[circuit.mask], scores[circuit.mask]) and loaded.scores[others].isnan().all()
        assert not loaded.scores[~graph.edge_mask].any()
        loaded.save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_text() == (tmp_path / "circuit.json").read_text()


@pytest.mark.parametrize("circuit", [Circuit.empty(SMALL), Circuit.full(SMALL)], ids=["empty", "full"])
def test_the_smallest_and_the_largest_circuit_come_back(tmp_path: Path, circuit: Circuit) -> None:
    circuit.save(tmp_path / "circuit.json")
    loaded = Circuit.load(tmp_path / "circuit.json")
    assert loaded == circuit and loaded.n_requested is None and loaded.metadata == {}


def test_a_file_tells_a_reader_what_it_is(tmp_path: Path) -> None:
    circuit = Circuit.from_edges(SMALL, ["input->a0.h1<q>", "a0.h1->logits"], metadata=METADATA, n_requested=3)
    circuit.save(tmp_path / "circuit.json")
    content = json.loads((tmp_path / "circuit.json").read_text())
    assert list(content)[:3] == ["format", "version", "kind"]
    assert (content["format"], content["version"], content["kind"]) == ("edge-circuits", 2, "circuit")
    assert content["metadata"] == METADATA
    assert content["written_with"]["torch"] == importlib.metadata.version("torch")
    assert content["graph"] == {"n_layers": 2, "n_heads": 2, "n_kv_heads": None, "mlps": True, "parallel": False}
    assert content["edges"] == ["input->a0.h1<q>", "a0.h1->logits"] and content["n_requested"] == 3


def test_packed_scores_are_little_endian_in_edge_order(tmp_path: Path) -> None:
    """By hand: 1.0 is 00 00 80 3f in little-endian float32."""
    scores = torch.zeros(SMALL.edge_mask.shape)
    scores[SMALL.edge_index(SMALL.edges[2])] = 1.0
    ScoredGraph(SMALL, scores).save(tmp_path / "scores.json")
    packed = base64.b64decode(json.loads((tmp_path / "scores.json").read_text())["scores"]["base64"])
    assert packed == bytes(8) + b"\x00\x00\x80\x3f" + bytes(4 * (SMALL.n_edges - 3))


def test_gpt2_small_stays_below_200_kb(tmp_path: Path) -> None:
    random_scores(Graph(12, 12), torch.float32).save(tmp_path / "scores.json")
    assert (tmp_path / "scores.json").stat().st_size < 200_000


# What cannot be written


def test_nan_is_refused_and_nothing_written(tmp_path: Path) -> None:
    scores = torch.zeros(SMALL.edge_mask.shape)
    scores[SMALL.edge_index("a0.h1->m1")] = float("nan")
    with pytest.raises(ValueError, match=r"scores: expected numbers, or infinity, got 1 NaN, the first for a0.h1->m1"):
        ScoredGraph(SMALL, scores).save(tmp_path / "scores.json")
    with pytest.raises(ValueError, match="scores: expected numbers, or infinity, got 1 NaN"):
        Circuit(SMALL, SMALL.edge_mask, scores).save(tmp_path / "circuit.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"dtype": torch.float32},
            r"metadata\['dtype'\]: expected texts, finite numbers, lists and dicts of them, got .*dtype",
        ),
        ({"settings": {"threshold": float("nan")}}, r"metadata\['settings'\]: expected texts, finite numbers"),
        ({1: "one"}, "metadata: expected texts as keys, got 1"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(
    tmp_path: Path, metadata: dict[Any, Any], message: str, without_type_checks: None
) -> None:
    with pytest.raises(ValueError, match=message):
        Circuit(SMALL, SMALL.edge_mask, metadata=metadata).save(tmp_path / "circuit.json")


def test_metadata_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(80):
        deep = [deep]
    with pytest.raises(ValueError, match=r"metadata\['deep'\]: .*at most 64 lists and dicts within one another"):
        Circuit(SMALL, SMALL.edge_mask, metadata={"deep": deep}).save(tmp_path / "circuit.json")


def test_a_graph_too_large_to_be_read_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="graph: expected at most 134217728 pairs of source and destination, got"):
        json_format.to_text(json_format.Saved(Graph(200, 128), {}, mask=torch.zeros(1, 1, dtype=torch.bool)))


# What cannot be read


def scores_content() -> dict[str, Any]:
    """What a good file of scores holds."""
    packed = base64.b64encode(bytes(4 * SMALL.n_edges)).decode()
    return {
        "format": "edge-circuits",
        "version": 2,
        "kind": "scores",
        "metadata": {},
        "graph": {"n_layers": 2, "n_heads": 2, "n_kv_heads": None, "mlps": True, "parallel": False},
        "n_edges": SMALL.n_edges,
        "scores": {"dtype": "float32", "base64": packed},
    }


def circuit_content() -> dict[str, Any]:
    """What a good file of a circuit holds."""
    kept = {"kind": "circuit", "n_edges": 2, "edges": ["input->m0", "m0->logits"], "scores": None, "n_requested": None}
    return {**scores_content(), **kept}


def write(content: Any, path: Path) -> Path:
    """A file as it would be saved; a text as it stands."""
    path.write_text(content if isinstance(content, str) else json.dumps(resealed(content)))
    return path


def resealed(content: Any) -> Any:
    """A document of the present version with the digest of what it holds; all else as it is."""
    if not isinstance(content, dict) or content.get("version") == 1 or "version" not in content:
        return content
    return sealed({name: value for name, value in content.items() if name != "digest"})


def test_the_good_files_of_these_tests_are_good(tmp_path: Path) -> None:
    assert ScoredGraph.load(write(scores_content(), tmp_path / "a.json")).graph == SMALL
    assert Circuit.load(write(circuit_content(), tmp_path / "b.json")).edges == ("input->m0", "m0->logits")


@pytest.mark.parametrize("content", [scores_content(), circuit_content()], ids=["scores", "circuit"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_torn_file_is_refused(tmp_path: Path, content: dict[str, Any], part: float) -> None:
    text = json.dumps(content)
    path = write(text[: int(part * len(text))], tmp_path / "torn.json")
    with pytest.raises(ValueError, match=r"torn.json: expected JSON, got a torn or other file"):
        ScoredGraph.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "expected JSON, got a torn or other file"),
        ("[" * 100_000, "expected JSON, got a torn or other file"),
        (
            {"edges": []},
            'expected a file of edge-circuits, got JSON without "format": "edge-circuits"; give one that save wrote$',
        ),
        ([1, 2], "expected a file of edge-circuits, got JSON without"),
        (
            {"cfg": {}, "nodes": {}, "edges": {}},
            ".*files of EAP-IG and MIB are read by edge_circuits.graphs.files.eap_ig",
        ),
    ],
    ids=["no JSON", "deep", "other JSON", "list", "EAP-IG"],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"foreign.json: {message}"):
        ScoredGraph.load(write(content, tmp_path / "foreign.json"))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ValueError, match=r"model.pt: expected JSON, got a torn or other file"):
        ScoredGraph.load(tmp_path / "model.pt")


def test_a_newer_file_is_refused_whatever_else_it_holds(tmp_path: Path) -> None:
    content = {"format": "edge-circuits", "version": 3, "kind": "nodes"}
    with pytest.raises(
        ValueError, match='newer.json: "version": expected at most 2, got 3; the file is newer: update edge-circuits'
    ):
        ScoredGraph.load(write(content, tmp_path / "newer.json"))


WRONG_SCORES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda c: c.update(version=True), '"version": expected a whole number from 1, got True'),
    "kind": (lambda c: c.update(kind="nodes"), "\"kind\": expected one of 'scores', 'circuit', got 'nodes'"),
    "no graph": (lambda c: c.pop("graph"), '"graph": expected a dict, got nothing'),
    "no metadata": (lambda c: c.pop("metadata"), '"metadata": expected a dict, got nothing'),
    "metadata": (lambda c: c.update(metadata=[1]), '"metadata": expected a dict, got list'),
    "graph fields": (
        lambda c: c["graph"].pop("mlps"),
        '"graph": expected n_layers, n_heads, n_kv_heads, mlps, parallel',
    ),
    "graph counts": (lambda c: c["graph"].update(n_heads=0), "n_heads: expected a whole number from 1, got 0"),
    "another graph": (lambda c: c["graph"].update(n_heads=3), r'"scores": expected 75 numbers of float32, got 46'),
    "another dtype": (
        lambda c: c["scores"].update(dtype="float64"),
        '"scores": expected 46 numbers of float64, got 23',
    ),
    "unknown dtype": (lambda c: c["scores"].update(dtype="int8"), "expected one of 'float32', 'float64', got 'int8'"),
    "listed dtype": (lambda c: c["scores"].update(dtype=[]), r"expected one of 'float32', 'float64', got \[\]"),
    "no base64": (lambda c: c["scores"].update(base64="*"), '"scores": expected base64, got other text'),
    "no numbers": (lambda c: c["scores"].pop("base64"), '"base64": expected a str, got nothing'),
    "NaN": (
        lambda c: c["scores"].update(base64=base64.b64encode(b"\xff" * 4 * SMALL.n_edges).decode()),
        f'"scores": expected numbers, got {SMALL.n_edges} NaN',
    ),
    "count": (lambda c: c.update(n_edges=9), '"n_edges": expected 46, as many as the file holds, got 9'),
}

WRONG_CIRCUITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown edge": (lambda c: c.update(edges=["input->m0", "m9->logits"]), "unknown source 'm9'"),
    "impossible edge": (lambda c: c.update(edges=["input->m0", "m1->m0"]), "impossible edge 'm1->m0'"),
    "repeated edge": (lambda c: c.update(edges=["input->m0"] * 2), '"edges": expected names without repetition, got 2'),
    "no names": (lambda c: c.update(edges=[1, 2]), '"edges": expected names'),
    "lost edge": (lambda c: c["edges"].pop(), '"n_edges": expected 1, as many as the file holds, got 2'),
    "no edges": (lambda c: c.pop("edges"), '"edges": expected a list, got nothing'),
    "requested": (lambda c: c.update(n_requested="3"), '"n_requested": expected a int or NoneType, got str'),
    "no scores": (lambda c: c.pop("scores"), '"scores": expected a dict or NoneType, got nothing'),
}


@pytest.mark.parametrize(("change", "message"), WRONG_SCORES.values(), ids=WRONG_SCORES.keys())
def test_scores_that_do_not_fit_together_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = scores_content()
    change(content)
    with pytest.raises(ValueError, match=rf"wrong.json: .*({message})"):
        ScoredGraph.load(write(content, tmp_path / "wrong.json"))


@pytest.mark.parametrize(("change", "message"), WRONG_CIRCUITS.values(), ids=WRONG_CIRCUITS.keys())
def test_a_circuit_that_does_not_fit_together_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = circuit_content()
    change(content)
    with pytest.raises(ValueError, match=rf"wrong.json: .*({message})"):
        Circuit.load(write(content, tmp_path / "wrong.json"))


def test_a_changed_file_is_refused_however_well_it_reads(tmp_path: Path) -> None:
    random_scores(SMALL, torch.float32).save(tmp_path / "scores.json")
    text = (tmp_path / "scores.json").read_text()
    (tmp_path / "changed.json").write_text(text.replace('"model": "gpt2"', '"model": "gpt3"'))
    with pytest.raises(
        ValueError,
        match='changed.json: "digest": expected .* by what else the file holds, got .* changed after it was written; copy or save',
    ):
        ScoredGraph.load(tmp_path / "changed.json")
    (tmp_path / "blanks.json").write_text(json.dumps(json.loads(text)))
    assert ScoredGraph.load(tmp_path / "blanks.json") == random_scores(SMALL, torch.float32)
    (tmp_path / "without.json").write_text(text.replace('"digest"', '"dagest"'))
    with pytest.raises(ValueError, match='without.json: "digest": expected .*, got None'):
        ScoredGraph.load(tmp_path / "without.json")


def test_a_file_of_version_1_is_read_with_a_warning(tmp_path: Path) -> None:
    """As it was written before: without a digest, a circuit with the scores of all edges."""
    scores = torch.arange(SMALL.n_edges, dtype=torch.float32)
    packed = {"dtype": "float32", "order": "destination, then source"}
    packed["base64"] = base64.b64encode(scores.numpy().astype("<f4").tobytes()).decode()
    old = {"version": 1, "scores": packed}
    with pytest.warns(UserWarning, match="a file of an older version has no digest"):
        scored = ScoredGraph.load(write(scores_content() | old, tmp_path / "scores.json"))
    with pytest.warns(UserWarning, match="a file of an older version has no digest"):
        circuit = Circuit.load(write(circuit_content() | old, tmp_path / "circuit.json"))
    assert torch.equal(scored.values, scores) and torch.equal(circuit.scores, scored.scores)
    assert circuit.edges == ("input->m0", "m0->logits")


def test_a_small_file_does_not_cost_much(tmp_path: Path) -> None:
    huge = {"n_layers": 10**9, "n_heads": 10**9, "n_kv_heads": None, "mlps": True, "parallel": False}
    for content, kind in ((scores_content(), ScoredGraph), (circuit_content(), Circuit)):
        with pytest.raises(ValueError, match="graph: expected at most 134217728 pairs"):
            kind.load(write(content | {"graph": huge}, tmp_path / "huge.json"))


def test_the_other_kind_is_refused(tmp_path: Path) -> None:
    scores, circuit = write(scores_content(), tmp_path / "s.json"), write(circuit_content(), tmp_path / "c.json")
    with pytest.raises(
        ValueError, match=r"s.json: expected a file of circuit, got one of scores; use ScoredGraph.load"
    ):
        Circuit.load(scores)
    with pytest.raises(ValueError, match=r"c.json: expected a file of scores, got one of circuit; use Circuit.load"):
        ScoredGraph.load(circuit)


def test_a_missing_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Circuit.load(tmp_path / "missing.json")
