"""A page of features: nodes are features, neurons, heads and errors at positions of a prompt, labelled by what they tell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.features.drawing import kind_of
from edge_circuits.graphs.features.edges import LOGITS, PARTS, FeatureEdges
from edge_circuits.graphs.features.nodes import ANY, FeatureNodes
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.page.payload import about, rounded
from edge_circuits.page.report import FIRST_K, page_text

LETTER, EDGES = 7, 10  # pixels


def write_feature_page(
    path: str | os.PathLike[str],
    edges: FeatureEdges,
    *,
    labels: Sequence[str] = (),
    tokens: Sequence[str] = (),
    k: int | None = None,
    title: str = "Features",
) -> Path:
    """Write a page to look at a circuit of features with: one file that needs no network and no server.

    The slider over k takes the k edges of largest |score| and leaves out those from which no path leads to `logits`.

    Args:
        path: The HTML file; an existing one is replaced.
        edges: From `score_feature_edges`.
        labels: A text for each node of `edges.nodes`, e.g. `token_labels`.
        tokens: A prompt's, told beside the positions.
        k: Where the slider begins; by default 200, or all of fewer edges.

    Raises:
        ValueError: No edges, a score that is not finite, another number of labels than of nodes, k out of range, or the
            folder does not exist.
    """
    nodes, n = edges.nodes, len(edges)
    if not n or not edges.scores.isfinite().all():
        raise refusal("edges", "one or more with finite scores", f"{n}", "score more nodes, or in a wider dtype")
    if labels and len(labels) != len(nodes):
        raise refusal(
            "labels", f"{len(nodes)}, one for each node", f"{len(labels)}", "give them in the order of the nodes"
        )
    if k is not None and not 0 <= k <= n:
        raise refusal("k", f"0 to {n}", f"{k}", "choose a number of edges")
    order = sorted(
        range(len(nodes)), key=lambda row: (nodes.sites[nodes.index[row, 0]].depth, *nodes.index[row].tolist())
    )
    graph, ends = _graph(edges, order, labels or [""] * len(nodes), tokens)
    ranked = torch.argsort(edges.scores.abs(), descending=True, stable=True).tolist()
    place = {row: number for number, row in enumerate(order)}
    side = {"source": [place[int(edges.index[i, 0])] for i in ranked], "destination": [ends[i] for i in ranked]}
    side |= {"name": str(edges.metadata.get("method", "features")), "signed": True, "most": n}
    known = edges.metadata
    content = {
        "title": title,
        "subtitle": f"{side['name']} · metric {known.get('metric')} · {len(nodes)} nodes · {n:,} edges",
        "headline": "",
        "graph": graph,
        "sides": [side | {"score": rounded(edges.scores[ranked])}],
        "k": min(FIRST_K, n) if k is None else k,
        "most": n,
        "alone": False,
        "curve": None,
        "checks": None,
        "prompts": None,
        "about": about(known),
    }
    return write_whole(path, page_text(content).encode())


def _graph(
    edges: FeatureEdges, order: Sequence[int], labels: Sequence[str], tokens: Sequence[str]
) -> tuple[dict[str, Any], list[int]]:
    """The graph as `graph.js` takes it, a row for each site, and the destination of each edge."""
    nodes = edges.nodes
    heights = sorted({nodes.sites[site].depth for site in nodes.index[:, 0].tolist()})
    wide = EDGES + LETTER * max(map(len, nodes.names))
    given = [_node(nodes, row, heights, labels[row], tokens) | {"wide": wide} for row in order]
    given.append({"name": "logits", "kind": "logits", "layer": None, "row": len(heights)})
    place, ends = {row: number for number, row in enumerate(order)}, []
    found: dict[tuple[Any, ...], int] = {}
    for i, (_, site, feature, part) in enumerate(edges.index.tolist()):
        readers = sorted(place[row] for row in edges.entered(i)) if site != LOGITS else [len(order)]
        layer = None if site == LOGITS else nodes.sites[site].layer
        name = "logits" if site == LOGITS else PARTS[part] or "feature"
        key = (edges.destination(site, feature, part), name, layer, *readers)
        ends.append(found.setdefault(key, len(found)))
    destinations = [
        {"name": name, "part": part, "layer": layer, "readers": readers} for name, part, layer, *readers in found
    ]
    n_layers = 1 + max(site.layer or 0 for site in nodes.sites)
    return {"nodes": given, "destinations": destinations, "n_layers": n_layers}, ends


def _node(
    nodes: FeatureNodes, row: int, heights: Sequence[tuple[int, int]], label: str, tokens: Sequence[str]
) -> dict[str, Any]:
    (number, at, _), kind = nodes.index[row].tolist(), kind_of(nodes, row)
    site = nodes.sites[number]
    where = "" if at == ANY else f" at position {at}" + (f", “{tokens[at]}”" if at < len(tokens) else "")
    told = [f"{kind}{where}", *([f"most active on {label}"] if label else []), f"score {nodes.scores[row].item():.3g}"]
    return {
        "name": nodes.names[row],
        "kind": kind,
        "layer": site.layer,
        "row": heights.index(site.depth),
        "column": at,
        "label": label,
        "told": told,
    }
