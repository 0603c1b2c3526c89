"""Scores and circuits as files: one JSON format with a version and a digest.

    {
      "format": "edge-circuits", "version": 2, "kind": "scores" or "circuit",
      "metadata": {"model": ..., "method": ..., "task": ..., "settings": ..., ...},
      "written_with": {"python": ..., "torch": ..., ...},
      "graph": {"n_layers": 12, "n_heads": 12, "n_kv_heads": null, "mlps": true, "parallel": false},
      "n_edges": 32491,
      "scores": {"dtype": "float32", "of": "all edges", "order": "destination, then source", "base64": "..."},
      "n_requested": 200, "edges": ["input->m0", ...],
      "digest": "..."
    }

`n_requested` and `edges` belong to a circuit, whose `scores` may be null, and are else of its kept edges only: a circuit of
a large model stays small. Scores that are kept group by group have a list `per_group` as well, one entry like `scores` for
each group of prompts. `n_edges` counts the edges of a scored graph, or those that a circuit keeps. Scores, in the order of
`Graph.edges`, are little-endian bytes in base64: exact without thought for decimals, 173 kB for GPT-2 small in float32
(decimals: about 700 kB), and read in milliseconds. All else is readable: a person sees what a file is and which edges a
circuit has.

A file is read only if it is whole, of this format, of a version known here, and as it was written: its digest
(`edge_circuits.graphs.files.documents`) is compared. Version 1 had no digest and all scores of a circuit; it is still read,
with a warning that nothing shows whether it was changed. Another version number is given to the format when a reader of the
present one would misread it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.checks import choice, refusal, whole_number
from edge_circuits.graphs.files.documents import (
    check_seal,
    json_types,
    library_versions,
    parsed,
    sealed,
    warn_without_digest,
)
from edge_circuits.graphs.graph import Graph

FORMAT = "edge-circuits"
VERSION = 2
Kind = Literal["scores", "circuit"]
Of = Literal["all edges", "kept edges"]

LARGEST = 2**27  # sources times destinations: a model of 80 layers with 64 heads has 81 million

_LOADERS: dict[str, str] = {"scores": "ScoredGraph.load", "circuit": "Circuit.load"}
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_GRAPH_FIELDS = ("n_layers", "n_heads", "n_kv_heads", "mlps", "parallel")


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
        graph: The topology.
        metadata: Of JSON types.
        scores: One per edge, 0 where there is no edge; None for a circuit without. Of a circuit those of edges that are
            not kept are NaN, "not known", when they come from a file. [source destination]
        per_group: What each group of prompts adds to the scores. [group source destination]
        mask: The kept edges; None for scores alone. [source destination]
        n_requested: How many edges a circuit was asked to have.
    """

    graph: Graph
    metadata: Mapping[str, Any]
    scores: Float[Tensor, "source destination"] | None = None
    per_group: Float[Tensor, "group source destination"] | None = None
    mask: Bool[Tensor, "source destination"] | None = None
    n_requested: int | None = None

    @property
    def kind(self) -> Kind:
        """What it is."""
        return "scores" if self.mask is None else "circuit"


def to_text(saved: Saved) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: A score that is written is NaN, the graph is too large to be read again, or the metadata does not fit
            JSON.
    """
    check_size(saved.graph)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": saved.kind,
        "metadata": json_types(saved.metadata),
        "written_with": library_versions(),
        "graph": {name: getattr(saved.graph, name) for name in _GRAPH_FIELDS},
        **(_scores_content(saved) if saved.mask is None else _circuit_content(saved)),
    }
    return (json.dumps(sealed(content), indent=1, allow_nan=False) + "\n").encode()


def from_text(content: bytes, kind: Kind) -> Saved:
    """What the bytes of a file hold; scores bit for bit and in their dtype.

    Raises:
        ValueError: They are torn, foreign, changed, newer, of wrong shapes, or hold the other kind; the message says what
            to do.
    """
    header = _header(content)
    if header["kind"] != kind:
        found, loader = header["kind"], _LOADERS[header["kind"]]
        raise ValueError(f"expected a file of {kind}, got one of {found}; use {loader}")
    graph, metadata = _graph(_entry(header, "graph", dict)), _entry(header, "metadata", dict)
    if kind == "scores":
        scores = _unpacked(graph, _entry(header, "scores", dict), graph.edge_mask)
        _check_count(header, graph.n_edges)
        return Saved(graph, metadata, scores, _groups(header, graph))
    mask, packed = _mask(header, graph), _entry(header, "scores", (dict, type(None)))
    n_requested = _entry(header, "n_requested", (int, type(None)))
    return Saved(
        graph,
        metadata,
        scores=None if packed is None else _unpacked(graph, packed, mask),
        mask=mask,
        n_requested=None if n_requested is None else whole_number('"n_requested"', n_requested),
    )


# Writing


def _scores_content(saved: Saved) -> dict[str, Any]:
    graph = saved.graph
    content = {"n_edges": graph.n_edges, "scores": _packed(graph, saved.scores, "all edges", graph.edge_mask)}
    if saved.per_group is not None:
        content["per_group"] = [_packed(graph, each, "all edges", graph.edge_mask) for each in saved.per_group]
    return content


def _circuit_content(saved: Saved) -> dict[str, Any]:
    edges = saved.graph.edge_names(saved.mask)
    return {
        "n_requested": saved.n_requested,
        "n_edges": len(edges),
        "edges": list(edges),
        "scores": None if saved.scores is None else _packed(saved.graph, saved.scores, "kept edges", saved.mask),
    }


def _packed(
    graph: Graph, scores: Float[Tensor, "source destination"], of: Of, mask: Bool[Tensor, "source destination"]
) -> dict[str, str]:
    """The scores of the masked edges as base64 of little-endian numbers."""
    values = scores.T[mask.T]
    if values.isnan().any():
        bad = scores.isnan() & mask
        got = f"{int(bad.sum())} NaN, the first for {graph.edge_names(bad)[0]}"
        raise refusal("scores", "numbers, or infinity", got, "score again in a wider dtype or mend the metric")
    little_endian = values.numpy().astype(f"<f{values.element_size()}").tobytes()
    return {
        "dtype": str(values.dtype).removeprefix("torch."),
        "of": of,
        "order": "destination, then source",
        "base64": base64.b64encode(little_endian).decode("ascii"),
    }


# Reading


def _header(content: bytes) -> dict[str, Any]:
    """The file's JSON, known to be ours, as it was written, and of a version that is read here."""
    header = parsed(content)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        own = "give one that save wrote"
        hint = "files of EAP-IG and MIB are read by edge_circuits.graphs.files.eap_ig" if is_of_eap_ig(header) else own
        raise ValueError(f'expected a file of edge-circuits, got JSON without "format": "{FORMAT}"; {hint}')
    version = whole_number('"version"', header.get("version"), 1)
    if version > VERSION:
        raise refusal('"version"', f"at most {VERSION}", version, "the file is newer: update edge-circuits")
    if version == 1:
        warn_without_digest()
    else:
        check_seal(header)
    choice('"kind"', header.get("kind"), get_args(Kind))
    return header


