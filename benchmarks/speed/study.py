"""Running times as ratios to the bare passes, side by side in one process: `python -m edge_circuits.benchmarks.speed`.

"Plain" is two forward passes and one backward pass of the Hugging Face model (scaled dot product attention, frozen
parameters, the gradient taken down to the embeddings), the least that attribution patching can cost. Each round
times plain and every row once; the ratio is taken within the round and its median over rounds is printed. Peak memory
is that of a process of its own that does nothing else, weights included.

The model has the size of GPT-2 small and random weights, so nothing is downloaded. What single edges cost, in exact patching
and ACDC, is measured by `exact`, `acdc` and `planted` (`edge_circuits.benchmarks.speed.edges`), what several processes gain by `processes`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from edge_circuits import eap
from edge_circuits.benchmarks.output.tables import table
from edge_circuits.benchmarks.speed import memory as process_memory
from edge_circuits.benchmarks.speed.setup import Setup, forward_backward, make_setup, plain_passes
from edge_circuits.benchmarks.study import Study, tell
from edge_circuits.graphs import Circuit, prune, run
from edge_circuits.graphs.metrics import logit_difference

N_EDGES = 200
SHAPES = ("8x16", "8x64")
WHAT = ("passes", "exact", "acdc", "planted", "processes")


def scoring(method: str) -> Callable[[Setup], Callable[[], object]]:
    """`eap.score` with a method."""
    return lambda setup: lambda: eap.score(setup.model, setup.pairs, logit_difference, method, quiet=True)


def circuit_run(setup: Setup) -> Callable[[], object]:
    """`graphs.run` of the 200 edges that EAP scores highest, the corrupted pass included."""
    circuit = small_circuit(setup)

    def run_circuit() -> Tensor:
        with torch.no_grad():
            return run(setup.model, circuit, setup.pairs)

    return run_circuit


def small_circuit(setup: Setup) -> Circuit:
    """The circuit that `circuit_run` runs."""
    return prune(eap.score(setup.model, setup.pairs, logit_difference, "eap", quiet=True), N_EDGES)


ROWS: dict[str, Callable[[Setup], Callable[[], object]]] = {
    "plain": plain_passes,
    "forward + backward": forward_backward,
    "EAP": scoring("eap"),
    "RelP": scoring("relp"),
    "EAP-IG, 5 steps": scoring("eap-ig:steps=5"),
    "run, 200 edges": circuit_run,
}


def timed(setup: Setup, rounds: int) -> dict[str, list[float]]:
    """Seconds of every row, round by round, after one round of warming up."""
    calls = {name: row(setup) for name, row in ROWS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ROWS}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            setup.synchronise()
            start = time.perf_counter()
            call()
            setup.synchronise()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(name: str, shape: str, device: str, dtype: str) -> int:
    """Bytes at the peak of a process that builds the model and does one row, weights included."""
    command = [sys.executable, "-m", "edge_circuits.benchmarks.speed", "--peak", name]
    command += ["--shapes", shape, "--device", device, "--dtype", dtype]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _own_peak(name: str, shape: str, device: str, dtype: torch.dtype) -> int:
    setup = make_setup(shape, device, dtype)
    setup = replace(setup, **{"model" if name == "plain" else "plain_model": None})
    call = ROWS[name](setup)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated()
    process_memory.forget_peak()  # that of building
    call()
    return process_memory.peak()


def _add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "what",
        nargs="?",
        default="passes",
        choices=WHAT,
        help="passes (the default), single edges, or several processes",
    )
    add("--shapes", nargs="+", help=f"prompts x tokens ({' '.join(SHAPES)}; of processes 32x16)")
    add(
        "--alike", type=int, default=0, help="first tokens in which a pair's prompts are equal, of passes and exact (0)"
    )
    add("--processes", type=int, nargs="+", default=(1, 2), help="numbers of processes to compare (1 2)")
    add("--threshold", type=float, default=1e-3, help="of acdc, in nats (0.001)")
    add("--minutes", type=float, default=120.0, help="after which acdc stops (120)")
    add("--rounds", type=int, default=7, help="of passes (7)")
    add("--threads", type=int, help="CPU threads")
    add("--no-memory", action="store_true", help="leave out peak memory (it reads /proc)")
    add("--peak", help=argparse.SUPPRESS)


def _work(given: argparse.Namespace) -> None:
    if given.threads:
        torch.set_num_threads(given.threads)
    shapes = given.shapes or (("32x16",) if given.what == "processes" else SHAPES)
    if given.peak:
        print(_own_peak(given.peak, shapes[0], given.device, getattr(torch, given.dtype)))
    elif given.what == "processes":
        from edge_circuits.benchmarks.speed import processes

        processes.report(given.processes, shapes[0], given.device)
    elif given.what != "passes":
        _report_edges(given, shapes)
    else:
        found = [_passes(shape, given) for shape in shapes]
        tell(given, "speed", "\n\n".join(text for text, _ in found), [row for _, rows in found for row in rows])


def _report_edges(given: argparse.Namespace, shapes: Sequence[str]) -> None:
    """What single edges cost."""
    from edge_circuits.benchmarks.speed import edges

    if given.what == "planted":
        edges.report_planted()
    for shape in shapes if given.what == "exact" else ():
        edges.report_exact(shape, given.alike)
    if given.what == "acdc":
        edges.report_acdc(shapes[0], given.threshold, given.minutes)


def _passes(shape: str, given: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """One shape, as text and as rows."""
    setup = make_setup(shape, given.device, getattr(torch, given.dtype), alike=given.alike)
    seconds, rows = timed(setup, given.rounds), []
    peak = partial(peak_memory, shape=shape, device=given.device, dtype=given.dtype)
    with_memory = not given.no_memory and sys.platform == "linux"
    plain_peak = peak("plain") if with_memory else 0
    for name, values in seconds.items():
        ratios = [value / plain for value, plain in zip(values, seconds["plain"])]
        row = {"shape": shape, "what": name, "seconds": statistics.median(values), "ratio": statistics.median(ratios)}
        row |= {"min": min(ratios), "max": max(ratios)}
        row["peak_memory"] = peak(name) / plain_peak if with_memory and name in ("plain", "EAP") else None
        rows.append(row)
    kept, forms = small_circuit(setup), {"seconds": ".3f", "ratio": ".2f", "min": ".2f", "max": ".2f"}
    cells = [[row["what"], *(format(row[name], form) for name, form in forms.items()), _memory(row)] for row in rows]
    about = f"{shape} tokens, {given.device}, {given.dtype}, {given.alike} tokens alike, {given.rounds} rounds; times plain's"
    told = table(["", *forms, "peak memory"], cells, n_left=1)
    size = f"the circuit has {kept.n_edges} edges ({N_EDGES} asked) and {len(kept.nodes)} nodes"
    return f"{about}\n{told}\n{size}", rows


def _memory(row: dict[str, Any]) -> str:
    return "" if row["peak_memory"] is None else f"{row['peak_memory']:.2f}"


STUDY = Study(
    "speed",
    "Running times as ratios to the bare passes.",
    ("device", "dtype", "out"),
    _add,
    _work,
    defaults={"device": "cpu"},
)
main, parser = STUDY.main, STUDY.parser
