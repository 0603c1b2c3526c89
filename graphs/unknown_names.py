"""Why a name of a node or edge that is well formed is not in a graph."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from edge_circuits.graphs.nodes import Node


@runtime_checkable
class Counts(Protocol):
    """How many layers and heads a graph has, and whether MLPs."""

    n_layers: int
    n_heads: int
    n_kv_heads: int | None
    mlps: bool


def unknown_node(graph: Counts, node: Node, name: str, role: Literal["source", "destination"]) -> ValueError:
    """The error of a node that a graph has not."""
    if node.kind == "mlp" and not graph.mlps:
        return ValueError(f"unknown {role} {name!r}: the model has no MLPs")
    if node.layer >= graph.n_layers:
        available = _available(graph.n_layers, "layer")
        return ValueError(f"unknown {role} {name!r}: layer {node.layer} is out of range, {available}")
    if graph.n_kv_heads and node.part in ("k", "v"):
        available = _available(graph.n_kv_heads, "key-value head")
        return ValueError(f"unknown {role} {name!r}: <{node.part}> is per key-value head here, {available}")
    available = _available(graph.n_heads, "head")
    return ValueError(f"unknown {role} {name!r}: head {node.head} is out of range, {available}")


def _available(count: int, noun: str) -> str:
    """What there is instead, e.g. "there are 2 layers: 0 to 1"."""
    return f"there is only {noun} 0" if count == 1 else f"there are {count} {noun}s: 0 to {count - 1}"


def impossible_edge(name: str, source: Node, destination: Node) -> ValueError:
    """The error of an edge whose destination cannot see its source, both being in the graph."""
    why = f"{source} is computed after {destination} reads"
    if source.kind == "head" and source.layer == destination.layer and destination.kind == "mlp":
        why = (
            f"blocks are parallel, {destination} reads the same stream as the heads of its layer, "
            f"so {source} is not computed before {destination} reads"
        )
    elif source.kind == "head" and source.layer == destination.layer:
        why = f"{source} is not computed before {destination} reads: heads of one layer do not feed each other"
    elif source.layer == destination.layer and destination.kind == "mlp":
        why += ": an MLP does not feed itself"
    return ValueError(f"impossible edge {name!r}: {why}")
