"""A picture as SVG, written without any program: what is drawn when Graphviz is not there.

Rows, curves, colours and legend are those of `edge_circuits.graphs.drawing.grid_layout` and `edge_circuits.graphs.drawing.picture`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from html import escape

from edge_circuits.graphs.drawing.elements import document, text_at
from edge_circuits.graphs.drawing.grid_layout import LINE, NODE_SIZE, PART_OFFSET, Curve, Point, row_layout
from edge_circuits.graphs.drawing.looks import EDGE_COLOURS, FAINT_INK, INK, NODE_COLOURS
from edge_circuits.graphs.drawing.picture import DrawnEdge, DrawnNode, Picture

_MARGIN = 20
_TITLE_HEIGHT = 30
_LINE = 22
_SYMBOL = 34
_LETTER = 6.4  # mean width of a letter at 12 points
_TITLE_LETTER = 8.2  # the same at 15
_ROUNDING = {"input": 13, "head": 3, "mlp": 9, "logits": 13}


def layered_svg(picture: Picture) -> str:
    """The text of an SVG file that shows a picture; the same picture gives the same text."""
    layout = row_layout(picture)
    legend, n_lines = _legend(picture, layout.width)
    width = layout.width + 2 * _MARGIN
    title = picture.title_lines(int(layout.width / _TITLE_LETTER))
    bottom = _MARGIN + _TITLE_HEIGHT + _LINE * max(0, len(title) - 1) + layout.height
    height = bottom + n_lines * _LINE + 2 * _MARGIN

    def placed(point: Point) -> Point:
        return Point(point.x + _MARGIN, bottom - point.y)

    lines = [text_at(Point(_MARGIN, _MARGIN + 12 + _LINE * place), text, size=15) for place, text in enumerate(title)]
    for row, point in layout.labels.items():
        lines.append(text_at(placed(Point(point.x, point.y - 4)), picture.rows[row], FAINT_INK))
    lines += [
        f'<path d="M{x + _MARGIN:.1f},{bottom - layout.height:.1f} V{bottom:.1f}" stroke="#dddddd"/>'
        for x in layout.bounds
    ]
    for column, point in zip(picture.columns, layout.headings):
        for number, text in enumerate((column.name, *column.lines)):
            place = placed(Point(point.x, point.y - LINE * number))
            lines.append(text_at(place, text, FAINT_INK if number else INK, anchor="middle"))
    for edge, curve in zip(picture.edges, layout.curves):
        lines.append(_edge(edge, Curve(*map(placed, curve))))
    lines += [_node(node, placed(layout.centres[node.name])) for node in picture.nodes]
    lines.append(f'<g transform="translate({_MARGIN} {bottom + _MARGIN + _LINE / 2:.0f})">\n{legend}\n</g>')
    return document(width, height, 12, lines, unit="pt")


def _edge(edge: DrawnEdge, curve: Curve) -> str:
    """The line, its arrow, and name and score for a pointer that rests on it."""
    start, first, second, end, tip = (f"{point.x:.1f},{point.y:.1f}" for point in curve)
    half = 1.8 + 0.8 * edge.width
    dashes = f' stroke-dasharray="{4 + edge.width:.1f} {3 + edge.width:.1f}"' if edge.effect == "hurts" else ""
    return (
        f'<g stroke="{edge.colour}" fill="{edge.colour}" opacity="{edge.opacity:.2f}">'
        f"<title>{escape(edge.tooltip)}</title>"
        f'<path d="M{start} C{first} {second} {end}" fill="none" stroke-width="{edge.width:.2f}"{dashes}/>'
        f'<path d="M{curve.end.x - half:.1f},{curve.end.y:.1f} h{2 * half:.1f} L{tip} z" stroke="none"/></g>'
    )


def _node(node: DrawnNode, centre: Point) -> str:
    """A box with its name; a head also has the letters with which the drawn edges are read, above their arrows."""
    role = "" if node.role is None else f"<title>{escape(f'{node.name}  {node.role}')}</title>"
    lines = [_box(node.kind, node.colour, centre)]
    has_letters = node.kind == "head" and node.parts
    lines.append(text_at(Point(centre.x, centre.y + (-2 if has_letters else 4)), node.label, anchor="middle"))
    for part in sorted(node.parts) if has_letters else ():
        place = Point(centre.x + PART_OFFSET[part], centre.y + 13)
        lines.append(text_at(place, part, EDGE_COLOURS[part], size=10, anchor="middle"))
    return f"<g>{role}{''.join(lines)}</g>"


def _box(kind: str, colour: str, centre: Point, scale: float = 1) -> str:
    width, height = (scale * side for side in NODE_SIZE[kind])
    return (
        f'<rect x="{centre.x - width / 2:.1f}" y="{centre.y - height / 2:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" rx="{scale * _ROUNDING[kind]:.1f}" fill="{colour}" stroke="{INK}" stroke-width="0.8"/>'
    )


def _legend(picture: Picture, width: float) -> tuple[str, int]:
    """The legend, as wide as the picture, and its number of lines. Its first line has its middle at height 0."""
    lines, x, n_lines = [], 0.0, 0
    for symbol, text in _entries(picture):
        entry_width = _SYMBOL + _LETTER * len(text) + 14
        if x and x + entry_width > width:
            x, n_lines = 0.0, n_lines + 1
        place, label = f"translate({x:.0f} {n_lines * _LINE})", text_at(Point(_SYMBOL, 4), text)
        lines.append(f'<g transform="{place}">{symbol}{label}</g>')
        x += entry_width
    notes = textwrap.wrap("; ".join(picture.notes), max(20, int(width / _LETTER)))
    lines += [text_at(Point(0, (n_lines + place) * _LINE + 4), text) for place, text in enumerate(notes, start=1)]
    return "\n".join(lines), n_lines + 1 + len(notes)


def _entries(picture: Picture) -> Iterator[tuple[str, str]]:
    """Symbol and text of the legend's entries."""
    for line in picture.lines:
        yield _sample(line.colour, ' stroke-dasharray="6 4"' if line.is_dashed else ""), line.text
    middle = Point(_SYMBOL / 2 - 4, 0)
    kinds = {node.kind for node in picture.nodes}
    for kind, label in (("head", "head"), ("mlp", "MLP")):
        if kind in kinds:
            yield _box(kind, NODE_COLOURS[kind], middle, 0.5), label
    for role, colour in picture.roles.items():
        yield _box("head", colour, middle, 0.5), role


def _sample(colour: str, style: str = "") -> str:
    return f'<path d="M0,0 h{_SYMBOL - 8}" stroke="{colour}" stroke-width="2.5"{style}/>'
