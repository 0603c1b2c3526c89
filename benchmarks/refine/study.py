"""EAP first, then ACDC on the pruned graph: `python -m edge_circuits.benchmarks.refine`.

    python -m edge_circuits.benchmarks.refine                                    # all planted models, RelP, then ACDC with KL
    python -m edge_circuits.benchmarks.refine --tasks ioi --method eap --metric task --out results/refine
    python -m edge_circuits.benchmarks.refine --model DIRECTORY --prompts FILE --circuit FILE

1. A scoring method ranks all edges, and the k best without dead ends are the pruned graph, for a grid of k.
2. ACDC sweeps each pruned graph with a grid of thresholds (`acdc.sweep`). The whole graph is a k of its own: ACDC alone.
3. What is left is held against the known circuit: true and false positive rate, and their difference, Youden's J.

With `--out` the numbers are written as text, CSV and JSON, and the rates and J as maps over k and threshold.

Reference: Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery, section 5.2, Figures 6
and 9.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from edge_circuits import eap
from edge_circuits.benchmarks.kept_sweeps import kept_sweep
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.refine.rows import Row, row, table
from edge_circuits.benchmarks.study import FILES, PROBLEM, Study, draws, parts_of, problems_of, tell
from edge_circuits.graphs import Circuit, prune
from edge_circuits.graphs.metrics import KL

THRESHOLDS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
SIZES = (0.5, 1, 2, 4, 8)  # of the pruned graph, in known circuits


def _add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--method", default="relp", help="of eap.score, with the task's metric (relp)")
    add("--metric", default=KL, help="what ACDC keeps: kl, task (the task's own) or another name (kl)")
    told = "sizes of pruned graphs; by default multiples of the known circuit's, and all edges"
    add("--k", nargs="+", type=int, help=told)
    add("--thresholds", nargs="+", type=float, default=list(THRESHOLDS), help="of ACDC")


def _work(given: argparse.Namespace) -> None:
    problems = problems_of(given, metric=None, needs_circuit=True)
    with parts_of(given) as folder:
        rows = [each for problem in problems for each in rows_of(problem, given, folder)]
    tell(given, "refine", table(rows), rows)
    if draws(given):
        from edge_circuits.benchmarks.refine.plots import plot_maps

        for task, group in groupby(rows, key=lambda row: row["task"]):
            plot_maps(list(group), given.out / f"refine-{task}.{given.format}")


def rows_of(problem: Problem, given: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """One problem's rows, pruned graph by pruned graph."""
    scored = eap.score(problem.model, problem.pairs, problem.metric, given.method, quiet=True)
    name = problem.metric_name if given.metric == "task" else given.metric
    called, known = f"{problem.name}, {given.method}, {name}", problem.circuit
    for k in tqdm(sizes(problem, given.k), desc=called, unit="graph", disable=given.quiet):
        start = Circuit.full(problem.graph) if k >= problem.graph.n_edges else prune(scored, k)
        about = dict(task=problem.task, method=given.method, metric=name, k=k)
        yield row(about, None, start, start.live(), known, 0, None)
        found, taken = kept_sweep(problem, name, given.thresholds, start, folder)
        seconds = None if taken is None else taken / len(given.thresholds)
        for trace in found.traces:
            yield row(about, trace.threshold, start, trace.circuit.live(), known, trace.n_tried, seconds)


def sizes(problem: Problem, asked: Sequence[int] | None) -> list[int]:
    """Of the pruned graphs; by default multiples of the known circuit's, and all edges."""
    n_edges = problem.graph.n_edges
    wanted = [round(size * problem.circuit.n_edges) for size in SIZES] if asked is None else asked
    return sorted({min(k, n_edges) for k in wanted} | ({n_edges} if asked is None else set()))


STUDY = Study(
    "refine", "ACDC after pruning, over both sizes.", (*PROBLEM, *FILES), _add, _work, defaults={"n_prompts": 24}
)
main, parser = STUDY.main, STUDY.parser
