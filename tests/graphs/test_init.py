"""The package is light to import, and its names come on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_circuits import graphs

HEAVY = ["transformer_lens", "transformers", "sklearn", "networkx", "graphviz", "matplotlib"]


def modules_after(code: str) -> set[str]:
    """The modules a fresh interpreter has imported after running the code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_import_is_light() -> None:
    assert not {*HEAVY, "torch"} & modules_after("import edge_circuits")


def test_the_core_does_without_heavy_packages() -> None:
    code = (
        "from edge_circuits.graphs import Circuit, Graph, ScoredGraph, prune\n"
        "graph = Graph(2, 2)\n"
        "prune(ScoredGraph(graph, graph.edge_mask.float()), 9).live()"
    )
    assert not set(HEAVY) & modules_after(code)


def test_names_are_those_of_their_files() -> None:
    from edge_circuits.graphs.circuit import Circuit
    from edge_circuits.graphs.pruning import prune

    assert graphs.Circuit is Circuit and graphs.prune is prune
    assert set(graphs.__all__) <= set(dir(graphs))


@pytest.mark.parametrize("name", graphs.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(graphs, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edge_circuits.graphs' has no attribute 'verify'"):
        assert graphs.verify
