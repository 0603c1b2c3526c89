"""`sweep`: ACDC with many thresholds.

What does not depend on the threshold is computed once: the clean and the corrupted run, and all decisions up to the
first in which two thresholds differ. Beyond it the circuits differ, and nothing is shared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.acdc.algorithm import sweep_edges
from edge_circuits.acdc.search import Search
from edge_circuits.acdc.trace import Trace, TracedCircuit
from edge_circuits.graphs import Circuit, PromptPairs, ScoredGraph
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.surroundings import in_plain_surroundings


@dataclass(frozen=True)
class ThresholdSweep:
    """ACDC's circuits for several thresholds.

    Attributes:
        traces: A trace for each threshold, thresholds ascending.
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


@in_plain_surroundings
def sweep(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    thresholds: Sequence[float],
    *,
    circuit: Circuit | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> ThresholdSweep:
    """ACDC's circuit for each of several thresholds, and for each edge the largest threshold it survives.

    The circuits are those that `discover` (or `refine`, where a circuit is given) finds one by one.

    Args:
        model: A TransformerLens model; left unchanged.
        pairs: Clean prompts, and corrupted ones to cut to.
        metric: As in `discover`.
        thresholds: In any order, without repetition.
        circuit: Where to begin; None: all edges.
        checkpoint: A folder for the traces, one file a threshold, as in `discover`.
        quiet: No progress bar.
        **settings: As in `discover`.

    Raises:
        ValueError: As `discover`, or no thresholds, or one that comes twice.
    """
    search = Search(model, pairs, metric, settings, circuit, thresholds=thresholds, checkpoint=checkpoint)
    traces: list[Trace] = []
    for threshold in sorted(map(float, thresholds)):
        traces.append(sweep_edges(search, threshold, known=traces, checkpoint=checkpoint, quiet=quiet))
    return ThresholdSweep(tuple(traces))
