"""Scores and circuits as files: one JSON format with a version.

    {
      "format": "edge-circuits", "version": 1, "kind": "scores" or "circuit",
      "metadata": {"model": ..., "method": ..., "task": ..., "settings": ..., ...},
      "written_with": {"python": ..., "torch": ..., ...},
      "graph": {"n_layers": 12, "n_heads": 12, "n_kv_heads": null, "mlps": true, "parallel": false},
      "n_edges": 32491,
      "scores": {"dtype": "float32", "order": "destination, then source", "base64": "..."},
      "n_requested": 200, "edges": ["input->m0", ...]
    }

`n_requested` and `edges` belong to a circuit, whose `scores` may be null. Scores that are kept group by group have a list
`per_group` as well, one entry like `scores` for each group of prompts. `n_edges` counts the edges of a scored graph,
or those that a circuit keeps. The scores of all edges, in the order of `Graph.edges`, are little-endian bytes in base64:
exact without thought for decimals, 173 kB for GPT-2 small in float32 (decimals: about 700 kB), and read in
milliseconds. All else is readable: a person sees what a file is and which edges a circuit has.

A file is read only if it is whole, of this format and of a version known here. Another version number is given to
the format when a reader of the present one would misread it.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.scores import ScoredGraph

FORMAT = "edge-circuits"
VERSION = 1
Kind = Literal["scores", "circuit"]
Value = TypeVar("Value", ScoredGraph, Circuit)

_KINDS: dict[type, Kind] = {ScoredGraph: "scores", Circuit: "circuit"}
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_GRAPH_FIELDS = ("n_layers", "n_heads", "n_kv_heads", "mlps", "parallel")
_LIBRARIES = ("edge-circuits", "torch", "transformer-lens", "transformers")


def save(value: ScoredGraph | Circuit, path: str | os.PathLike[str]) -> None:
    """Write scores or a circuit to a JSON file, whole or not at all. An existing file is replaced.

    Args:
        value: What to write. Its metadata must be of JSON types; tuples come back as lists.
        path: The file; `.json` is customary and not required.

    Raises:
        ValueError: A score is NaN, the metadata does not fit JSON, or the folder does not exist.
    """
    if type(value) not in _KINDS:
        raise ValueError(f"value must be a ScoredGraph or a Circuit, got {type(value).__name__}")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": _KINDS[type(value)],
        "metadata": _checked_metadata(dict(value.metadata)),
        "written_with": _versions(),
        "graph": {name: getattr(value.graph, name) for name in _GRAPH_FIELDS},
        **(_scores_content(value) if isinstance(value, ScoredGraph) else _circuit_content(value)),
    }
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def load(path: str | os.PathLike[str]) -> ScoredGraph | Circuit:
    """Read whatever `save` wrote to a file.

    Returns:
        An equal value: scores bit for bit and in their dtype.

    Raises:
        ValueError: The file is torn, foreign, newer or of wrong shapes; the message names it and says what to do.
        FileNotFoundError: There is no such file.
    """
    content = Path(path).read_bytes()
    try:
        return _parse(content)
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def load_as(kind: type[Value], path: str | os.PathLike[str]) -> Value:
    """Read a file that must hold scores (`ScoredGraph`) or a circuit (`Circuit`).

    Raises:
        ValueError: As `load` does, or the file holds the other kind.
        FileNotFoundError: There is no such file.
    """
    value = load(path)
    if not isinstance(value, kind):
        found = type(value)
        raise ValueError(
            f"cannot read {path} as a {kind.__name__}: it holds a {found.__name__}, use {found.__name__}.load"
        )
    return value


# Writing


def _scores_content(scored: ScoredGraph) -> dict[str, Any]:
    content = {"n_edges": scored.graph.n_edges, "scores": _packed(scored.graph, scored.scores)}
    if scored.per_group is not None:
        content["per_group"] = [_packed(scored.graph, each) for each in scored.per_group]
    return content


def _circuit_content(circuit: Circuit) -> dict[str, Any]:
    return {
        "n_requested": circuit.n_requested,
        "n_edges": circuit.n_edges,
        "edges": list(circuit.edges),
        "scores": None if circuit.scores is None else _packed(circuit.graph, circuit.scores),
    }


def _packed(graph: Graph, scores: Float[Tensor, "source destination"]) -> dict[str, str]:
    """The scores of all edges as base64 of little-endian numbers.

    Raises:
        ValueError: A score is NaN.
    """
    values = scores.T[graph.edge_mask.T]
    if values.isnan().any():
        first = int(values.isnan().nonzero()[0])
        raise ValueError(
            f"scores must not be NaN, got {int(values.isnan().sum())} of {graph.n_edges}, "
            f"the first for {graph.edges[first]}: score again in a wider dtype or mend the metric"
        )
    dtype = str(values.dtype).removeprefix("torch.")
    little_endian = values.numpy().astype(f"<f{values.element_size()}").tobytes()
    packed = base64.b64encode(little_endian).decode("ascii")
    return {"dtype": dtype, "order": "destination, then source", "base64": packed}


def _checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata, if every entry fits JSON.

    Raises:
        ValueError: An entry does not; the message names it.
    """
    for name, entry in metadata.items():
        if not isinstance(name, str):
            raise ValueError(f"metadata must have texts as keys, got {name!r}")
        try:
            json.dumps(entry, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"metadata[{name!r}] does not fit JSON: {error}; use texts, finite numbers, lists and dicts"
            ) from error
    return metadata


