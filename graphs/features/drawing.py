"""Pictures of feature circuits: nodes in rows of sites over the positions of a prompt, labelled by what they are active on.

Features of dictionaries, neurons, heads and errors differ in shape and colour. An edge's colour tells what it enters (q, k,
v, a feature, logits), its width |score|, dashes a positive score, which hurts (cutting raises the metric); the pointer shows names, scores and labels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_circuits.graphs.drawing.elements import document, text_at
from edge_circuits.graphs.drawing.looks import EDGE_COLOURS, FAINT_INK, INK, printable
from edge_circuits.graphs.features.dictionary import AnyDictionary
from edge_circuits.graphs.features.edges import LOGITS, FeatureEdges
from edge_circuits.graphs.features.nodes import ANY, ERROR, FeatureNodes
from edge_circuits.graphs.features.running import Dissection
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.prompts.pairs import PromptPairs

LOOKS = {
    "feature": ("#f3e6f7", 9),
    "neuron": ("#fdf0d5", 12),
    "head": ("#e9f1fb", 2),
    "expert": ("#fdf0d5", 2),
    "error": ("#ffffff", 0),
}
"""Colour and rounding of each kind of node."""
LEGEND = "width: |score|; solid helps (cutting lowers the metric), dashed hurts; into q red, k blue, v green, a feature purple, logits black"
PART_COLOURS = (EDGE_COLOURS["mlp"], EDGE_COLOURS["q"], EDGE_COLOURS["k"], EDGE_COLOURS["v"])
WIDTH, HEIGHT, PITCH, ROW, LEFT, TOP = 86, 32, 94, 74, 70, 50


@torch.no_grad()
def token_labels(
    model: nn.Module,
    dictionaries: Sequence[AnyDictionary],
    nodes: FeatureNodes,
    pairs: PromptPairs,
    tokenizer: Any,
    n_tokens: int = 3,
) -> list[str]:
    """For each node the tokens of the prompts, clean and corrupted, on which its value is the largest; "" for errors.

    Args:
        tokenizer: anything with `convert_ids_to_tokens`.
    """
    both = [pairs, pairs.swapped()]
    best: list[dict[str, float]] = [{} for _ in range(len(nodes))]
    for one in both:
        dissection = Dissection(model, dictionaries, one, "patching")
        for batch in dissection.batches:
            kept = dissection.forward(batch.clean, batch)
            words = [
                tokenizer.convert_ids_to_tokens(row[: n + 1].tolist()) for row, n in zip(batch.clean, batch.positions)
            ]
            for site in nodes.index[:, 0].unique().tolist():
                values = dissection.dictionaries[site].active(dissection.parts(site, kept).features)
                for row in (nodes.index[:, 0] == site).nonzero()[:, 0].tolist():
                    if nodes.index[row, 2] != ERROR:
                        _note(best[row], values[:, :, nodes.index[row, 2]].tolist(), words)
    ranked = (sorted(found, key=lambda word: -found[word])[:n_tokens] for found in best)
    return [" ".join(word.replace("\u0120", "").strip() for word in words) for words in ranked]


def _note(found: dict[str, float], values: list[list[float]], words: list[list[str]]) -> None:
    for row, tokens in zip(values, words):
        for value, word in zip(row, tokens):
            if value > found.get(word, 0.0):
                found[word] = value


def kind_of(nodes: FeatureNodes, row: int) -> str:
    """ "feature", "neuron", "head", "expert" or "error"."""
    site, _, feature = nodes.index[row].tolist()
    if feature == ERROR:
        return "error"
    kinds = {"neurons": "neuron", "z": "head", "experts": "expert"}
    return kinds.get(nodes.sites[site].kind, "feature")


def feature_svg(
    edges: FeatureEdges, labels: Sequence[str] | None = None, tokens: Sequence[str] = (), title: str = ""
) -> str:
    """The text of an SVG file: the table's nodes with their edges; equal circuits give equal text.

    Args:
        edges: its `nodes` are drawn, all of them.
        labels: a text under each node, e.g. `token_labels`.
        tokens: a prompt's, under the positions.
    """
    nodes, labels = edges.nodes, labels or [""] * len(edges.nodes)
    places = _places(nodes)
    n_columns = max((x for x, _ in places.values()), default=0) + 1
    rows = _sites(nodes)
    height = TOP + ROW * (len(rows) + 2)
    width = LEFT + PITCH * n_columns + 20

    def at(key: tuple[int, ...]) -> tuple[float, float]:
        column, row = places[key]
        return LEFT + PITCH * (column + 0.5), height - ROW * (row + 1.2)

    places[LOGITS,] = ((n_columns - 1) / 2, len(rows))
    lines = [text_at((20, 22), title, size=14), text_at((20, 40), LEGEND, FAINT_INK, size=11)]
    lines += [
        text_at((10, height - ROW * (place + 1.2)), nodes.sites[site].name, FAINT_INK)
        for place, site in enumerate(rows)
    ]
    first = {
        position: x
        for (_, position, _), (x, _) in sorted(((k, p) for k, p in places.items() if len(k) == 3), reverse=True)
    }
    lines += [
        text_at((LEFT + PITCH * (x + 0.5), height - 14), tokens[position], FAINT_INK, anchor="middle")
        for position, x in sorted(first.items())
        if ANY < position < len(tokens)
    ]
    lines += _edges(edges, at)
    for row, (key, name) in enumerate(zip(map(tuple, nodes.index.tolist()), nodes.names)):
        lines.append(_node(kind_of(nodes, row), name, labels[row], nodes.scores[row].item(), *at(key)))
    lines.append(_node("feature", "logits", "", 0.0, *at((LOGITS,))))
    return document(width, height, 11, lines)


def render_features(edges: FeatureEdges, path: str | os.PathLike[str], **settings: Any) -> Path:
    """Write `feature_svg` to a file."""
    return write_whole(path, feature_svg(edges, **settings).encode())


def _places(nodes: FeatureNodes) -> dict[tuple[int, ...], tuple[float, int]]:
    """Column and row of each node: positions from left to right, as wide as the fullest row needs; sites upwards."""
    keys = sorted(map(tuple, nodes.index.tolist()), key=lambda key: (key[1], key[0], key[2]))
    rows = {site: place for place, site in enumerate(_sites(nodes))}
    places, start = {}, 0
    for position in sorted({key[1] for key in keys}):
        here = [key for key in keys if key[1] == position]
        used = dict.fromkeys(rows, 0)
        for key in here:
            places[key] = (float(start + used[key[0]]), rows[key[0]])
            used[key[0]] += 1
        start += max(used.values())
    return places


def _sites(nodes: FeatureNodes) -> list[int]:
    """The sites that have nodes, from the lowest up."""
    return sorted(set(nodes.index[:, 0].tolist()), key=lambda site: nodes.sites[site].depth)


def _edges(edges: FeatureEdges, at: Any) -> list[str]:
    """The weakest first."""
    largest, names, lines = edges.scores.abs().max().item() if len(edges) else 1.0, edges.names, []
    for i in torch.argsort(edges.scores.abs(), stable=True).tolist():
        (row, site, _, part), score, name = edges.index[i].tolist(), edges.scores[i].item(), names[i]
        start = tuple(edges.nodes.index[row].tolist())
        ends = [(LOGITS,)] if site == LOGITS else [tuple(edges.nodes.index[j].tolist()) for j in edges.entered(i)]
        for end in ends:
            (x0, y0), (x1, y1), strength = at(start), at(end), abs(score) / largest
            colour = INK if site == LOGITS else PART_COLOURS[part]
            dashes = ' stroke-dasharray="5 4"' if score > 0 else ""
            lines.append(
                f'<path d="M{x0:.1f},{y0 - HEIGHT / 2:.1f} C{x0:.1f},{y0 - ROW * 0.7:.1f} {x1:.1f},{y1 + ROW * 0.7:.1f} {x1:.1f},'
                f'{y1 + HEIGHT / 2:.1f}" fill="none" stroke="{colour}" stroke-width="{0.5 + 4 * strength:.2f}" '
                f'opacity="{0.25 + 0.7 * strength:.2f}"{dashes}><title>{escape(name)}  {score:.4g}</title></path>'
            )
    return lines


def _node(kind: str, name: str, label: str, score: float, x: float | int, y: float | int) -> str:
    colour, rounding = LOOKS[kind]
    dashes = ' stroke-dasharray="3 2"' if kind == "error" else ""
    box = (
        f'<rect x="{x - WIDTH / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="{rounding}" '
        f'fill="{colour}" stroke="{INK}" stroke-width="0.8"{dashes}/>'
    )
    shown = label if len(label) < 17 else label[:15] + "…"
    texts = text_at((x, y - 2 if label else y + 4), name.split("@")[0], size=10, anchor="middle")
    texts += text_at((x, y + 11), shown, FAINT_INK, size=9, anchor="middle") if label else ""
    return (
        f'<g class="{kind}"><title>{escape(printable(f"{kind} {name}  {score:.4g}  {label}"))}</title>{box}{texts}</g>'
    )
