"""What follows from one destination: the nodes whose values move when its in-edges change.

Sets of sources are Python integers here, bit s standing for source s: with a few hundred sources, asking whether a
destination reads any of a set is one `&`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

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


@lru_cache(maxsize=16)
def readers_of(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """For each source its own destinations; see `Graph.destinations_of`."""
    return tuple(tuple(graph.destinations_of(source)) for source in range(graph.n_sources))


@lru_cache(maxsize=16)
def nodes_of(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """For each destination the sources that it is an input of; none for `logits`."""
    nodes: list[list[int]] = [[] for _ in range(graph.n_destinations)]
    for source, readers in enumerate(readers_of(graph)):
        for reader in readers:
            nodes[reader].append(source)
    return tuple(map(tuple, nodes))


def leading_to_logits(graph: Graph, columns: Sequence[int]) -> int:
    """The set of sources from which a path of kept edges leads to `logits`."""
    leading = columns[-1]
    for source in reversed(range(1, graph.n_sources)):
        if leading >> source & 1:
            for reader in readers_of(graph)[source]:
                leading |= columns[reader]
    return leading


def reached_from_input(graph: Graph, columns: Sequence[int]) -> int:
    """The set of sources to which a path of kept edges leads from `input`, itself included."""
    reached = 1
    for source, readers in enumerate(readers_of(graph)):
        if any(columns[reader] & reached for reader in readers):
            reached |= 1 << source
    return reached


@dataclass(frozen=True)
class Downstream:
    """What a destination moves.

    Attributes:
        moved: the set of sources whose values move.
        readers: destinations whose input moves, the one at the start included.
        reads_all: those of them that keep every moved source they see, so that the sum of all changes serves them.
        singly: the set of moved sources that some other reader tells apart.
    """

    moved: int
    readers: frozenset[int]
    reads_all: frozenset[int]
    singly: int


def downstream(graph: Graph, columns: Sequence[int], computed: int, destination: int, sums: bool = True) -> Downstream:
    """What moves when in-edges of a destination change.

    Args:
        columns: for each destination the computed sources it keeps.
        computed: the sources whose value matters; no others are followed.
        sums: whether changes may be summed over sources (not when heads write through a post-norm).
    """
    moved, readers = 0, {destination}
    for source, inputs in enumerate(readers_of(graph)):
        if computed >> source & 1:
            moving = [reader for reader in inputs if columns[reader] & moved or reader == destination]
            if moving:
                moved |= 1 << source
                readers.update(moving)
    if columns[-1] & moved:
        readers.add(graph.n_destinations - 1)
    n_visible = _n_visible(graph)
    reads_all, singly = set(), 0
    for reader in readers - {destination}:
        seen = moved & ((1 << n_visible[reader]) - 1)
        if sums and not seen & ~columns[reader]:
            reads_all.add(reader)
        else:
            singly |= seen & columns[reader]
    return Downstream(moved, frozenset(readers), frozenset(reads_all), singly)


@lru_cache(maxsize=16)
def _n_visible(graph: Graph) -> tuple[int, ...]:
    return tuple(graph.n_visible.tolist())
