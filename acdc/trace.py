"""What a sweep decided, edge by edge.

A trace holds every decision in the order in which it was made, and what is needed to judge or continue it. As a file it
is JSON lines: a header, then one line a decision, `[edge, value before, value after, kept]`. Files appear whole or not
at all, and a torn one is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from jaxtyping import Bool
from torch import Tensor

from edge_circuits.graphs import Circuit, Graph
from edge_circuits.graphs.checks import choice, flag, number, refusal, whole_number
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.documents import check_seal, parsed, reading, sealed, warn_without_digest
from edge_circuits.graphs.files.json_format import check_size
from edge_circuits.graphs.nodes import ARROW

FORMAT = "edge-circuits-trace"
VERSION = 2  # version 1 had no digest
SAFETY = 16.0  # near ties lie within this many times the noise of the threshold

Change = Literal["signed", "absolute"]


class Decision(NamedTuple):
    """What became of an edge.

    Attributes:
        edge: Its name; of a direct edge, which is all in-edges of a destination together, the destination's.
        value_before: The objective when it was tried; lower is better.
        value_after: The objective with the edge cut; None where it was cut untried, since nothing that its destination
            computes reached `logits` any more.
        kept: It stays; otherwise it is cut for good.
        near_tie: The change is so near the threshold that rounding may have decided.
    """

    edge: str
    value_before: float
    value_after: float | None
    kept: bool
    near_tie: bool


def is_kept(value_before: float, value_after: float, threshold: float, change: Change) -> bool:
    """Whether an edge stays: cutting it does not change the objective by less than the threshold."""
    return not _moved(value_before, value_after, change) < threshold


def is_near_tie(before: float, after: float | None, threshold: float, change: Change, noise: float) -> bool:
    """Whether a decision was so near the threshold that rounding may have made it."""
    return after is not None and abs(_moved(before, after, change) - threshold) <= SAFETY * noise


def _moved(before: float, after: float, change: Change) -> float:
    return abs(after - before) if change == "absolute" else after - before


@dataclass(frozen=True)
class Trace:
    """All decisions of a sweep with one threshold.

    Attributes:
        start: The circuit at the start; each of its edges is decided once.
        threshold: An edge is cut when the objective changes by less.
        change: "signed": rises by less; "absolute": moves by less either way.
        start_value: The objective of `start`.
        edges: Names, in the order tried.
        values: The objective with the edge cut; None where it was not tried.
        kept: Whether it stays.
        noise: The largest difference seen between two computations of the same circuit's objective.
        complete: Every edge is decided.
        settings: What else the sweep was made with.
    """

    start: Circuit
    threshold: float
    change: Change
    start_value: float
    edges: tuple[str, ...]
    values: tuple[float | None, ...]
    kept: tuple[bool, ...]
    noise: float
    complete: bool
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The topology."""
        return self.start.graph

    @cached_property
    def values_before(self) -> tuple[float, ...]:
        """The objective at each decision."""
        before, value = [], self.start_value
        for after, stays in zip(self.values, self.kept):
            before.append(value)
            value = value if stays or after is None else after
        return tuple(before)

    @property
    def value(self) -> float:
        """The objective after the last decision."""
        tried = [after for after, stays in zip(self.values, self.kept) if after is not None and not stays]
        return tried[-1] if tried else self.start_value

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """All decisions, in the order in which they were made."""
        columns, rule = zip(self.edges, self.values_before, self.values, self.kept), (self.threshold, self.change)
        return tuple(Decision(*column, is_near_tie(*column[1:3], *rule, self.noise)) for column in columns)

    @property
    def near_ties(self) -> tuple[Decision, ...]:
        """Decisions that rounding may have made: with other sums of the same numbers they might be otherwise."""
        return tuple(decision for decision in self.decisions if decision.near_tie)

    @property
    def n_tried(self) -> int:
        """How many edges were tried; the others were cut with their destination."""
        return sum(after is not None for after in self.values)

    @property
    def n_kept(self) -> int:
        """How many edges stay, of those decided; direct edges are not counted."""
        return sum(stays for edge, stays in zip(self.edges, self.kept) if ARROW in edge)

    @cached_property
    def circuit(self) -> TracedCircuit:
        """The edges that stay, those not yet decided among them."""
        gone = _mask_of(self.graph, [edge for edge, stays in zip(self.edges, self.kept) if not stays])
        metadata = {"method": "acdc", **self.settings, "threshold": _number(self.threshold), "change": self.change}
        metadata |= {"n_tried": self.n_tried, "n_near_ties": len(self.near_ties), "objective": self.value}
        return TracedCircuit(self.graph, self.start.mask & ~gone, self.start.scores, metadata, trace=self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file, whole or not at all.

        Raises:
            ValueError: The folder does not exist, or the settings do not fit JSON.
        """
        is_full = self.start == Circuit.full(self.graph)
        header = {"format": FORMAT, "version": VERSION, "graph": asdict(self.graph), "complete": self.complete}
        header |= {"threshold": _number(self.threshold), "change": self.change, "start_value": self.start_value}
        header |= {"noise": self.noise, "settings": dict(self.settings), "n_decisions": len(self.edges)}
        header |= {"start": None if is_full else list(self.start.edges)}
        rows = [list(row) for row in zip(self.edges, self.values_before, self.values, self.kept)]
        header["digest"] = sealed({**header, "rows": rows})["digest"]
        lines = [json.dumps(line, allow_nan=False) for line in (header, *rows)]
        write_whole(path, ("\n".join(lines) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """Read what `save` wrote.

        Raises:
            ValueError: The file is torn, foreign, changed or newer; the message names it and says what to do.
            FileNotFoundError: There is no such file.
        """
        content = Path(path).read_bytes()
        with reading(path, "delete it to begin anew"):
            return _parsed(cls, content)


@dataclass(frozen=True, eq=False, repr=False)
class TracedCircuit(Circuit):
    """A circuit that carries the decisions by which it was found. Its set algebra and `live()` give plain circuits.

    Attributes:
        trace: The decisions.
    """

    trace: Trace | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the circuit to a JSON file, without the trace, which is saved by `trace.save`."""
        Circuit(self.graph, self.mask, self.scores, self.metadata, self.n_requested).save(path)


def _mask_of(graph: Graph, names: Sequence[str]) -> Bool[Tensor, "source destination"]:
    """The edges named, a direct one as all in-edges of its destination."""
    mask = graph.mask_of(name for name in names if ARROW in name)
    for name in names:
        if ARROW not in name:
            mask[:, graph.destination_index(name)] = True
    return mask & graph.edge_mask


def agreed(trace: Trace, threshold: float) -> int:
    """How many decisions of a trace hold for another threshold too, before the first that does not."""
    rows = zip(trace.values_before, trace.values, trace.kept)
    for place, (before, after, stays) in enumerate(rows):
        if after is not None and is_kept(before, after, threshold, trace.change) != stays:
            return place
    return len(trace.edges)


def _number(threshold: float) -> float | str:
    return threshold if threshold < float("inf") else "inf"


def _parsed(cls: type[Trace], content: bytes) -> Trace:
    header, rows = _header_and_rows(content)
    graph = Graph(**header["graph"])
    check_size(graph)
    start = Circuit.full(graph) if header["start"] is None else Circuit.from_edges(graph, header["start"])
    edges, before, values, kept = zip(*rows) if rows else ((),) * 4
    _check_edges(start, edges, flag('"complete"', header["complete"]))
    for value in (*before, *(value for value in values if value is not None)):
        number("value", value)
    for stays in kept:
        flag("kept", stays)
    trace = cls(
        start,
        float(header["threshold"])
        if header["threshold"] == "inf"
        else number('"threshold"', header["threshold"], least=0),
        choice('"change"', header["change"], get_args(Change)),
        start_value=number('"start_value"', header["start_value"]),
        edges=edges,
        values=values,
        kept=kept,
        noise=number('"noise"', header["noise"], least=0),
        complete=header["complete"],
        settings=dict(header["settings"]),
    )
    if trace.values_before != before:
        raise ValueError("expected values that follow from one another, got others")
    return trace


def _header_and_rows(content: bytes) -> tuple[dict[str, Any], list[Any]]:
    """The lines of a file, known to be a whole trace, as it was written and of a version that is read here."""
    header, *rows = [parsed(line) for line in content.decode("utf-8").splitlines()] or [None]
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("expected a trace, got another file")
    if whole_number('"version"', header["version"], 1) > VERSION:
        raise refusal('"version"', f"at most {VERSION}", header["version"], "the file is newer: update edge-circuits")
    if len(rows) != header["n_decisions"] or not content.endswith(b"\n"):
        raise ValueError(f"expected {header['n_decisions']} decisions, got a torn file of {len(rows)}")
    if header["version"] == 1:
        warn_without_digest()
    else:
        check_seal({**header, "rows": rows})
    return header, rows


def _check_edges(start: Circuit, edges: Sequence[str], complete: bool) -> None:
    """Every decision is about another edge of the start circuit; a complete trace decides them all."""
    decided = Circuit.from_edges(start.graph, [edge for edge in edges if ARROW in edge])
    _mask_of(start.graph, edges)
    if len(set(edges)) < len(edges) or (decided - start).n_edges:
        raise ValueError(
            "expected one decision for each edge at the start, got an edge twice, or one that was not there"
        )
    if complete and decided != start:
        raise ValueError("expected a decision for every edge, as the file calls itself complete, got fewer")
