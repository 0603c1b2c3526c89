"""Drawings are files of the kind asked for; without Graphviz a drawing still appears and the reader is told."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.drawing.rendering import render, to_dot
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.pruning import prune
from edge_circuits.graphs.scores import ScoredGraph

SMALL = Graph(2, 2)
BEGINNINGS = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "gv": b"// draw with: dot -Tsvg"}
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's programs are not installed")


def random_circuit(graph: Graph, k: int) -> Circuit:
    """About k live edges: those from `input` score high, so that few chosen edges are dead ends."""
    scores = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(0)) * graph.edge_mask
    scores[0] *= 10
    return prune(ScoredGraph(graph, scores), k, strategy="greedy")


@pytest.fixture
def without_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))


@needs_dot
@pytest.mark.parametrize("ending", BEGINNINGS)
@pytest.mark.parametrize("n_edges", [0, 20])
def test_a_file_of_the_kind_asked_for_is_written(tmp_path: Path, ending: str, n_edges: int) -> None:
    path = tmp_path / f"circuit.{ending}"
    assert render(random_circuit(SMALL, n_edges), path) == path
    assert path.read_bytes().startswith(BEGINNINGS[ending])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@needs_dot
@pytest.mark.parametrize(("k", "program"), [(20, "dot"), (200, "neato -n2"), (1000, "neato -n2")])
def test_gpt2_small_is_drawn_at_every_size(tmp_path: Path, k: int, program: str) -> None:
    """With `dot` as long as edges do not cross too many rows, which those from `input` soon do."""
    circuit = random_circuit(Graph(12, 12), k)
    path = render(circuit, str(tmp_path / "circuit.svg"))
    drawn = [title.text for title in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}title")]
    assert sum("->" in title for title in drawn) == circuit.n_edges > 0.9 * k
    assert to_dot(circuit).startswith(f"// draw with: {program} ")


def test_to_dot_is_the_text_of_a_gv_file(tmp_path: Path) -> None:
    circuit = random_circuit(SMALL, 20)
    settings = {"roles": {"m0": "helper"}, "title": "A title", "layout": "rows"}
    path = render(circuit, tmp_path / "circuit.gv", **settings)
    assert path.read_text() == to_dot(circuit, **settings) != to_dot(circuit)


def test_a_gv_file_needs_no_program(tmp_path: Path, without_dot: None) -> None:
    assert render(random_circuit(SMALL, 20), tmp_path / "circuit.gv").is_file()


def test_without_dot_an_svg_is_drawn_all_the_same(tmp_path: Path, without_dot: None) -> None:
    circuit = random_circuit(SMALL, 20)
    with pytest.warns(
        UserWarning, match=r"circuit.svg is drawn without it, DOT text in .*circuit.gv; .*apt-get install"
    ):
        path = render(circuit, tmp_path / "circuit.svg")
    drawn = [title.text for title in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}title")]
    assert sum("->" in title for title in drawn) == circuit.n_edges
    assert (tmp_path / "circuit.gv").read_text() == to_dot(circuit)


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_without_dot_other_files_are_an_error_that_says_what_was_written(
    tmp_path: Path, without_dot: None, ending: str
) -> None:
    path = tmp_path / f"circuit.{ending}"
    with pytest.raises(RuntimeError) as caught:
        render(random_circuit(SMALL, 20), path)
    message = str(caught.value)
    assert f"cannot write {path}" in message
    assert "apt-get install graphviz" in message and "brew install graphviz" in message
    for beside in (path.with_suffix(".svg"), path.with_suffix(".gv")):
        assert str(beside) in message and beside.is_file()
    assert not path.exists()


def test_a_failing_program_is_an_error_with_its_words(tmp_path: Path, without_dot: None) -> None:
    program = tmp_path / "programs" / "dot"
    program.write_text("#!/bin/sh\nwhile read -r line; do :; done\necho 'Format: png not recognized' >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(RuntimeError, match="Graphviz's dot could not draw png: Format: png not recognized"):
        render(random_circuit(SMALL, 20), tmp_path / "circuit.png")
    assert not (tmp_path / "circuit.png").exists()


@pytest.mark.parametrize("name", ["circuit.jpg", "circuit", "circuit.svg.gz"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"path: expected an ending .svg, .png, .pdf or .gv, got .*{name}"):
        render(Circuit.empty(SMALL), tmp_path / name)


def test_another_layout_is_refused(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="layout: expected one of 'auto', 'dot', 'rows', got 'circo'"):
        to_dot(Circuit.empty(SMALL), layout="circo")


def test_what_is_no_circuit_is_refused(tmp_path: Path, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="circuit: expected a Circuit, a comparison or scores, got dict; prune makes"):
        render({}, tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


def test_importing_the_drawing_does_not_import_graphviz() -> None:
    import subprocess
    import sys

    code = "import sys, edge_circuits.graphs.drawing.rendering; sys.exit('graphviz' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0
