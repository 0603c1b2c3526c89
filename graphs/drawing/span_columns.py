"""What a drawing of a circuit by span shows: each node at each span where it works, in columns of spans.

An edge at a span is drawn within the column of that span, from the source there to the destination there. A head reads <k> and <v> in
one column and is read in others; what it carries from one to the other is a grey arc under its row. With an example, columns stand
in the order of its tokens, which are written below, and no arc goes back.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace

from edge_circuits.graphs.by_span import SpanCircuit
from edge_circuits.graphs.drawing.diagram import arranged, edges_at, title_of
from edge_circuits.graphs.drawing.looks import printable
from edge_circuits.graphs.drawing.picture import AT, Column, DrawnEdge, DrawnNode, Picture
from edge_circuits.graphs.prompts.spans import REST

_LETTERS = 26  # of a line below a column
_LINES = 4


def picture_by_span(circuit: SpanCircuit, roles: Mapping[str, str] | None = None, title: str | None = None) -> Picture:
    """What to draw of a circuit by span, its dead ends left out.

    Args:
        circuit: Its edges at spans, with its scores and example if it has them.
        roles: Role of a node by its name, at all spans.
        title: By default model and method from the metadata.

    Raises:
        ValueError: A role is given to a node that the graph has not, or a score that is drawn is NaN or infinite.
    """
    live = circuit.live()
    order = _order(circuit)
    edges = edges_at(live.graph, live.mask, live.scores, live.metadata, [f"{AT}{span}" for span in live.spans])
    anywhere = arranged(circuit.graph, tuple(map(_without_span, edges)), roles, "", ())
    moves = _moves(live, {edge.end for edge in edges}, {edge.start for edge in edges})
    nodes = _nodes(anywhere.nodes, edges, [circuit.spans[number] for number in order])
    notes = [f"{live.n_edges} edges at spans"]
    if dead_ends := circuit.n_edges - live.n_edges:
        notes[0] += f" ({dead_ends} in dead ends left out)"
    if scored := [abs(edge.score) for edge in edges if edge.score is not None]:
        notes.append(f"width: |score|, the widest is {max(scored):.3g}")
    columns = tuple(_column(circuit, number) for number in order)
    title = printable(title_of(circuit) if title is None else title)
    ordered = (*moves, *sorted(edges, key=lambda edge: edge.strength))
    return Picture(title, nodes, ordered, anywhere.rows, anywhere.roles, tuple(notes), columns)


def _without_span(edge: DrawnEdge) -> DrawnEdge:
    return replace(edge, start=edge.start.partition(AT)[0], end=edge.end.partition(AT)[0])


def _moves(live: SpanCircuit, ends: set[str], starts: set[str]) -> list[DrawnEdge]:
    """What heads carry from spans at which they read keys and values to others at which they are read."""
    graph, moves = live.graph, []
    for source in range(1, graph.n_sources):
        head, own = graph.sources[source], graph.destinations_of(source)
        read = [span for number, span in enumerate(live.spans) if live.mask[:, own[1:], number].any()]
        for start in read if len(own) > 1 else ():
            for end in live.spans:
                here, there = f"{head}{AT}{start}", f"{head}{AT}{end}"
                if start != end and here in ends and there in starts and _may_follow(live, start, end):
                    moves.append(DrawnEdge(f"{head} {start} -> {end}", here, there, "v", None, 0.2, 0.7, moves=True))
    return moves


def _may_follow(circuit: SpanCircuit, start: str, end: str) -> bool:
    """Whether a token of one span stands before one of another in the example; True without an example."""
    at = {name: [place for place, (_, span) in enumerate(circuit.example) if span == name] for name in (start, end)}
    return not circuit.example or bool(at[start] and at[end] and at[start][0] < at[end][-1])


def _nodes(known: tuple[DrawnNode, ...], edges: list[DrawnEdge], spans: list[str]) -> tuple[DrawnNode, ...]:
    """Each node at each span where an edge leaves or enters it."""
    parts: dict[str, set] = {}
    for edge in edges:
        parts.setdefault(edge.start, set())
        parts.setdefault(edge.end, set()).add(edge.part)
    return tuple(
        replace(node, name=place, column=column, parts=frozenset(parts[place]))
        for node in known
        for column, span in enumerate(spans)
        if (place := f"{node.name}{AT}{span}") in parts
    )


def _order(circuit: SpanCircuit) -> list[int]:
    """The numbers of the spans as they are drawn, in the example's order; unnamed tokens only where they have edges."""
    used = circuit.mask.flatten(0, 1).any(0).tolist()
    first = {span: place for place, (_, span) in reversed(list(enumerate(circuit.example)))}
    shown = [number for number, span in enumerate(circuit.spans) if used[number] or (span in first and span != REST)]
    return sorted(shown or [0], key=lambda number: first.get(circuit.spans[number], len(first) + number))


def _column(circuit: SpanCircuit, number: int) -> Column:
    """A span's name, and its tokens in the example."""
    name, pieces, last = circuit.spans[number], "", None
    has_spaces = any(token[:1].isspace() for token, _ in circuit.example)  # as byte-pair tokens have
    for place, (token, span) in enumerate(circuit.example):
        if span == name:
            pieces += ("" if last in (None, place - 1) else " … ") + token + (" " if not has_spaces else "")
            last = place
    lines = textwrap.wrap(printable(pieces), _LETTERS)
    return Column(printable(name), tuple(lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "…"]))
