"""EAP first, then ACDC on the pruned graph: `python -m edge_circuits.benchmarks.refine`.

    python -m edge_circuits.benchmarks.refine                                    # all planted models, RelP, then ACDC with KL
    python -m edge_circuits.benchmarks.refine --tasks ioi --method eap --metric task --out results/refine

1. A scoring method ranks all edges, and the k best without dead ends are the pruned graph, for a grid of k.
2. ACDC sweeps each pruned graph with a grid of thresholds (`acdc.sweep`). The whole graph is a k of its own: ACDC alone.
3. What is left is held against the known circuit: true and false positive rate, and their difference, Youden's J.

With `--out` the numbers are written as CSV and JSON, the rates and J as maps over k and threshold, and traces of the
sweeps in `DIR/.partial`, from which a run that was stopped goes on. The table goes to standard output.

Reference: Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery, section 5.2, Figures 6
and 9.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from edge_circuits import acdc, eap
from edge_circuits.benchmarks.output.cache import PARTIAL, code_digest, model_digest
from edge_circuits.benchmarks.output.tables import csv_text
from edge_circuits.benchmarks.problems.known_circuits import KL, Problem, planted_problems
from edge_circuits.benchmarks.refine.rows import Row
from edge_circuits.graphs import Circuit, prune
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.digest import digest_of

THRESHOLDS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
SIZES = (0.5, 1, 2, 4, 8)  # of the pruned graph, in known circuits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the result is the exit status."""
    given = _parser().parse_args(arguments)
    try:
        problems = planted_problems(given.tasks, n_prompts=given.n_prompts, seed=given.seed, folder=given.weights)
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) if given.out is None else given.out / PARTIAL
            rows = [row for problem in problems for row in rows_of(problem, given, folder)]
    except ValueError as error:
        print(f"edge_circuits.benchmarks.refine: {error}", file=sys.stderr)
        return 2
    print(table(rows), flush=True)
    if given.out is not None:
        _write(rows, given)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edge_circuits.benchmarks.refine", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--tasks", nargs="+", help="ioi, docstring, greater_than; by default all that are planted")
    add("--method", default="relp", help="of eap.score, with the task's metric (relp)")
    add(
        "--metric",
        default=KL,
        help="what ACDC keeps: kl, task (the task's own) or a name in edge_circuits.graphs.metrics (kl)",
    )
    add(
        "--k",
        nargs="+",
        type=int,
        help="sizes of pruned graphs; by default some multiples of the known circuit's, and all edges",
    )
    add("--thresholds", nargs="+", type=float, default=list(THRESHOLDS), help="of ACDC")
    add("--n-prompts", type=int, default=24, help="prompts of each task (24)")
    add("--seed", type=int, default=0, help="of the prompts (0)")
    add("--weights", type=Path, help="folder with weights of planted models; by default those shipped")
    add("--out", type=Path, help="folder for tables, maps and sweeps so far")
    add("--format", choices=("png", "svg", "pdf"), default="png", help="of maps (png)")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def rows_of(problem: Problem, given: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """One problem's rows, pruned graph by pruned graph."""
    scored = eap.score(problem.model, problem.pairs, problem.metric_named(problem.metric), given.method, quiet=True)
    name = problem.metric if given.metric == "task" else given.metric
    metric = KL if name == KL else problem.metric_named(name)
    bar = tqdm(
        _sizes(problem, given.k), desc=f"{problem.name}, {given.method}, {name}", unit="graph", disable=given.quiet
    )
    for k in bar:
        start = Circuit.full(problem.graph) if k >= problem.graph.n_edges else prune(scored, k)
        about = dict(task=problem.task, method=given.method, metric=name, k=k, n_start=start.n_edges)
        yield _row(problem, start.live(), **about, threshold=None, n_tried=0, seconds=None)
        part = folder / f"{problem.stem}-{name}-{k}-{_digest(problem, start, name)}"
        is_new = not part.exists()
        began = time.perf_counter()
        found = acdc.sweep(
            problem.model, problem.pairs, metric, given.thresholds, circuit=start, checkpoint=part, quiet=True
        )
        seconds = (time.perf_counter() - began) / len(given.thresholds) if is_new else None
        for trace in found.traces:
            tried = dict(threshold=trace.threshold, n_tried=trace.n_tried, seconds=seconds)
            yield _row(problem, trace.circuit.live(), **about, **tried)


def _sizes(problem: Problem, asked: Sequence[int] | None) -> list[int]:
    n_edges = problem.graph.n_edges
    wanted = [round(size * problem.circuit.n_edges) for size in SIZES] if asked is None else asked
    return sorted({min(k, n_edges) for k in wanted} | ({n_edges} if asked is None else set()))


def _row(problem: Problem, found: Circuit, **about: object) -> Row:
    known = problem.circuit
    n_right, n_wrong = len(found & known), len(found - known)
    return Row(
        **about,
        n_edges=found.n_edges,
        true_positive_rate=n_right / known.n_edges,
        false_positive_rate=n_wrong / (problem.graph.n_edges - known.n_edges),
    )


def _digest(problem: Problem, start: Circuit, metric: str) -> str:
    """Of all that decides a sweep, thresholds apart."""
    return digest_of(model_digest(problem.model), problem.pairs.digest, code_digest(), metric, *start.edges)


# Telling


def table(rows: Sequence[Row]) -> str:
    """Youden's J as a map, a task after the other: k down, thresholds across, and the best of each."""
    texts = []
    for task in dict.fromkeys(row.task for row in rows):
        here = [row for row in rows if row.task == task]
        thresholds = list(dict.fromkeys(row.threshold for row in here))
        lines = [f"{task}: Youden's J of {here[0].method}, then ACDC with {here[0].metric}; {_n_known(here)}"]
        lines.append(
            "".join(f"{text:>8}" for text in ("k", *("pruned" if t is None else f"{t:g}" for t in thresholds)))
        )
        for k in dict.fromkeys(row.k for row in here):
            values = {row.threshold: row.youden for row in here if row.k == k}
            lines.append(f"{k:8}" + "".join(f"{values[t]:8.3f}" for t in thresholds))
        best = max(here, key=lambda row: row.youden)
        lines.append(f"best: {_in_words(best)}")
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def _n_known(rows: Sequence[Row]) -> str:
    return f"{len({row.k for row in rows})} pruned graphs, the largest of {max(row.n_start for row in rows):,} edges"


def _in_words(row: Row) -> str:
    with_threshold = "without ACDC" if row.threshold is None else f"threshold {row.threshold:g}"
    rates = f"TPR {row.true_positive_rate:.3f}, FPR {row.false_positive_rate:.4f}"
    return f"J {row.youden:.3f} at k {row.k}, {with_threshold}: {row.n_edges} edges, {rates}"


def _write(rows: Sequence[Row], given: argparse.Namespace) -> None:
    """All files."""
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items() if name != "out"
    }
    records = [asdict(row) | {"youden": row.youden} for row in rows]
    write_whole(given.out / "refine.csv", csv_text(records).encode())
    write_whole(given.out / "refine.json", json.dumps({"settings": settings, "rows": records}, indent=1).encode())
    write_whole(given.out / "refine.txt", (table(rows) + "\n").encode())
    try:
        from edge_circuits.benchmarks.refine import plots as refine_plots
    except ImportError:
        print("no maps: matplotlib is not installed; pip install 'edge-circuits[plots]'", file=sys.stderr)
        return
    for task in dict.fromkeys(row.task for row in rows):
        refine_plots.plot_maps([row for row in rows if row.task == task], given.out / f"refine-{task}.{given.format}")
