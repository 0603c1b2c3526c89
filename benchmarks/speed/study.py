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
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from edge_circuits import eap
from edge_circuits.benchmarks.speed import memory as process_memory
from edge_circuits.benchmarks.speed.setup import Setup, forward_backward, make_setup, plain_passes
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
    command = [
        sys.executable,
        "-m",
        "edge_circuits.benchmarks.speed",
        "--peak",
        name,
        "--shapes",
        shape,
        "--device",
        device,
        "--dtype",
        dtype,
    ]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _own_peak(name: str, shape: str, device: str, dtype: torch.dtype) -> int:
    setup = make_setup(shape, device, dtype)
    if name == "plain":
        setup = Setup(setup.plain_model, None, setup.pairs, device)
    else:
        setup = Setup(None, setup.model, setup.pairs, device)
    call = ROWS[name](setup)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated()
    process_memory.forget_peak()  # that of building
    call()
    return process_memory.peak()


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_circuits.benchmarks.speed", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "what",
        nargs="?",
        default="passes",
        choices=WHAT,
        help="passes, or see edge_circuits.benchmarks.speed.edges, speed_processes",
    )
    parser.add_argument("--shapes", nargs="+", help=f"prompts x tokens ({' '.join(SHAPES)}; of processes 32x16)")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=(1, 2), help="numbers of processes to compare (1 2)"
    )
    parser.add_argument("--threshold", type=float, default=1e-3, help="of acdc, in nats (0.001)")
    parser.add_argument("--minutes", type=float, default=120.0, help="after which acdc stops (120)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (it reads /proc)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    dtype = getattr(torch, options.dtype)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak:
        print(_own_peak(options.peak, options.shapes[0], options.device, dtype))
        return
    if options.what == "processes":
        from edge_circuits.benchmarks.speed import processes as speed_processes

        speed_processes.report(options.processes, (options.shapes or ["32x16"])[0], options.device)
        return
    options.shapes = options.shapes or SHAPES
    if options.what != "passes":
        _report_edges(options)
        return
    figures = {}
    for shape in options.shapes:
        setup = make_setup(shape, options.device, dtype)
        figures[shape] = _table(shape, setup, options)
    if options.json:
        from edge_circuits.graphs.files.atomic import write_whole

        write_whole(options.json, json.dumps(figures, indent=1).encode())


def _report_edges(options: argparse.Namespace) -> None:
    """What single edges cost."""
    from edge_circuits.benchmarks.speed import edges as speed_edges

    if options.what == "planted":
        speed_edges.report_planted()
    for shape in options.shapes if options.what == "exact" else ():
        speed_edges.report_exact(shape)
    if options.what == "acdc":
        speed_edges.report_acdc(options.shapes[0], options.threshold, options.minutes)


def _table(shape: str, setup: Setup, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time and print one shape."""
    seconds = timed(setup, options.rounds)
    with_memory = not options.no_memory and sys.platform == "linux"
    plain_peak = peak_memory("plain", shape, options.device, options.dtype) if with_memory else 0
    print(f"\n{shape} tokens, {options.device}, {options.dtype}, {options.rounds} rounds; times plain's")
    print(f"{'':22}{'seconds':>9}{'ratio':>8}{'min':>7}{'max':>7}{'peak memory':>13}")
    rows = {}
    for name, values in seconds.items():
        ratios = [value / plain for value, plain in zip(values, seconds["plain"])]
        row = {
            "seconds": statistics.median(values),
            "ratio": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
        }
        if with_memory and name in ("plain", "EAP"):
            row["peak_memory"] = peak_memory(name, shape, options.device, options.dtype) / plain_peak
        rows[name] = row
        memory = f"{row['peak_memory']:13.2f}" if "peak_memory" in row else ""
        print(f"{name:22}{row['seconds']:9.3f}{row['ratio']:8.2f}{row['min']:7.2f}{row['max']:7.2f}{memory}")
    kept = small_circuit(setup)
    print(f"the circuit has {kept.n_edges} edges ({N_EDGES} asked) and {len(kept.nodes)} nodes")
    return rows
