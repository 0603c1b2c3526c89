"""Names of nodes and edges, and how to read and write them.

A source writes to the residual stream, a destination reads it:

    sources        input   a{layer}.h{head}          m{layer}
    destinations           a{layer}.h{head}<q|k|v>   m{layer}   logits
    edges          source->destination, e.g. a0.h1->a2.h3<q>, m0->logits

Here a name is only read: whether a model has such a node is for `graphs.graph.Graph` to say.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["input", "head", "mlp", "logits"]
Part = Literal["q", "k", "v"]

PARTS: tuple[Part, ...] = ("q", "k", "v")
ARROW = "->"
SOURCE_FORMS = "'input', 'a{layer}.h{head}' or 'm{layer}'"
DESTINATION_FORMS = "'a{layer}.h{head}<q|k|v>', 'm{layer}' or 'logits'"

_NUMBER = "(0|[1-9][0-9]*)"
_HEAD = re.compile(rf"a{_NUMBER}\.h{_NUMBER}(?:<([qkv])>)?")
_MLP = re.compile(rf"m{_NUMBER}")


class Node(NamedTuple):
    """A source or a destination, read from its name.

    Attributes:
        kind: What it is.
        layer: Layer from 0; None for `input` and `logits`.
        head: Head from 0; None unless `kind` is "head". On a `<k>` or `<v>` destination it is the key-value head where
            the graph has these.
        part: What a head reads with it; None on a source and on all but heads.
    """

    kind: Kind
    layer: int | None = None
    head: int | None = None
    part: Part | None = None

    def __str__(self) -> str:
        """The name, e.g. `a2.h3<q>`; parsing it gives this node again."""
        if self.kind == "head":
            return f"a{self.layer}.h{self.head}" + (f"<{self.part}>" if self.part else "")
        return f"m{self.layer}" if self.kind == "mlp" else self.kind


class Edge(NamedTuple):
    """A source and the destination that reads it."""

    source: Node
    destination: Node

    def __str__(self) -> str:
        """The name, e.g. `a0.h1->a2.h3<q>`; parsing it gives this edge again."""
        return f"{self.source}{ARROW}{self.destination}"


def parse_source(name: str) -> Node:
    """Read the name of a source.

    Args:
        name: `input`, `a{layer}.h{head}` or `m{layer}`, without spaces or leading zeros.

    Raises:
        ValueError: It is not a source's name; the message says why.
    """
    node = _parse(name)
    if node is None:
        raise ValueError(f"unknown source {name!r}: expected {SOURCE_FORMS}")
    if node.kind == "logits":
        raise ValueError("unknown source 'logits': logits only read the residual stream, they are a destination")
    if node.part is not None:
        raise ValueError(
            f"unknown source {name!r}: a head writes once, so as a source it has no <q|k|v>; "
            f"expected '{node._replace(part=None)}'"
        )
    return node


def parse_destination(name: str) -> Node:
    """Read the name of a destination.

    Args:
        name: `a{layer}.h{head}<q|k|v>`, `m{layer}` or `logits`, without spaces or leading zeros.

    Raises:
        ValueError: It is not a destination's name; the message says why.
    """
    node = _parse(name)
    if node is None:
        raise ValueError(f"unknown destination {name!r}: expected {DESTINATION_FORMS}")
    if node.kind == "input":
        raise ValueError("unknown destination 'input': input only writes to the residual stream, it is a source")
    if node.kind == "head" and node.part is None:
        choices = ", ".join(f"'{node._replace(part=part)}'" for part in PARTS)
        raise ValueError(f"unknown destination {name!r}: a head reads with <q>, <k> and <v>; expected one of {choices}")
    return node


def split_edge(name: str) -> tuple[str, str]:
    """Split `source->destination` into its two names, which are not looked at further.

    Raises:
        ValueError: There is not exactly one arrow.
    """
    ends = name.split(ARROW) if isinstance(name, str) else []
    if len(ends) != 2:
        raise ValueError(f"unknown edge {name!r}: expected 'source{ARROW}destination', e.g. 'a0.h1{ARROW}a2.h3<q>'")
    return ends[0], ends[1]


def parse_edge(name: str) -> Edge:
    """Read the name of an edge; whether its source is computed early enough is not looked at.

    Args:
        name: `source->destination`, without spaces.

    Raises:
        ValueError: It is not an edge's name; the message says which end is wrong and why.
    """
    source, destination = split_edge(name)
    try:
        return Edge(parse_source(source), parse_destination(destination))
    except ValueError as error:
        raise ValueError(f"unknown edge {name!r}: {error}") from None


def _parse(name: str) -> Node | None:
    """The node with this name, source or destination; None if no node is named so."""
    if not isinstance(name, str):
        return None
    if name == "input" or name == "logits":
        return Node(name)
    if match := _MLP.fullmatch(name):
        return Node("mlp", int(match[1]))
    if match := _HEAD.fullmatch(name):
        return Node("head", int(match[1]), int(match[2]), match[3])
    return None
