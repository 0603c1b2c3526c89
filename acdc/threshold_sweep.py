"""`sweep`: ACDC with many thresholds.

What does not depend on the threshold is computed once: the clean and the corrupted run, and all decisions up to the
first in which two thresholds differ. Beyond it the circuits differ, and nothing is shared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from edge_circuits.acdc.algorithm import sweep_edges
from edge_circuits.acdc.search import STACKED_TOKENS, Search, check_threshold
from edge_circuits.acdc.trace import Change, Trace, TracedCircuit
from edge_circuits.graphs import Circuit, PromptPairs, ScoredGraph
from edge_circuits.graphs.graph import KVDestinations
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.running.patching import Intervention


@dataclass(frozen=True)
class ThresholdSweep:
    """ACDC's circuits for several thresholds.

    Attributes:
        traces: a trace for each threshold, thresholds ascending.
    """

    traces: tuple[Trace, ...]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The thresholds, ascending."""
        return tuple(trace.threshold for trace in self.traces)

    @property
    def circuits(self) -> tuple[TracedCircuit, ...]:
        """The circuit of each threshold; they need not lie in one another."""
        return tuple(trace.circuit for trace in self.traces)

    @cached_property
    def survival(self) -> Float[Tensor, "source destination"]:
        """For each edge the largest threshold it survives; 0 where it survives none (or only 0)."""
        survival = torch.zeros(self.traces[0].start.mask.shape, dtype=torch.float64)
        for threshold, circuit in zip(self.thresholds, self.circuits):
            survival[circuit.mask] = threshold
        return survival

    @property
    def scored(self) -> ScoredGraph:
        """`survival` as scores: pruning at a threshold gives the edges that survive it or a larger one."""
        settings = dict(self.traces[0].settings)
        metadata = {"model": settings.pop("model"), "method": "acdc", "metric": settings.pop("metric")}
        settings |= {"thresholds": [t for t in self.thresholds if t < float("inf")], "change": self.traces[0].change}
        return ScoredGraph(self.traces[0].graph, self.survival, metadata | {"settings": settings})


def sweep(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    thresholds: Sequence[float],
    *,
    circuit: Circuit | None = None,
    intervention: Intervention = "patching",
    change: Change = "signed",
    order: Sequence[str] | None = None,
    kv_destinations: KVDestinations = "query-head",
    batch_size: int | None = None,
    stacked_tokens: int = STACKED_TOKENS,
    folder: str | os.PathLike[str] | None = None,
    process_group: ProcessGroup | None = None,
    quiet: bool = False,
) -> ThresholdSweep:
    """ACDC's circuit for each of several thresholds, and for each edge the largest threshold it survives.

    The circuits are those that `acdc.discover` (or `acdc.refine`, where a circuit is given) finds one by one.

    Args:
        thresholds: in any order, without repetition.
        circuit: where to begin; None: all edges.
        folder: traces are written here, one file a threshold, as the sweep goes on; it is made if it is not there. A
            sweep that was interrupted continues from it and ends as if it had not been.

    Other arguments are those of `acdc.discover`.

    Raises:
        ValueError: as `acdc.discover`, or no thresholds, or one that comes twice.
    """
    for threshold in thresholds:
        check_threshold(threshold)
    if not thresholds or len(set(thresholds)) < len(thresholds):
        raise ValueError(f"thresholds must be one or more different numbers, got {list(thresholds)}.")
    search = Search(
        model,
        pairs,
        metric,
        start=circuit,
        intervention=intervention,
        change=change,
        order=order,
        batch_size=batch_size,
        stacked_tokens=stacked_tokens,
        process_group=process_group,
        kv_destinations=kv_destinations,
    )
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    traces: list[Trace] = []
    for threshold in sorted(map(float, thresholds)):
        checkpoint = None if folder is None else Path(folder) / f"threshold-{threshold!r}.jsonl"
        traces.append(sweep_edges(search, threshold, known=traces, checkpoint=checkpoint, quiet=quiet))
    return ThresholdSweep(tuple(traces))