def _versions() -> dict[str, str]:
    """Versions of Python and of the libraries that are installed, without importing them."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


# Reading


def _parse(content: bytes) -> ScoredGraph | Circuit:
    header = _header(content)
    graph = _graph(_entry(header, "graph", dict))
    metadata = _entry(header, "metadata", dict)
    if header["kind"] == "scores":
        scores = _unpacked(graph, _entry(header, "scores", dict))
        _check_count(header, graph.n_edges)
        return ScoredGraph(graph, scores, metadata, _groups(header, graph))
    packed = _entry(header, "scores", (dict, type(None)))
    return Circuit.from_edges(
        graph,
        _edges(header),
        scores=None if packed is None else _unpacked(graph, packed),
        metadata=metadata,
        n_requested=_entry(header, "n_requested", (int, type(None))),
    )


def _header(content: bytes) -> dict[str, Any]:
    """The file's JSON, known to be ours and of a version that is read here.

    Raises:
        ValueError: It is not.
    """
    try:
        header = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is torn or not JSON at all ({error}); copy or save it again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        hint = "; files of EAP-IG and MIB are read by edge_circuits.graphs.files.eap_ig" if _is_eap_ig(header) else ""
        raise ValueError(f'it is JSON of another origin, without "format": "{FORMAT}"{hint}')
    version = header.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f'its "version" must be a positive number, got {version!r}')
    if version > VERSION:
        raise ValueError(f"it has version {version} of the format, known here is up to {VERSION}: update edge-circuits")
    if header.get("kind") not in _KINDS.values():
        raise ValueError(f'its "kind" must be one of {", ".join(_KINDS.values())}, got {header.get("kind")!r}')
    return header


def _is_eap_ig(content: Any) -> bool:
    return isinstance(content, dict) and {"cfg", "nodes", "edges"} <= content.keys()


def _entry(header: dict[str, Any], name: str, types: type | tuple[type, ...]) -> Any:
    """An entry of the file that must be there and of a type.

    Raises:
        ValueError: It is missing or of another type.
    """
    if name not in header:
        raise ValueError(f'its "{name}" is missing')
    if not isinstance(header[name], types) or isinstance(header[name], bool):
        raise ValueError(f'its "{name}" is a {type(header[name]).__name__}, which is not expected there')
    return header[name]


def _graph(settings: dict[str, Any]) -> Graph:
    if set(settings) != set(_GRAPH_FIELDS):
        raise ValueError(f'its "graph" must have {", ".join(_GRAPH_FIELDS)}, got {", ".join(settings) or "nothing"}')
    return Graph(**settings)


def _groups(header: dict[str, Any], graph: Graph) -> Float[Tensor, "group source destination"] | None:
    """What each group of prompts adds to the scores, where the file has it.

    Raises:
        ValueError: It is not one set of scores for each group.
    """
    if "per_group" not in header:
        return None
    packed = _entry(header, "per_group", list)
    if not packed or not all(isinstance(each, dict) for each in packed):
        raise ValueError('its "per_group" must be one set of scores or more')
    return torch.stack([_unpacked(graph, each) for each in packed])


def _edges(header: dict[str, Any]) -> list[str]:
    """The names of a circuit's edges, not yet looked up.

    Raises:
        ValueError: A name repeats, or there are not as many as the file says.
    """
    edges = _entry(header, "edges", list)
    if not all(isinstance(edge, str) for edge in edges) or len(set(edges)) < len(edges):
        raise ValueError('its "edges" must be names without repetition')
    _check_count(header, len(edges))
    return edges


def _check_count(header: dict[str, Any], n_edges: int) -> None:
    if _entry(header, "n_edges", int) != n_edges:
        raise ValueError(f'its "n_edges" is {header["n_edges"]}, but it holds {n_edges} edges')


def _unpacked(graph: Graph, packed: dict[str, Any]) -> Float[Tensor, "source destination"]:
    """The scores of all edges, from what `_packed` gave.

    Raises:
        ValueError: Unknown dtype, not base64, not one number per edge, or a NaN.
    """
    name = packed.get("dtype")
    if name not in list(_DTYPES):
        raise ValueError(f"its scores must be of dtype {' or '.join(_DTYPES)}, got {name!r}")
    dtype = _DTYPES[name]
    content = base64.b64decode(_entry(packed, "base64", str), validate=True)
    if len(content) != graph.n_edges * dtype.itemsize:
        n_scores = len(content) / dtype.itemsize
        raise ValueError(f"its scores are {n_scores:g} numbers of {name}, but its graph has {graph.n_edges} edges")
    values = torch.from_numpy(np.frombuffer(content, f"<f{dtype.itemsize}").astype(name))
    if values.isnan().any():
        raise ValueError("its scores must not be NaN")
    scores = torch.zeros(graph.n_destinations, graph.n_sources, dtype=dtype)
    scores[graph.edge_mask.T] = values
    return scores.T.contiguous()
