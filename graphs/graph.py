"""The topology: which sources a model has, which destinations, and which edges between them.

Sources are in the order in which a model computes them: `input`, then per layer its heads, then its MLP. So a
destination sees the first `n_visible` sources and no other, and this one number per destination says everything about
the edges: attention inputs of a layer see all earlier layers, an MLP also its own layer's heads (sequential blocks
only), `logits` see all.

Destinations are ordered per layer: all `<q>` by head, all `<k>`, all `<v>`, the MLP; `logits` come last. Edges are
ordered by destination, then by source. These three orders are used everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from edge_circuits.graphs.checks import choice, flag, refusal, whole_number
from edge_circuits.graphs.model.supported import check_model
from edge_circuits.graphs.nodes import ARROW, PARTS, Part, parse_destination, parse_source, split_edge
from edge_circuits.graphs.unknown_names import impossible_edge, unknown_node

KVDestinations = Literal["query-head", "kv-head"]


@dataclass(frozen=True)
class Graph:
    """The nodes and edges of a transformer: a value, equal to every graph of the same shape.

    Its tensors are computed once and shared: do not edit them.

    Attributes:
        n_layers: Number of layers.
        n_heads: Query heads per layer.
        n_kv_heads: None: one `<k>` and one `<v>` destination per query head (the convention of published results).
            A number that divides `n_heads`: one per key-value head, `a{layer}.h{j}<k>` with j < n_kv_heads, read by
            n_heads / n_kv_heads neighbouring query heads. `n_heads` itself is the same topology as None and becomes it.
        mlps: Whether layers have an MLP.
        parallel: Whether MLP and heads of a layer read the same stream, so that heads do not feed their own layer's
            MLP (GPT-NeoX, GPT-J). False without MLPs, where it would say nothing.

    Raises:
        ValueError: A count is not a positive integer, or n_kv_heads does not divide n_heads.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int | None = None
    mlps: bool = True
    parallel: bool = False

    def __post_init__(self) -> None:
        whole_number("n_layers", self.n_layers, 1)
        whole_number("n_heads", self.n_heads, 1)
        if self.n_kv_heads is not None:
            whole_number("n_kv_heads", self.n_kv_heads, 1)
            if self.n_heads % self.n_kv_heads:
                raise refusal("n_kv_heads", f"a divisor of n_heads={self.n_heads}", repr(self.n_kv_heads))
        flag("mlps", self.mlps)
        flag("parallel", self.parallel)
        if self.n_kv_heads == self.n_heads:
            object.__setattr__(self, "n_kv_heads", None)
        object.__setattr__(self, "parallel", self.parallel and self.mlps)

    @classmethod
    def from_model(cls, model: Any, kv_destinations: KVDestinations = "query-head") -> Graph:
        """The graph of a TransformerLens model.

        Args:
            model: A model that `edge_circuits.graphs.model.supported` knows.
            kv_destinations: With grouped-query attention, "query-head" gives each query head a `<k>` and a `<v>`
                destination of its own, "kv-head" one to each key-value head. No difference for other models.

        Raises:
            ValueError: The architecture is not supported, or kv_destinations is another word.
        """
        choice("kv_destinations", kv_destinations, get_args(KVDestinations))
        check_model(model)
        config = model.cfg
        n_kv_heads = getattr(config, "n_key_value_heads", None) or config.n_heads
        return cls(
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_kv_heads=n_kv_heads if kv_destinations == "kv-head" else None,
            mlps=not config.attn_only,
            parallel=bool(config.parallel_attn_mlp),
        )

    # Counts and places

    @property
    def n_parts(self) -> dict[Part, int]:
        """How many `<q>`, `<k>` and `<v>` destinations a layer has."""
        n_kv_heads = self.n_kv_heads or self.n_heads
        return {"q": self.n_heads, "k": n_kv_heads, "v": n_kv_heads}

    @property
    def kv_destinations(self) -> KVDestinations:
        """What `from_model` has to be told for such a graph: "kv-head" where `n_kv_heads` is a number."""
        return "query-head" if self.n_kv_heads is None else "kv-head"

    @property
    def n_sources(self) -> int:
        """Number of sources."""
        return 1 + self.n_layers * self._sources_per_layer

    @property
    def n_destinations(self) -> int:
        """Number of destinations."""
        return self.n_layers * self._destinations_per_layer + 1

    @cached_property
    def n_edges(self) -> int:
        """Number of edges."""
        return int(self.n_visible.sum())

    @property
    def _sources_per_layer(self) -> int:
        return self.n_heads + self.mlps

    @property
    def _destinations_per_layer(self) -> int:
        return sum(self.n_parts.values()) + self.mlps

    def head_sources(self, layer: int) -> slice:
        """Where the heads of a layer are among the sources."""
        start = 1 + layer * self._sources_per_layer
        return slice(start, start + self.n_heads)

    def mlp_source(self, layer: int) -> int:
        """Where the MLP of a layer is among the sources; only for a graph with MLPs."""
        assert self.mlps
        return self.head_sources(layer).stop

    def part_destinations(self, layer: int, part: Part) -> slice:
        """Where the `<q>`, `<k>` or `<v>` of a layer are among the destinations."""
        start = layer * self._destinations_per_layer
        start += sum(self.n_parts[before] for before in PARTS[: PARTS.index(part)])
        return slice(start, start + self.n_parts[part])

    def mlp_destination(self, layer: int) -> int:
        """Where the MLP of a layer is among the destinations; only for a graph with MLPs."""
        assert self.mlps
        return self.part_destinations(layer, "v").stop

    def destinations_of(self, source: int) -> list[int]:
        """The destinations of a source: none for `input`, its own for an MLP, `<q>`, `<k>` and `<v>` for a head."""
        return list(self._own_destinations[source])

    def nodes_of(self, destination: int) -> tuple[int, ...]:
        """The sources that have this destination: an MLP, a head, all heads of a key-value head's group; none for `logits`."""
        return self._nodes[destination]

    def n_seen(self, destination: int) -> int:
        """How many sources a destination sees; `n_visible` of one destination."""
        return self._visible[destination]

    @cached_property
    def _own_destinations(self) -> tuple[tuple[int, ...], ...]:
        own: list[tuple[int, ...]] = [()]
        for layer in range(self.n_layers):
            starts = [(self.part_destinations(layer, part).start, self.n_parts[part]) for part in PARTS]
            own += [
                tuple(start + head * n_part // self.n_heads for start, n_part in starts) for head in range(self.n_heads)
            ]
            own += [(self.mlp_destination(layer),)] if self.mlps else []
        return tuple(own)

    @cached_property
    def _nodes(self) -> tuple[tuple[int, ...], ...]:
        nodes: list[list[int]] = [[] for _ in range(self.n_destinations)]
        for source, destinations in enumerate(self._own_destinations):
            for destination in destinations:
                nodes[destination].append(source)
        return tuple(map(tuple, nodes))

    # Names in order

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the order in which they are computed."""
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names += [f"m{layer}"] * self.mlps
        return tuple(names)

    @cached_property
    def destinations(self) -> tuple[str, ...]:
        """Names of the destinations: per layer all `<q>`, all `<k>`, all `<v>`, the MLP; last `logits`."""
        names = []
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}<{part}>" for part in PARTS for head in range(self.n_parts[part])]
            names += [f"m{layer}"] * self.mlps
        return (*names, "logits")

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """Names of the edges, by destination and then by source. Made on first use: a large model has millions."""
        visible = zip(self.destinations, self.n_visible.tolist())
        return tuple(f"{source}{ARROW}{name}" for name, n in visible for source in self.sources[:n])

    def layer_of(self, destination: int) -> int:
        """The layer of a destination by its place; of `logits` the one after the last."""
        return destination // ((self.n_destinations - 1) // self.n_layers)  # as many in every layer

    def edge_name(self, source: int, destination: int) -> str:
        """The name of an edge by its places; one that does not exist is named all the same."""
        return f"{self.sources[source]}{ARROW}{self.destinations[destination]}"

    def edge_names(self, mask: Bool[Tensor, "source destination"]) -> tuple[str, ...]:
        """Names of the edges that a mask marks, in edge order; entries that are no edges are named all the same."""
        sources, destinations = self.sources, self.destinations
        return tuple(f"{sources[s]}{ARROW}{destinations[d]}" for d, s in mask.T.nonzero().tolist())

    def names_at(self, places: Int[Tensor, "_"]) -> list[str]:
        """Names of the edges at places in edge order; only these names are made."""
        sources, destinations = self.sources, self.destinations
        return [f"{sources[s]}{ARROW}{destinations[d]}" for d, s in self.edge_mask.T.nonzero()[places].tolist()]

    # Edges as tensors

    @cached_property
    def n_visible(self) -> Int[Tensor, "destination"]:
        """How many sources each destination sees: always the first ones. [destination]"""
        n_attention = self._destinations_per_layer - self.mlps
        layers = torch.arange(self.n_layers, device="cpu").unsqueeze(1)
        before = 1 + layers * self._sources_per_layer
        n_visible = before.repeat(1, self._destinations_per_layer)
        if not self.parallel:
            n_visible[:, n_attention:] += self.n_heads
        return torch.cat([n_visible.flatten(), torch.tensor([self.n_sources], device="cpu")])

    @cached_property
    def edge_mask(self) -> Bool[Tensor, "source destination"]:
        """True where an edge exists. [source destination]"""
        return torch.arange(self.n_sources, device="cpu").unsqueeze(1) < self.n_visible

    def matrix(self, values: Shaped[Tensor, "edge"]) -> Shaped[Tensor, "source destination"]:
        """One value per edge, in edge order, at the edges' places; 0 elsewhere. [source destination]"""
        matrix = values.new_zeros(self.n_destinations, self.n_sources)
        matrix[self.edge_mask.T] = values
        return matrix.T.contiguous()

    # From names to places

    def source_index(self, name: str) -> int:
        """Where a source is in `sources`.

        Raises:
            ValueError: There is no such source; the message says why.
        """
        if (index := self._source_indices.get(name) if isinstance(name, str) else None) is None:
            raise unknown_node(self, parse_source(name), name, "source")
        return index

    def destination_index(self, name: str) -> int:
        """Where a destination is in `destinations`.

        Raises:
            ValueError: There is no such destination; the message says why.
        """
        if (index := self._destination_indices.get(name) if isinstance(name, str) else None) is None:
            raise unknown_node(self, parse_destination(name), name, "destination")
        return index

    def edge_index(self, name: str) -> tuple[int, int]:
        """Where an edge is in a [source destination] tensor.

        Raises:
            ValueError: There is no such edge; the message says why.
        """
        source_name, destination_name = split_edge(name)
        try:
            source, destination = self.source_index(source_name), self.destination_index(destination_name)
        except ValueError as error:
            raise ValueError(f"unknown edge {name!r}: {error}") from None
        if source >= self._visible[destination]:
            raise impossible_edge(name, parse_source(source_name), parse_destination(destination_name))
        return source, destination

    def mask_of(self, names: Iterable[str]) -> Bool[Tensor, "source destination"]:
        """True for the edges named; a name may repeat. [source destination]

        Raises:
            ValueError: There is no such edge; the message says why.
        """
        if isinstance(names, str):
            raise refusal("names", "several edge names", f"the text {names!r}", "put it in a list")
        mask = torch.zeros(self.n_sources, self.n_destinations, dtype=torch.bool, device="cpu")
        if places := [self.edge_index(name) for name in names]:
            mask[tuple(torch.tensor(places, device="cpu").T)] = True
        return mask

    @cached_property
    def _source_indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.sources)}

    @cached_property
    def _destination_indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.destinations)}

    @cached_property
    def _visible(self) -> list[int]:
        return self.n_visible.tolist()