def is_of_eap_ig(content: Any) -> bool:
    """Whether what a JSON file holds is in EAP-IG's layout."""
    return isinstance(content, dict) and {"cfg", "nodes", "edges"} <= content.keys()


def _entry(header: Mapping[str, Any], name: str, types: type | tuple[type, ...]) -> Any:
    """An entry of the file that must be there and of a type."""
    value = header.get(name, header)
    if value is header or not isinstance(value, types) or isinstance(value, bool):
        words = " or ".join(each.__name__ for each in (types if isinstance(types, tuple) else (types,)))
        raise refusal(f'"{name}"', f"a {words}", "nothing" if value is header else type(value).__name__)
    return value


def _graph(settings: dict[str, Any]) -> Graph:
    if set(settings) != set(_GRAPH_FIELDS):
        raise refusal('"graph"', ", ".join(_GRAPH_FIELDS), ", ".join(settings) or "nothing")
    graph = Graph(**settings)
    check_size(graph)
    return graph


def check_size(graph: Graph) -> None:
    """Refuse a graph whose tensors would be larger than any known model's, before one is made."""
    if (size := graph.n_sources * graph.n_destinations) > LARGEST:
        raise refusal("graph", f"at most {LARGEST} pairs of source and destination", f"{size} of {graph}")


def _groups(header: Mapping[str, Any], graph: Graph) -> Float[Tensor, "group source destination"] | None:
    """What each group of prompts adds to the scores, where the file has it."""
    if "per_group" not in header:
        return None
    packed = _entry(header, "per_group", list)
    if not packed or not all(isinstance(each, dict) for each in packed):
        raise refusal('"per_group"', "one set of scores or more", f"{len(packed)} entries that are not")
    return torch.stack([_unpacked(graph, each, graph.edge_mask) for each in packed])


def _mask(header: Mapping[str, Any], graph: Graph) -> Bool[Tensor, "source destination"]:
    """A circuit's edges."""
    edges = _entry(header, "edges", list)
    if not all(isinstance(edge, str) for edge in edges) or len(set(edges)) < len(edges):
        raise refusal('"edges"', "names without repetition", f"{len(edges)} entries that are not")
    _check_count(header, len(edges))
    return graph.mask_of(edges)


def _check_count(header: Mapping[str, Any], n_edges: int) -> None:
    if _entry(header, "n_edges", int) != n_edges:
        raise refusal('"n_edges"', f"{n_edges}, as many as the file holds", header["n_edges"])


def _unpacked(
    graph: Graph, packed: Mapping[str, Any], mask: Bool[Tensor, "source destination"]
) -> Float[Tensor, "source destination"]:
    """Scores from what `_packed` gave; NaN for edges whose scores are not in the file."""
    name = choice('dtype of "scores"', packed.get("dtype"), _DTYPES)
    if choice('"of" of "scores"', packed.get("of", "all edges"), get_args(Of)) == "all edges":
        mask = graph.edge_mask
    dtype, n_scores = _DTYPES[name], int(mask.sum())
    try:
        content = base64.b64decode(_entry(packed, "base64", str), validate=True)
    except binascii.Error as error:
        raise refusal('"scores"', "base64", f"other text ({error})") from error
    if len(content) != n_scores * dtype.itemsize:
        raise refusal('"scores"', f"{n_scores} numbers of {name}", f"{len(content) / dtype.itemsize:g}")
    values = torch.from_numpy(np.frombuffer(content, f"<f{dtype.itemsize}").astype(name))
    if values.isnan().any():
        raise refusal('"scores"', "numbers", f"{int(values.isnan().sum())} NaN")
    scores = torch.zeros(graph.n_destinations, graph.n_sources, dtype=dtype, device="cpu")
    scores[graph.edge_mask.T] = torch.nan
    scores[mask.T] = values
    return scores.T.contiguous()
