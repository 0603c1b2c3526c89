"""Drawing a circuit as svg, png, pdf or gv (the DOT text).

1. `edge_circuits.graphs.drawing.diagram` decides what is shown and how it looks.
2. `edge_circuits.graphs.drawing.dot` writes that as DOT text.
3. Graphviz draws the text: its program `dot` places up to some 200 edges, for more they have the fixed rows of
   `edge_circuits.graphs.drawing.grid_layout`.
4. Where Graphviz's programs are not installed, `edge_circuits.graphs.drawing.svg` draws without them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from edge_circuits.graphs.by_span import SpanCircuit
from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.circuit import Circuit, Comparison
from edge_circuits.graphs.drawing import dot
from edge_circuits.graphs.drawing.comparison import picture_of_two
from edge_circuits.graphs.drawing.diagram import picture_of
from edge_circuits.graphs.drawing.picture import Picture
from edge_circuits.graphs.drawing.span_columns import picture_by_span
from edge_circuits.graphs.drawing.svg import layered_svg
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.scores import ScoredGraph, heat_map

Layout = Literal["auto", "dot", "rows"]
Ending = Literal["svg", "png", "pdf", "gv"]

INSTALL = (
    "install the package 'graphviz' (Debian and Ubuntu: apt-get install graphviz; macOS: brew install graphviz; "
    "conda install -c conda-forge graphviz)"
)
_MOST_FOR_DOT = 1000  # rows crossed by all edges together; drawn in about two seconds
_PNG_DPI = 130


def render(
    circuit: Circuit | SpanCircuit | Comparison | ScoredGraph,
    path: str | os.PathLike[str],
    *,
    roles: Mapping[str, str] | None = None,
    title: str | None = None,
    layout: Layout = "auto",
) -> Path:
    """Draw the live edges of a circuit, of two that are compared, or what scores say of each head.

    Rows go from `input` at the bottom to `logits` at the top. Heads and MLPs differ in colour and shape, edges
    read as q, k, v, by an MLP or by logits by colour; their width and opacity is |score|. A solid
    line helps (cutting the edge lowers the metric), a dashed one hurts. Without scores all edges look alike. svg files show
    names and scores under the pointer. Of two circuits (`circuit.compare(other)`) an edge's colour says which of them has it.
    Scores alone are drawn as a grid of layers and heads, each with the sum of |score| over the edges that leave it. Of a circuit
    by span, nodes stand in columns of spans (`edge_circuits.graphs.drawing.span_columns`).

    Without Graphviz's programs, an svg is drawn by the project itself, with a warning; for png and pdf that svg is
    written beside, and an error says so. In both cases the DOT text is written beside as well.

    Args:
        circuit: The circuit, whose `scores` are shown if it has any, everywhere or by span; a comparison; or scores, drawn as svg alone.
        path: The file; its ending chooses svg, png, pdf or gv (DOT text). An existing file is replaced.
        roles: What a node does, by name: `{"a9.h9": "name mover"}`. Nodes of a role share a colour, which the legend
            names. Nodes that are not drawn may have one.
        title: A line of text; by default model, task and method from the metadata.
        layout: "dot": Graphviz places nodes with few crossings. "rows": heads stand where their number puts them, which
            suits many edges and comparisons. "auto": "dot" while all edges together cross at most 1,000 rows, which is
            about 200 edges of GPT-2 small.

    Returns:
        The file written.

    Raises:
        ValueError: The ending or the layout is another, a role is given to an unknown node, or a live score is not finite.
        RuntimeError: A png or pdf cannot be drawn without Graphviz's programs, or they failed.
    """
    path = Path(path)
    ending = _ending(path)
    if isinstance(circuit, ScoredGraph):
        if ending != "svg":
            raise refusal("path", "an ending .svg for a grid of layers and heads", path)
        return write_whole(path, heat_map(circuit, title).encode())
    picture = _picture(circuit, roles, title)
    chosen = _chosen(layout, picture)
    text = dot.dot_text(picture, chosen)
    if ending == "gv":
        return write_whole(path, text.encode())
    content = _drawn(text, chosen, ending)
    if content is None:
        return _render_without_graphviz(picture, text, path, ending)
    return write_whole(path, content)


def to_dot(
    circuit: Circuit | SpanCircuit | Comparison,
    *,
    roles: Mapping[str, str] | None = None,
    title: str | None = None,
    layout: Layout = "auto",
) -> str:
    """The DOT text that `render` draws; equal circuits with equal scores and metadata give equal text.

    Args and Raises: as for `render`.
    """
    picture = _picture(circuit, roles, title)
    return dot.dot_text(picture, _chosen(layout, picture))


def _picture(
    circuit: Circuit | SpanCircuit | Comparison, roles: Mapping[str, str] | None, title: str | None
) -> Picture:
    if isinstance(circuit, SpanCircuit):
        return picture_by_span(circuit, roles, title)
    if isinstance(circuit, Comparison):
        return picture_of_two(circuit.first, circuit.second, roles, title)
    if not isinstance(circuit, Circuit):
        got = type(circuit).__name__
        raise refusal("circuit", "a Circuit, a comparison or scores", got, "prune makes a circuit of scores")
    return picture_of(circuit, roles, title)


def _ending(path: Path) -> Ending:
    ending = path.suffix.lower().removeprefix(".")
    if ending not in get_args(Ending):
        raise refusal("path", "an ending .svg, .png, .pdf or .gv", path)
    return ending


def _chosen(layout: Layout, picture: Picture) -> dot.Layout:
    """The layout to use; dot's time grows with the rows that edges cross."""
    choice("layout", layout, get_args(Layout))
    if picture.columns and layout == "dot":
        raise refusal("layout", "'rows' for a circuit by span", repr(layout))
    if layout != "auto" or picture.columns:
        return "dot" if layout == "dot" else "rows"
    places = {row: place for place, row in enumerate(sorted(picture.rows))}
    heights = {node.name: places[node.row] for node in picture.nodes}
    n_crossed = sum(heights[edge.end] - heights[edge.start] for edge in picture.edges)
    return "dot" if n_crossed <= _MOST_FOR_DOT else "rows"


