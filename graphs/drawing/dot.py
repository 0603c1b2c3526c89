"""A picture as text in Graphviz's DOT language, for two of its programs.

- `dot` places nodes and routes edges itself, one row above another; best up to some 200 edges.
- `neato -n2` draws what has its place already: that of `edge_circuits.graphs.drawing.grid_layout`, for any number of edges.

A head is a box with a port for each of q, k and v, so that several edges between two nodes end at different places.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Literal

from edge_circuits.graphs.drawing.grid_layout import LINE, NODE_SIZE, Curve, row_layout
from edge_circuits.graphs.drawing.looks import EDGE_COLOURS, FAINT_INK, INK, NODE_COLOURS
from edge_circuits.graphs.drawing.picture import DrawnEdge, DrawnNode, Picture

Layout = Literal["dot", "rows"]

_POINTS_PER_INCH = 72
_LEGEND_WIDTH = 100  # in letters
_FONT = "Helvetica,Arial,sans-serif"


def dot_text(picture: Picture, layout: Layout) -> str:
    """The DOT text of a picture; the same picture gives the same text.

    Args:
        picture: What to draw.
        layout: "dot": for the program `dot`; "rows": with places in it, for `neato -n2`.
    """
    body = _placed_by_dot(picture) if layout == "dot" else _placed_in_rows(picture)
    program = "dot" if layout == "dot" else "neato -n2"
    head = [
        f"// draw with: {program} -Tsvg -O FILE",
        "digraph circuit {",
        f'  graph [bgcolor=white, fontname="{_FONT}", outputorder=edgesfirst, pad=0.2]',
        f"  graph [labelloc=b, labeljust=l, label={_legend(picture)}]",
        f'  node [fontname="{_FONT}", fontsize=12, color="{INK}", fontcolor="{INK}"]',
        "  edge [arrowsize=0.6]",
    ]
    return "\n".join([*head, *(f"  {line}" for line in body), "}", ""])


# Two layouts


def _placed_by_dot(picture: Picture) -> Iterator[str]:
    """Statements for `dot`: each row has one rank, led by its label."""
    yield "rankdir=BT ranksep=0.55 nodesep=0.2 splines=true"
    rows = sorted(picture.rows)
    for row in rows:
        yield f'"row {row}" [shape=plaintext, fontcolor="{FAINT_INK}", label="{picture.rows[row]}"]'
    yield " -> ".join(f'"row {row}"' for row in rows) + " [style=invis]"
    for row in rows:
        names = "; ".join(f'"{node.name}"' for node in picture.nodes if node.row == row)
        yield f'{{rank=same; "row {row}"; {names}}}'
    yield from (_node(node) for node in picture.nodes)
    is_head = {node.name: node.kind == "head" for node in picture.nodes}
    for edge in picture.edges:
        yield _edge(edge, f':"{edge.part}":s' if is_head[edge.end] else "")


def _placed_in_rows(picture: Picture) -> Iterator[str]:
    """Statements for `neato -n2`: every node and edge has its place."""
    layout = row_layout(picture)
    yield "layout=neato"
    for row, point in layout.labels.items():
        place = f'pos="{point.x + 50:.1f},{point.y:.1f}!"'
        yield f'"row {row}" [shape=plaintext, fontcolor="{FAINT_INK}", label="{picture.rows[row]}", {place}]'
    for number, (column, point) in enumerate(zip(picture.columns, layout.headings)):
        text = "\\n".join(_quoted(each) for each in (column.name, *column.lines))
        place = f'pos="{point.x:.1f},{point.y - LINE * len(column.lines) / 2:.1f}!"'
        yield f'"column {number}" [shape=plaintext, label="{text}", {place}]'
    for node in picture.nodes:
        centre = layout.centres[node.name]
        yield _node(node, f', pos="{centre.x:.1f},{centre.y:.1f}!"')
    for edge, curve in zip(picture.edges, layout.curves):
        yield _edge(edge, "", f', pos="{_spline(curve)}"')


def _spline(curve: Curve) -> str:
    start, first, second, end, tip = (f"{point.x:.1f},{point.y:.1f}" for point in curve)
    return f"e,{tip} {start} {first} {second} {end}"


# Statements


def _node(node: DrawnNode, place: str = "") -> str:
    """A node; a head is a table of its name and, below, a port each for q, k and v."""
    width, height = NODE_SIZE[node.kind]
    size = f"fixedsize=true, width={width / _POINTS_PER_INCH:.3f}, height={height / _POINTS_PER_INCH:.3f}"
    tip = f', tooltip="{_quoted(node.name if node.role is None else f"{node.name}  {node.role}")}"'
    if node.kind != "head":
        look = f'shape=box, style="rounded,filled", fillcolor="{node.colour}"'
        return f'"{node.name}" [label="{node.label}", {look}, {size}{tip}{place}]'
    ports = "".join(
        f'<td port="{part}" width="{(width - 2) // 3}" height="13"><font point-size="10" color="{EDGE_COLOURS[part]}">'
        f"{part if part in node.parts else ' '}</font></td>"
        for part in ("q", "k", "v")
    )
    table = (
        f'<table border="1" cellborder="0" cellspacing="0" cellpadding="0" style="rounded" color="{INK}" '
        f'bgcolor="{node.colour}" fixedsize="true" width="{width}" height="{height}">'
        f'<tr><td colspan="3" height="{height - 15}">{node.label}</td></tr><tr>{ports}</tr></table>'
    )
    return f'"{node.name}" [shape=none, margin=0, {size}, label=<{table}>{tip}{place}]'


def _edge(edge: DrawnEdge, port: str, place: str = "") -> str:
    colour = f"{edge.colour}{round(255 * edge.opacity):02x}"
    weight = 1 + round(4 * edge.strength)  # a stronger edge is drawn shorter and straighter
    style = "dashed" if edge.effect == "hurts" else "solid"
    look = f'color="{colour}", penwidth={edge.width:.2f}, style={style}, weight={weight}, tooltip="{_quoted(edge.tooltip)}"'
    return f'"{edge.start}" -> "{edge.end}"{port} [{look}{place}]'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


# Legend


def _legend(picture: Picture) -> str:
    """Title and legend as one table, below the drawing."""
    entries = [(_line(line.colour, 3 if line.is_dashed else 1), line.text) for line in picture.lines]
    kinds = {node.kind for node in picture.nodes}
    entries += [
        (_swatch(NODE_COLOURS[kind]), label) for kind, label in (("head", "head"), ("mlp", "MLP")) if kind in kinds
    ]
    entries += [(_swatch(colour), role) for role, colour in picture.roles.items()]
    n_columns = max(1, min(5, _LEGEND_WIDTH // (max((len(label) for _, label in entries), default=0) + 6)))
    cells = [f'<td>{symbol}</td><td align="left">&#160;{escape(label)}&#160;&#160;</td>' for symbol, label in entries]
    rows = ["".join(cells[start : start + n_columns]) for start in range(0, len(cells), n_columns)]
    words = [f'<td colspan="{2 * n_columns}" align="left">{escape(text)}</td>' for text in picture.notes]
    if picture.title:
        title = "<br/>".join(map(escape, picture.title_lines(_LEGEND_WIDTH)))
        rows.insert(0, f'<td colspan="{2 * n_columns}" align="left" balign="left"><b>{title}</b></td>')
    return f"<{_table(''.join(f'<tr>{row}</tr>' for row in (*rows, *words)), 4)}>"


def _table(rows: str, spacing: int = 0) -> str:
    return f'<table border="0" cellborder="0" cellspacing="{spacing}" cellpadding="0">{rows}</table>'


def _line(colour: str, n_dashes: int = 1) -> str:
    width = 30 // n_dashes - 3 * (n_dashes > 1)
    dash = f'<td width="{width}" height="3" fixedsize="true" bgcolor="{colour}"></td>'
    return _table(f"<tr>{dash * n_dashes}</tr>", 3 * (n_dashes > 1))


def _swatch(colour: str) -> str:
    return _table(f'<tr><td border="1" width="26" height="14" fixedsize="true" bgcolor="{colour}"></td></tr>')
