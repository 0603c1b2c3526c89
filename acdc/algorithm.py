"""The ACDC sweep over the edges of a circuit, with one threshold.

1. Destinations are visited in the order of `acdc.order`, from `logits` down.
2. A destination from which no path of kept edges leads to `logits` is skipped: its in-edges are cut untried.
3. Its in-edges are tried several at a time as if the earlier ones of them were cut (`edge_circuits.acdc.speculation`). The decisions up to
   and including the first edge that stays are those of the plain sweep, so they are taken, and the rest is tried again.
4. An edge is cut for good when the objective rises by less than the threshold; the objective then has its new value.

What is tried costs only what follows from the destination (`edge_circuits.graphs.running.incremental`). Runs are made afresh at fixed places in the
order; a checkpoint is written there, so a sweep that continues from one computes the same numbers.

Reference: Conmy et al. 2023, Towards Automated Circuit Discovery, Algorithm 1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import torch
from tqdm import tqdm

from edge_circuits.acdc.order import DIRECT
from edge_circuits.acdc.search import ALL_CUT, Search
from edge_circuits.acdc.speculation import stack_size
from edge_circuits.acdc.trace import SAFETY, Trace, agreed, is_kept
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.running.cached_run import CachedRun
from edge_circuits.graphs.running.dependents import bit_columns, leading_to_logits, leads_on, reached_from_input
from edge_circuits.graphs.running.incremental import move_on
from edge_circuits.graphs.running.patching import equals_a_run

FRESH_AFTER = 512  # edges tried between fresh runs


@torch.no_grad()
def sweep_edges(
    search: Search,
    threshold: float,
    *,
    known: Sequence[Trace] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Trace:
    """Sweep over the edges with one threshold.

    Args:
        search: Model, prompts, objective and order.
        threshold: Tau.
        known: Traces of this search with other thresholds; decisions that they share are taken from them.
        checkpoint: A folder to write the trace to as it grows, and to resume from if it is there.
        quiet: No progress bar.

    Raises:
        ValueError: A checkpoint of another search, or an objective that is not finite.
    """
    sweep = EdgeSweep(search, float(threshold))
    is_first = search.processes.is_first
    path = search.processes.read_by_first(
        lambda: None if checkpoint is None else trace_path(checkpoint, sweep.threshold)
    )
    begun = search.processes.read_by_first(lambda: Trace.load(path) if path is not None and path.exists() else None)
    if begun is not None:
        sweep.take(_own(begun, sweep, checkpoint))
    elif known:
        sweep.take_agreed(max(known, key=lambda trace: agreed(trace, threshold)))
    shown = {"total": len(search.order), "initial": len(sweep.kept), "desc": f"acdc {threshold:g}", "unit": "edge"}
    with tqdm(**shown, disable=quiet or not is_first) as bar:
        while not sweep.complete:
            sweep.advance(bar)
            if path is not None and is_first:
                sweep.trace.save(path)
    return sweep.trace


def trace_path(folder: str | os.PathLike[str], threshold: float) -> Path:
    """Where the trace of a threshold is kept; the folder is made if it is not there.

    Raises:
        ValueError: It is a file.
    """
    path = Path(folder) / f"threshold-{threshold!r}.jsonl"
    if path.parent.is_file():
        remedy = f"give a folder; to continue from a trace in that file, move it to FOLDER/{path.name}"
        raise refusal("checkpoint", "a folder", f"the file {folder}", remedy)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _own(begun: Trace, sweep: EdgeSweep, folder: str | os.PathLike[str]) -> Trace:
    """A trace that was read from a folder, if it is of this search and threshold, and says what this search finds."""
    nothing = sweep.trace
    mine, its = (
        {"start": trace.start, "threshold": trace.threshold, "change": trace.change, **trace.settings}
        for trace in (nothing, begun)
    )
    for name, value in mine.items():
        if name != ALL_CUT and its.get(name) != value:
            expected = f"a trace of this sweep, whose {name} is {value}"
            remedy = "give another folder, or delete the trace to begin anew"
            raise refusal("checkpoint", expected, f"one in {folder} whose {name} is {its.get(name)}", remedy)
    remedy = "delete the trace to begin anew"
    eps = 100 * torch.finfo(sweep.search.transformer.dtype).eps
    now, then = ((trace.start_value, trace.settings.get(ALL_CUT)) for trace in (nothing, begun))
    for name, value, held in zip(("start value", "value with all edges cut"), now, then):
        most = SAFETY * max(begun.noise, nothing.noise, eps * abs(value or 0.0))
        if value != held and (None in (value, held) or not abs(held - value) <= most):
            raise refusal("checkpoint", f"{name} {value}", f"one in {folder} with {held}", remedy)
    for edge, before, after, kept, _ in begun.decisions:
        if kept != (after is not None and is_kept(before, after, begun.threshold, begun.change)):
            decided = f"{edge} {'kept' if kept else 'cut'} in {folder}, from {before} to {after}"
            raise refusal("checkpoint", f"decisions by threshold {begun.threshold}", decided, remedy)
    return begun


class EdgeSweep:
    """A sweep on its way: the decisions so far, and the runs of the circuit that they leave."""

    def __init__(self, search: Search, threshold: float) -> None:
        self.search, self.threshold = search, threshold
        self.mask, self.value = search.start.mask.clone(), search.start_value
        self.columns = bit_columns(self.mask)
        self.values: list[float | None] = []
        self.kept: list[bool] = []
        self.noise = torch.finfo(search.transformer.dtype).eps * max(1.0, abs(self.value))
        self._tried: list[bool] = []  # of those that were tried, whether they stay
        self._runs: list[CachedRun] | None = None

    @property
    def complete(self) -> bool:
        """Every edge is decided."""
        return len(self.kept) == len(self.search.order)

    @property
    def trace(self) -> Trace:
        """The decisions so far."""
        search = self.search
        return Trace(
            start=search.start,
            threshold=self.threshold,
            change=search.settings.change,
            start_value=search.start_value,
            edges=tuple(map(search.name, search.order[: len(self.kept)])),
            values=tuple(self.values),
            kept=tuple(self.kept),
            noise=self.noise,
            complete=self.complete,
            settings=search.origin,
        )

    def take(self, trace: Trace, n: int | None = None) -> None:
        """Take over the first n decisions of a trace, or all."""
        for value, kept in list(zip(trace.values, trace.kept))[:n]:
            self._decide(value, kept)
        self.noise = max(self.noise, trace.noise)

    def take_agreed(self, trace: Trace) -> None:
        """Take over the decisions that hold for this threshold too, and the first that is made otherwise."""
        n = agreed(trace, self.threshold)
        self.take(trace, n)
        if n < len(trace.edges):
            self._decide(trace.values[n], not trace.kept[n])

    def advance(self, bar: tqdm) -> None:
        """Go on to the next place where runs are made afresh, or to the end."""
        self._runs = None
        block, first = None, len(self._tried)
        while not self.complete and len(self._tried) - first < FRESH_AFTER:
            n_decided, destination = len(self.kept), self.search.order[len(self.kept)][1]
            if block not in (None, self._block(destination)):
                break
            block = self._block(destination)
            self._visit(destination)
            bar.set_postfix(tried=len(self._tried), kept=sum(self.kept), objective=f"{self.value:.4g}", refresh=False)
            bar.update(len(self.kept) - n_decided)

    def _block(self, destination: int) -> tuple[int, bool]:
        """The layer of a destination, and whether it is the MLP, after which fewer nodes may have to run."""
        graph = self.search.graph
        layer = graph.layer_of(destination)
        return layer, layer < graph.n_layers and graph.mlps and destination == graph.mlp_destination(layer)

    def _visit(self, destination: int) -> None:
        """Decide the in-edges of a destination that come next in the order."""
        search, graph = self.search, self.search.graph
        waiting = [s for s, _ in takewhile(lambda edge: edge[1] == destination, search.order[len(self.kept) :])]
        nothing_left = not self.columns[destination]  # its direct edge was cut
        if nothing_left or not leads_on(graph, leading_to_logits(graph, self.columns), destination):
            for _ in waiting:
                self._decide(None, False)
            return
        before = self.columns[destination]
        reached = reached_from_input(graph, self.columns) if equals_a_run(search.settings.intervention) else -1
        while waiting:
            running = list(takewhile(lambda source: reached & self._bits(source, destination), waiting))
            if running:
                del waiting[: self._try(destination, running)]
            else:  # the source equals its corrupted value: cutting it changes nothing
                self._decide(self.value, is_kept(self.value, self.value, self.threshold, search.settings.change))
                del waiting[0]
        if self._runs is not None and self.columns[destination] != before:
            self._move_on(destination)

    def _try(self, destination: int, waiting: list[int]) -> int:
        """Try the next edges in one call; returns how many of them are decided."""
        search, n_before = self.search, len(self.kept)
        runs = self._current()
        chosen = waiting[: stack_size(self._tried, *search.price(runs, destination))]
        kept = self.mask[:, destination].repeat(len(chosen), 1)
        for place, source in enumerate(chosen):
            kept[place:, slice(None) if source == DIRECT else source] = False
        for value in search.values(runs, destination, kept):
            search.check_finite(value, f"{search.name(search.order[len(self.kept)])} cut")
            stays = is_kept(self.value, value, self.threshold, search.settings.change)
            self._decide(value, stays)
            if stays:
                break
        return len(self.kept) - n_before

    def _decide(self, value: float | None, kept: bool) -> None:
        """Decide the next edge of the order."""
        source, destination = self.search.order[len(self.kept)]
        self.values.append(value)
        self.kept.append(kept)
        if value is not None:
            self._tried.append(kept)
        if not kept:
            self.mask[slice(None) if source == DIRECT else source, destination] = False
            self.columns[destination] &= ~self._bits(source, destination)
            self.value = self.value if value is None else value

    def _bits(self, source: int, destination: int) -> int:
        """The sources that an edge takes away from its destination."""
        return self.columns[destination] if source == DIRECT else 1 << source

    def _current(self) -> list[CachedRun]:
        """The runs of the circuit; while a destination is visited, of the circuit when that began."""
        if self._runs is None:
            self._runs = self.search.cached_runs(self.mask)
            self._note_noise()
        return self._runs

    def _move_on(self, destination: int) -> None:
        """Move the runs on to what a visit has left."""
        for run in self._runs:
            move_on(run, destination, self.mask[:, destination])
        self._note_noise()

    def _note_noise(self) -> None:
        """Compare two computations of the objective of the same circuit."""
        again = self.search.value([run.logits for run in self._runs])
        self.noise = max(self.noise, abs(again - self.value))
