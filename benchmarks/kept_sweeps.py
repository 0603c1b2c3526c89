"""ACDC's sweeps over thresholds, kept in a folder of their own each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from edge_circuits import acdc
from edge_circuits.acdc.threshold_sweep import ThresholdSweep
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.graphs import Circuit
from edge_circuits.graphs.files.digest import digest_of, digest_of_tensors
from edge_circuits.graphs.metrics import KL


def kept_sweep(
    problem: Problem, metric: str, thresholds: Sequence[float], start: Circuit, folder: Path
) -> tuple[ThresholdSweep, float | None]:
    """ACDC's circuit for each threshold, and the seconds of all; None where an earlier run had begun.

    Args:
        metric: A name.
        start: Where the sweep begins.
        folder: For what is decided so far.
    """
    decides = digest_of_tensors(problem.model.state_dict()), problem.pairs.digest, metric, *start.edges
    own = folder / f"{problem.stem}-{metric}-{digest_of(*decides)}"
    is_new, began = not own.exists(), time.perf_counter()
    asked = dict(circuit=start, checkpoint=own, quiet=True)
    measured = KL if metric == KL else problem.metric_named(metric)
    found = acdc.sweep(problem.model, problem.pairs, measured, thresholds, **asked)
    return found, time.perf_counter() - began if is_new else None
