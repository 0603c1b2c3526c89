"""A circuit as a networkx graph, for its algorithms and its file formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.nodes import parse_destination, parse_source

if TYPE_CHECKING:
    import networkx

    from edge_circuits.graphs.circuit import Circuit


def to_networkx(circuit: Circuit) -> networkx.DiGraph:
    """The circuit as a networkx graph over nodes.

    Nodes are `input`, `a{layer}.h{head}`, `m{layer}` and `logits`, those of `Circuit.nodes`, each with `kind`, `layer`
    and `head`. There is one arc from a node to another however many kept edges join them, with attributes

    - `parts`: how the end reads, e.g. "qv"; "" for an MLP and `logits`
    - `edges`: tuple of the names of the kept edges, in the same order
    - `scores`: tuple of their scores; only when the circuit has scores

    With key-value heads as destinations, an edge into one gives an arc to every query head of its group.
    """
    import networkx

    graph, readers = circuit.graph, _readers(circuit.graph)
    result = networkx.DiGraph()
    nodes = [parse_destination(name) if name == "logits" else parse_source(name) for name in circuit.nodes]
    result.add_nodes_from((str(n), {"kind": n.kind, "layer": n.layer, "head": n.head}) for n in nodes)
    for destination, source in circuit.mask.T.nonzero().tolist():
        start, end = graph.sources[source], graph.destinations[destination]
        score = () if circuit.scores is None else (circuit.scores[source, destination].item(),)
        for reader in readers[destination]:
            arc = result.get_edge_data(start, reader, default={"parts": "", "edges": (), "scores": ()})
            attributes = {
                "parts": arc["parts"] + (parse_destination(end).part or ""),
                "edges": (*arc["edges"], f"{start}->{end}"),
            }
            if score:
                attributes["scores"] = arc["scores"] + score
            result.add_edge(start, reader, **attributes)
    return result


def _readers(graph: Graph) -> dict[int, list[str]]:
    """The nodes that read with each destination: one, or the query heads of a key-value head's group."""
    readers = {graph.n_destinations - 1: ["logits"]}
    for source, name in enumerate(graph.sources):
        for destination in graph.destinations_of(source):
            readers.setdefault(destination, []).append(name)
    return readers