def _drawn(text: str, layout: dot.Layout, ending: Ending) -> bytes | None:
    """What Graphviz makes of a DOT text; None if its programs are not installed."""
    import graphviz

    engine, no_op = ("dot", None) if layout == "dot" else ("neato", 2)
    if ending == "png":
        text = text.replace("graph [", f"graph [dpi={_PNG_DPI}, ", 1)
    try:
        return graphviz.Source(text, engine=engine).pipe(format=ending, neato_no_op=no_op, quiet=True)
    except graphviz.ExecutableNotFound:
        return None
    except (graphviz.CalledProcessError, BrokenPipeError) as error:  # the latter: it ended before it read the text
        reason = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        raise RuntimeError(f"Graphviz's {engine} could not draw {ending}: {reason or error}") from error


def _render_without_graphviz(picture: Picture, text: str, path: Path, ending: Ending) -> Path:
    """Write DOT text and an own svg beside each other, and say so: by an error where something else was asked for."""
    dot_path = write_whole(path.with_suffix(".gv"), text.encode())
    svg_path = write_whole(path.with_suffix(".svg"), layered_svg(picture).encode())
    if ending == "svg":
        message = f"Graphviz's program dot was not found, so {svg_path} is drawn without it, DOT text in {dot_path}"
        warnings.warn(f"{message}; for its layout {INSTALL}", stacklevel=3)
        return svg_path
    raise RuntimeError(
        f"cannot write {path}: Graphviz's program dot was not found; {INSTALL}. Written instead: {svg_path}, drawn "
        f"without it, and the DOT text {dot_path}"
    )
