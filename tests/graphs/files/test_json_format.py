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
from edge_circuits.graphs.files import json_format as serialize
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
    serialize.save(scored, tmp_path / "scores.json")
    loaded = serialize.load(tmp_path / "scores.json")
    assert loaded == scored and loaded.scores.dtype == dtype and loaded.scores.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_that_decimals_lose_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    scores = torch.zeros(SMALL.edge_mask.shape, dtype=dtype)
    hard = [-0.0, 1 / 3, torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal / 8, float("inf"), -float("inf")]
    for name, value in zip(SMALL.edges, hard):
        scores[SMALL.edge_index(name)] = value
    serialize.save(ScoredGraph(SMALL, scores), tmp_path / "scores.json")
    loaded = serialize.load(tmp_path / "scores.json").scores
    as_bits = torch.int32 if dtype == torch.float32 else torch.int64
    assert torch.equal(loaded.view(as_bits), scores.view(as_bits))


def test_half_precision_comes_back_as_the_same_numbers(tmp_path: Path) -> None:
    scored = ScoredGraph(SMALL, random_scores(SMALL, torch.float64).scores.bfloat16())
    serialize.save(scored, tmp_path / "scores.json")
    assert serialize.load(tmp_path / "scores.json") == scored


@pytest.mark.parametrize("with_scores", [True, False])
def test_circuits_come_back(tmp_path: Path, graph: Graph, with_scores: bool, random_mask: Callable) -> None:
    scores = random_scores(graph, torch.float32).scores if with_scores else None
    circuit = Circuit(graph, random_mask(graph, 0.4, 1), scores, METADATA, n_requested=7)
    serialize.save(circuit, tmp_path / "circuit.json")
    loaded = serialize.load(tmp_path / "circuit.json")
    assert loaded == circuit and loaded.metadata == METADATA and loaded.n_requested == 7
    assert torch.equal(loaded.scores, scores) if with_scores else loaded.scores is None


@pytest.mark.parametrize("circuit", [Circuit.empty(SMALL), Circuit.full(SMALL)], ids=["empty", "full"])
def test_the_smallest_and_the_largest_circuit_come_back(tmp_path: Path, circuit: Circuit) -> None:
    serialize.save(circuit, tmp_path / "circuit.json")
    loaded = serialize.load(tmp_path / "circuit.json")
    assert loaded == circuit and loaded.n_requested is None and loaded.metadata == {}


def test_a_file_tells_a_reader_what_it_is(tmp_path: Path) -> None:
    circuit = Circuit.from_edges(SMALL, ["input->a0.h1<q>", "a0.h1->logits"], metadata=METADATA, n_requested=3)
    serialize.save(circuit, tmp_path / "circuit.json")
    content = json.loads((tmp_path / "circuit.json").read_text())
    assert list(content)[:3] == ["format", "version", "kind"]
    assert (content["format"], content["version"], content["kind"]) == ("edge-circuits", 1, "circuit")
    assert content["metadata"] == METADATA
    assert content["written_with"]["torch"] == importlib.metadata.version("torch")
    assert content["graph"] == {"n_layers": 2, "n_heads": 2, "n_kv_heads": None, "mlps": True, "parallel": False}
    assert content["edges"] == ["input->a0.h1<q>", "a0.h1->logits"] and content["n_requested"] == 3


def test_packed_scores_are_little_endian_in_edge_order(tmp_path: Path) -> None:
    """By hand: 1.0 is 00 00 80 3f in little-endian float32."""
    scores = torch.zeros(SMALL.edge_mask.shape)
    scores[SMALL.edge_index(SMALL.edges[2])] = 1.0
    serialize.save(ScoredGraph(SMALL, scores), tmp_path / "scores.json")
    packed = base64.b64decode(json.loads((tmp_path / "scores.json").read_text())["scores"]["base64"])
    assert packed == bytes(8) + b"\x00\x00\x80\x3f" + bytes(4 * (SMALL.n_edges - 3))


