"""The two file layouts of EAP-IG and MIB's circuit track, read into and written from one table.

    .json  {"cfg":   {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"},
            "nodes": {name: {"in_graph": bool}}                            (older files: name: bool),
            "edges": {"a0.h1->a2.h3<q>": {"score": number, "in_graph": bool}}}
    .pt    {"cfg", "src_nodes", "dst_nodes", "edges_scores" and "edges_in_graph" [source destination],
            "nodes_in_graph" [source]}

Files written here have `score_sign` and `scored` as well, and JSON a `digest`; EAP-IG ignores them. A .pt file has the
checksums of zip.

Nodes and edges are named as in `graphs.nodes`, sources and destinations ordered as in `graphs.graph`.

The layouts always have MLPs. A graph without them is written with MLPs that have score 0 and are not kept, and with
`"attn_only": true` in `cfg`, which EAP-IG ignores; reading takes them away again. JSON files without any name of an MLP
are read as attention-only, too.

Source: the files that EAP-IG's `Graph.to_json` and `Graph.to_pt` write (Hanna, Pezzelle & Belinkov 2024, "Have Faith in
Faithfulness") and MIB's published circuits (Mueller et al. 2025).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.checks import choice, described, refusal
from edge_circuits.graphs.files.arrays import check_stored
from edge_circuits.graphs.files.documents import check_seal, parsed, sealed
from edge_circuits.graphs.files.json_format import Of, check_size
from edge_circuits.graphs.graph import Graph

Layout = Literal[".json", ".pt"]
Sign = Literal["loss", "metric", "size"]


@dataclass(frozen=True)
class Table:
    """What a file of either layout holds.

    Attributes:
        graph: The topology, with MLPs only if the model has them.
        scores: One per edge, 0 elsewhere, sign and unit as in the file; None unless every edge has one, or if the file
            scores nodes or neurons instead. [source destination]
        kept: The edges marked as in the circuit; None if not every edge is marked, true or false. [source destination]
        d_model: Width of the residual stream; None if the file does not tell.
        has_neurons: Whether the file marks single neurons of its nodes as well.
        sign: What a positive score means: as of a loss, cutting lowers the metric; as of the metric, cutting raises it;
            or a size without a sign. None if the file does not say.
        scored: "kept edges" if the scores of others are not known, and written as 0.
    """

    graph: Graph
    scores: Float[Tensor, "source destination"] | None
    kept: Bool[Tensor, "source destination"] | None
    d_model: int | None = None
    has_neurons: bool = False
    sign: Sign | None = None
    scored: Of = "all edges"


def read(content: bytes, layout: Layout) -> Table:
    """The table that a file's bytes hold.

    Raises:
        ValueError: They are torn, of another layout, of shapes that do not fit together, or a score is NaN or infinite.
    """
    file = parsed(content) if layout == ".json" else _pt_file(content)
    if not isinstance(file, dict) or not isinstance(file.get("cfg"), dict):
        raise ValueError('expected the layout of EAP-IG, which has a "cfg", got another')
    if "digest" in file and layout == ".json":
        check_seal(file)
    table = _from_json(file) if layout == ".json" else _from_pt(file)
    d_model = file["cfg"].get("d_model")
    table = replace(
        table,
        d_model=d_model if isinstance(d_model, int) else None,
        sign=choice('"score_sign"', file["score_sign"], get_args(Sign)) if "score_sign" in file else None,
        scored=choice('"scored"', file.get("scored", "all edges"), get_args(Of)),
    )
    if file["cfg"].get("attn_only") is True and table.graph.mlps:
        table = _without_mlps(table)
    return table if table.scores is None else replace(table, scores=_checked(table.graph, table.scores))


def write(table: Table, layout: Layout) -> bytes:
    """The bytes of a file that holds a table. `scores` and `kept` must be there, and `d_model`: EAP-IG reads it."""
    assert table.scores is not None and table.kept is not None and table.d_model is not None
    graph = table.graph
    cfg = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": table.d_model,
    }
    if not graph.mlps:
        cfg["attn_only"] = True
        table = _with_mlps(table)
    return _to_json(table, cfg) if layout == ".json" else _to_pt(table, cfg)


# Reading


def _pt_file(content: bytes) -> Any:
    try:
        check_stored(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a torn or foreign file makes torch.load raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        given = f"one that is torn, or holds more than tensors and plain values ({reason})"
        raise ValueError(f"expected a file of torch.save, got {given}") from error


def _from_json(file: dict[str, Any]) -> Table:
    nodes, edges = file.get("nodes"), file.get("edges")
    if not isinstance(nodes, dict) or not isinstance(edges, dict):
        raise ValueError('expected the layout of EAP-IG, which has "nodes" and "edges" by name, got another')
    graph = _graph(file["cfg"], mlps=any(name.startswith("m") for name in (*nodes, *edges)))
    places = tuple(
        torch.tensor([graph.edge_index(name) for name in edges], dtype=torch.long, device="cpu").view(-1, 2).T
    )
    values = [_score(name, entry) for name, entry in edges.items()]
    marks = [_mark(name, entry) for name, entry in edges.items()]
    of_nodes = {key for node in nodes.values() if isinstance(node, dict) for key in node}
    scores, kept = None, None
    if len(edges) == graph.n_edges and None not in values:
        filled = torch.zeros(graph.edge_mask.shape, dtype=torch.float64, device="cpu")
        filled[places] = torch.tensor(values, dtype=torch.float64, device="cpu")
        scores = _edge_scores(graph, filled, has_others=bool(of_nodes & {"score", "neurons_scores"}))
    if None not in marks:
        kept = torch.zeros_like(graph.edge_mask)
        kept[places] = torch.tensor(marks, dtype=torch.bool, device="cpu")
    return Table(graph, scores, kept, has_neurons="neurons" in of_nodes)


def _edge_scores(
    graph: Graph, scores: Float[Tensor, "source destination"], has_others: bool
) -> Float[Tensor, "source destination"] | None:
    """The scores with 0 where there is no edge; None if all are 0 since the file scores nodes or neurons instead."""
    scores = scores.where(graph.edge_mask, 0)
    return None if has_others and not scores.any() else scores


def _score(name: str, entry: Any) -> float | None:
    """The score of an edge in a JSON file; None if it has none."""
    if not isinstance(entry, dict):
        raise refusal(f"edge {name}", 'a "score" and an "in_graph"', repr(entry))
    score = entry.get("score")
    if score is not None and (not isinstance(score, (int, float)) or isinstance(score, bool)):
        raise refusal(f"score of {name}", "a number", repr(score))
    return score


def _mark(name: str, entry: dict[str, Any]) -> bool | None:
    """Whether an edge of a JSON file is marked as kept; None if it does not say."""
    mark = entry.get("in_graph")
    if mark is not None and not isinstance(mark, bool):
        raise refusal(f"in_graph of {name}", "true or false", repr(mark))
    return mark


def _from_pt(file: dict[str, Any]) -> Table:
    sources = file.get("src_nodes")
    graph = _graph(file["cfg"], mlps=isinstance(sources, (list, tuple)) and "m0" in sources)
    for key, names in (("src_nodes", graph.sources), ("dst_nodes", graph.destinations)):
        if not isinstance(file.get(key), (list, tuple)) or tuple(file[key]) != names:
            raise refusal(f'"{key}"', f"the {len(names)} names that the cfg implies, in order", "others")
    kept = _tensor(file, "edges_in_graph", graph) if "edges_in_graph" in file else None
    scores = _tensor(file, "edges_scores", graph)
    if not scores.is_floating_point():
        raise refusal('"edges_scores"', "floating point", scores.dtype)
    return Table(
        graph,
        _edge_scores(graph, scores, bool(file.keys() & {"nodes_scores", "neurons_scores"})),
        None if kept is None else kept.bool() & graph.edge_mask,  # EAP-IG also marks entries that are no edges
        has_neurons="neurons_in_graph" in file,
    )


def _tensor(file: dict[str, Any], key: str, graph: Graph) -> Tensor:
    """A [source destination] tensor of the file."""
    value, expected = file.get(key), tuple(graph.edge_mask.shape)
    if not isinstance(value, Tensor) or tuple(value.shape) != expected or value.layout != torch.strided:
        raise refusal(f'"{key}"', f"a tensor of shape {expected} [source destination]", described(value))
    return value


def _graph(cfg: dict[str, Any], mlps: bool) -> Graph:
    missing = [name for name in ("n_layers", "n_heads", "parallel_attn_mlp") if name not in cfg]
    if missing:
        raise refusal('"cfg"', "n_layers, n_heads and parallel_attn_mlp", f"none of {', '.join(missing)}")
    graph = Graph(cfg["n_layers"], cfg["n_heads"], mlps=mlps, parallel=cfg["parallel_attn_mlp"])
    check_size(graph)
    return graph


def _checked(graph: Graph, scores: Float[Tensor, "source destination"]) -> Float[Tensor, "source destination"]:
    """Finite scores, in float32 where that holds them exactly."""
    bad = ~scores.isfinite()
    if bad.any():
        given = f"{int(bad.sum())} NaN or infinite, the first for {graph.edge_names(bad)[0]}"
        raise refusal("scores", "finite numbers", given)
    narrow = scores.float()
    return narrow if torch.equal(narrow.to(scores.dtype), scores) else scores


# Writing


def _to_json(table: Table, cfg: dict[str, Any]) -> bytes:
    graph = table.graph
    scores = table.scores.T[graph.edge_mask.T].tolist()
    kept = table.kept.T[graph.edge_mask.T].tolist()
    nodes = dict(zip(graph.sources, _kept_nodes(table).tolist())) | {"logits": True}
    content = {
        "cfg": cfg,
        "nodes": {name: {"in_graph": is_kept} for name, is_kept in nodes.items()},
        "edges": {n: {"score": s, "in_graph": k} for n, s, k in zip(graph.edges, scores, kept)},
        "score_sign": table.sign,
        "scored": table.scored,
    }
    return json.dumps(sealed(content), allow_nan=False).encode()


def _to_pt(table: Table, cfg: dict[str, Any]) -> bytes:
    content = {
        "cfg": cfg,
        "src_nodes": list(table.graph.sources),
        "dst_nodes": list(table.graph.destinations),
        "edges_scores": table.scores.contiguous(),
        "edges_in_graph": table.kept.contiguous(),
        "nodes_in_graph": _kept_nodes(table),
        "score_sign": table.sign,
        "scored": table.scored,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _kept_nodes(table: Table) -> Bool[Tensor, "source"]:
    """The sources into which and out of which a kept edge leads; `input` needs none into it. [source]"""
    graph, read_by = table.graph, table.kept.any(0).tolist()
    is_fed = [any(read_by[end] for end in graph.destinations_of(source)) for source in range(graph.n_sources)]
    is_fed[0] = True
    return table.kept.any(1) & torch.tensor(is_fed, device="cpu")


# Attention-only models in a layout that always has MLPs


def _with_mlps(table: Table) -> Table:
    wide = Graph(table.graph.n_layers, table.graph.n_heads)
    places = _places(table.graph, wide)
    scores = torch.zeros(wide.edge_mask.shape, dtype=table.scores.dtype, device="cpu")
    kept = torch.zeros_like(wide.edge_mask)
    scores[places], kept[places] = table.scores, table.kept
    return replace(table, graph=wide, scores=scores, kept=kept)


def _without_mlps(table: Table) -> Table:
    narrow = Graph(table.graph.n_layers, table.graph.n_heads, mlps=False)
    places = _places(narrow, table.graph)
    scores = None if table.scores is None else table.scores[places]
    kept = None if table.kept is None else table.kept[places]
    return replace(table, graph=narrow, scores=scores, kept=kept)


def _places(narrow: Graph, wide: Graph) -> tuple[Tensor, Tensor]:
    """Where the nodes of a graph are in a wider one, as an index for [source destination] tensors."""
    rows: Iterable[int] = (wide.source_index(name) for name in narrow.sources)
    columns = (wide.destination_index(name) for name in narrow.destinations)
    return torch.tensor(list(rows), device="cpu").unsqueeze(1), torch.tensor(list(columns), device="cpu")
