"""What follows from one destination: the nodes whose values move when its in-edges change.

Sets of sources are Python integers here, bit s standing for source s: with a few hundred sources, asking whether a
destination keeps any of a set is one `&`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from edge_circuits.graphs.graph import Graph


def bit_columns(kept: Bool[Tensor, "source destination"]) -> list[int]:
    """For each destination the set of sources it keeps."""
    packed = np.packbits(kept.cpu().numpy().T, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def bits(members: Sequence[int]) -> int:
    """The set of these sources."""
    return sum(1 << member for member in members)


def members(sources: int) -> Iterator[int]:
    """The sources of a set, ascending."""
    while sources:
        lowest = sources & -sources
        yield lowest.bit_length() - 1
        sources ^= lowest


def leading_to_logits(graph: Graph, columns: Sequence[int]) -> int:
    """The set of sources from which a path of kept edges leads to `logits`."""
    leading = columns[-1]
    for source in reversed(range(1, graph.n_sources)):
        if leading >> source & 1:
            for destination in graph.destinations_of(source):
                leading |= columns[destination]
    return leading


def reached_from_input(graph: Graph, columns: Sequence[int]) -> int:
    """The set of sources to which a path of kept edges leads from `input`, itself included."""
    reached = 1
    for source in range(1, graph.n_sources):
        if any(columns[destination] & reached for destination in graph.destinations_of(source)):
            reached |= 1 << source
    return reached


@dataclass(frozen=True)
class Dependents:
    """What depends on a destination.

    Attributes:
        moved: The set of sources whose values move.
        destinations: Those whose input moves, the one at the start included.
        keep_all: Those of them that keep every moved source they see, so that the sum of all changes serves them.
        singly: The set of moved sources that some other destination tells apart.
    """

    moved: int
    destinations: frozenset[int]
    keep_all: frozenset[int]
    singly: int


def dependents_of(
    graph: Graph, columns: Sequence[int], computed: int, destination: int, sums: bool = True
) -> Dependents:
    """What moves when in-edges of a destination change.

    Args:
        graph: The topology.
        columns: For each destination the computed sources it keeps.
        computed: The sources whose value matters; no others are followed.
        destination: Where the change begins.
        sums: Whether changes may be summed over sources (not when heads write through a post-norm).
    """
    moved, moving = 0, {destination}
    for source in range(1, graph.n_sources):
        if computed >> source & 1:
            own = [each for each in graph.destinations_of(source) if columns[each] & moved or each == destination]
            if own:
                moved |= 1 << source
                moving.update(own)
    if columns[-1] & moved:
        moving.add(graph.n_destinations - 1)
    keep_all, singly = set(), 0
    for each in moving - {destination}:
        seen = moved & ((1 << graph.n_seen(each)) - 1)
        if sums and not seen & ~columns[each]:
            keep_all.add(each)
        else:
            singly |= seen & columns[each]
    return Dependents(moved, frozenset(moving), frozenset(keep_all), singly)


def leads_on(graph: Graph, leading: int, destination: int) -> bool:
    """Whether a node that has this destination is among those leading to `logits`; true of `logits` itself."""
    nodes = graph.nodes_of(destination)
    return destination == graph.n_destinations - 1 or any(leading >> node & 1 for node in nodes)