def test_gpt2_small_stays_below_200_kb(tmp_path: Path) -> None:
    serialize.save(random_scores(Graph(12, 12), torch.float32), tmp_path / "scores.json")
    assert (tmp_path / "scores.json").stat().st_size < 200_000


# What cannot be written


def test_nan_is_refused_and_nothing_written(tmp_path: Path) -> None:
    scores = torch.zeros(SMALL.edge_mask.shape)
    scores[SMALL.edge_index("a0.h1->m1")] = float("nan")
    with pytest.raises(ValueError, match=r"scores must not be NaN, got 1 of \d+, the first for a0.h1->m1"):
        serialize.save(ScoredGraph(SMALL, scores), tmp_path / "scores.json")
    with pytest.raises(ValueError, match="scores must not be NaN"):
        serialize.save(Circuit(SMALL, SMALL.edge_mask, scores), tmp_path / "circuit.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"dtype": torch.float32}, r"metadata\['dtype'\] does not fit JSON: .*dtype"),
        ({"settings": {"threshold": float("nan")}}, r"metadata\['settings'\] does not fit JSON"),
        ({1: "one"}, "metadata must have texts as keys, got 1"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(
    tmp_path: Path, metadata: dict[Any, Any], message: str, without_type_checks: None
) -> None:
    with pytest.raises(ValueError, match=message):
        serialize.save(Circuit(SMALL, SMALL.edge_mask, metadata=metadata), tmp_path / "circuit.json")


def test_another_value_is_refused(tmp_path: Path, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="value must be a ScoredGraph or a Circuit, got Graph"):
        serialize.save(SMALL, tmp_path / "graph.json")


# What cannot be read


def scores_content() -> dict[str, Any]:
    """What a good file of scores holds."""
    packed = base64.b64encode(bytes(4 * SMALL.n_edges)).decode()
    return {
        "format": "edge-circuits",
        "version": 1,
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
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_good_files_of_these_tests_are_good(tmp_path: Path) -> None:
    assert serialize.load(write(scores_content(), tmp_path / "a.json")).graph == SMALL
    assert serialize.load(write(circuit_content(), tmp_path / "b.json")).edges == ("input->m0", "m0->logits")


@pytest.mark.parametrize("content", [scores_content(), circuit_content()], ids=["scores", "circuit"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_torn_file_is_refused(tmp_path: Path, content: dict[str, Any], part: float) -> None:
    text = json.dumps(content)
    path = write(text[: int(part * len(text))], tmp_path / "torn.json")
    with pytest.raises(ValueError, match=r"cannot read .*torn.json: it is torn or not JSON at all"):
        serialize.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "it is torn or not JSON at all"),
        ("[" * 100_000, "it is torn or not JSON at all"),
        ({"edges": []}, 'it is JSON of another origin, without "format": "edge-circuits"$'),
        ([1, 2], "it is JSON of another origin"),
        (
            {"cfg": {}, "nodes": {}, "edges": {}},
            ".*files of EAP-IG and MIB are read by edge_circuits.graphs.files.eap_ig",
        ),
    ],
    ids=["no JSON", "deep", "other JSON", "list", "EAP-IG"],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot read .*foreign.json: {message}"):
        serialize.load(write(content, tmp_path / "foreign.json"))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ValueError, match=r"cannot read .*model.pt: it is torn or not JSON at all"):
        serialize.load(tmp_path / "model.pt")


def test_a_newer_file_is_refused_whatever_else_it_holds(tmp_path: Path) -> None:
    content = {"format": "edge-circuits", "version": 2, "kind": "nodes"}
    with pytest.raises(ValueError, match="it has version 2 of the format, known here is up to 1: update edge-circuits"):
        serialize.load(write(content, tmp_path / "newer.json"))


WRONG_SCORES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda c: c.update(version=True), '"version" must be a positive number, got True'),
    "kind": (lambda c: c.update(kind="nodes"), "\"kind\" must be one of scores, circuit, got 'nodes'"),
    "no graph": (lambda c: c.pop("graph"), '"graph" is missing'),
    "no metadata": (lambda c: c.pop("metadata"), '"metadata" is missing'),
    "metadata": (lambda c: c.update(metadata=[1]), '"metadata" is a list, which is not expected'),
    "graph fields": (
        lambda c: c["graph"].pop("mlps"),
        '"graph" must have n_layers, n_heads, n_kv_heads, mlps, parallel',
    ),
    "graph counts": (lambda c: c["graph"].update(n_heads=0), "n_heads must be a positive integer, got 0"),
    "another graph": (
        lambda c: c["graph"].update(n_heads=3),
        r"scores are 46 numbers of float32, but its graph has 75 edges",
    ),
    "another dtype": (
        lambda c: c["scores"].update(dtype="float64"),
        "scores are 23 numbers of float64, but its graph has 46",
    ),
    "unknown dtype": (lambda c: c["scores"].update(dtype="int8"), "dtype float32 or float64, got 'int8'"),
    "listed dtype": (lambda c: c["scores"].update(dtype=[]), r"dtype float32 or float64, got \[\]"),
    "no base64": (lambda c: c["scores"].update(base64="*"), "base64|Only"),
    "no numbers": (lambda c: c["scores"].pop("base64"), '"base64" is missing'),
    "NaN": (
        lambda c: c["scores"].update(base64=base64.b64encode(b"\xff" * 4 * SMALL.n_edges).decode()),
        "scores must not be NaN",
    ),
    "count": (lambda c: c.update(n_edges=9), r'"n_edges" is 9, but it holds \d+ edges'),
}

