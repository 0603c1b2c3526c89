"""What several processes that share the prompts gain: `python -m edge_circuits.benchmarks.speed processes`.

Each count of processes is started by torchrun and does the same work on a model of GPT-2 small's size with random weights: on the
CPU with one thread a process, on CUDA with one device a process. All have equal batches, so all do the same arithmetic; what
they find is compared, and must be equal.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from edge_circuits import acdc, eap
from edge_circuits.benchmarks.speed.setup import make_setup
from edge_circuits.graphs import prune
from edge_circuits.graphs.metrics import logit_difference

ROUNDS = 3
BATCH_SIZE = 8
K, THRESHOLD = 100, 3e-4


def report(counts: Sequence[int], shape: str, device: str) -> None:
    """Measure and print each count of processes."""
    print(
        f"\n{shape} tokens in batches of {BATCH_SIZE}, {device}; seconds, and times faster than {counts[0]} process(es)"
    )
    found: list[dict[str, Any]] = []
    for n_processes in counts:
        found.append(_measured(n_processes, shape, device))
        first = found[0]
        for name, seconds in found[-1]["seconds"].items():
            print(f"  {n_processes} processes  {name:32}{seconds:9.2f}{first['seconds'][name] / seconds:8.2f}")
        same = all(torch.equal(found[-1]["results"][name], value) for name, value in first["results"].items())
        print(f"  {n_processes} processes  results {'are equal, bit for bit' if same else 'DIFFER'}")


def _measured(n_processes: int, shape: str, device: str) -> dict[str, Any]:
    """Seconds and results of the first process."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "found.pt"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
        asked = {"shape": shape, "device": device, "out": str(out)}
        command += ["-m", "edge_circuits.benchmarks.speed.processes", json.dumps(asked)]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        return torch.load(out, weights_only=True)


def work(shape: str, device: str, out: str) -> None:
    """What each process does; the first writes what it found."""
    torch.set_num_threads(1)
    if device != "cpu":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    setup = make_setup(shape, device)
    model, pairs = setup.model, setup.pairs
    shared = dict(batch_size=BATCH_SIZE, process_group=dist.group.WORLD, quiet=True)
    score = partial(eap.score, model, pairs, logit_difference, **shared)
    scored = score("relp")
    circuit = prune(scored, K)
    edges = torch.zeros_like(scored.graph.edge_mask)
    sampled = scored.graph.mlp_destination(2 * scored.graph.n_layers // 3)
    edges[:, sampled] = scored.graph.edge_mask[:, sampled]
    rows: dict[str, Callable[[], torch.Tensor]] = {
        "EAP": lambda: score("eap").scores,
        "RelP": lambda: score("relp").scores,
        f"exact, {int(edges.sum())} edges": lambda: score(eap.Exact(edges)).scores,
        f"ACDC with KL on RelP's best {K}": lambda: acdc.refine(model, circuit, pairs, "kl", THRESHOLD, **shared).mask,
    }
    seconds, results = {}, {}
    for name, call in rows.items():
        taken = []
        for _ in range(ROUNDS):
            dist.barrier()
            setup.synchronise()
            began = time.perf_counter()
            results[name] = call()
            setup.synchronise()
            taken.append(time.perf_counter() - began)
        seconds[name] = statistics.median(taken)
    if dist.get_rank() == 0:
        torch.save({"seconds": seconds, "results": results}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    work(**json.loads(sys.argv[1]))