WRONG_CIRCUITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown edge": (lambda c: c.update(edges=["input->m0", "m9->logits"]), "unknown source 'm9'"),
    "impossible edge": (lambda c: c.update(edges=["input->m0", "m1->m0"]), "impossible edge 'm1->m0'"),
    "repeated edge": (lambda c: c.update(edges=["input->m0"] * 2), '"edges" must be names without repetition'),
    "no names": (lambda c: c.update(edges=[1, 2]), '"edges" must be names'),
    "lost edge": (lambda c: c["edges"].pop(), '"n_edges" is 2, but it holds 1 edges'),
    "no edges": (lambda c: c.pop("edges"), '"edges" is missing'),
    "requested": (lambda c: c.update(n_requested="3"), '"n_requested" is a str'),
    "no scores": (lambda c: c.pop("scores"), '"scores" is missing'),
}


@pytest.mark.parametrize(("change", "message"), WRONG_SCORES.values(), ids=WRONG_SCORES.keys())
def test_scores_that_do_not_fit_together_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = scores_content()
    change(content)
    with pytest.raises(ValueError, match=rf"cannot read .*wrong.json: .*({message})"):
        serialize.load(write(content, tmp_path / "wrong.json"))


@pytest.mark.parametrize(("change", "message"), WRONG_CIRCUITS.values(), ids=WRONG_CIRCUITS.keys())
def test_a_circuit_that_does_not_fit_together_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = circuit_content()
    change(content)
    with pytest.raises(ValueError, match=rf"cannot read .*wrong.json: .*({message})"):
        serialize.load(write(content, tmp_path / "wrong.json"))


def test_the_other_kind_is_refused(tmp_path: Path) -> None:
    scores, circuit = write(scores_content(), tmp_path / "s.json"), write(circuit_content(), tmp_path / "c.json")
    with pytest.raises(
        ValueError, match=r"cannot read .*s.json as a Circuit: it holds a ScoredGraph, use ScoredGraph.load"
    ):
        serialize.load_as(Circuit, scores)
    with pytest.raises(
        ValueError, match=r"cannot read .*c.json as a ScoredGraph: it holds a Circuit, use Circuit.load"
    ):
        serialize.load_as(ScoredGraph, circuit)


def test_a_missing_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        serialize.load(tmp_path / "missing.json")
