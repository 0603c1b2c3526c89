"""How well methods agree with exact patching: `python -m edge_circuits.benchmarks.agreement`.

    python -m edge_circuits.benchmarks.agreement                                       # all planted models, all methods
    python -m edge_circuits.benchmarks.agreement --model gpt2 --tasks ioi              # a model of the hub, a task of the package
    python -m edge_circuits.benchmarks.agreement --model DIRECTORY --tasks sort        # a model of digits without a tokenizer
    python -m edge_circuits.benchmarks.agreement --model DIRECTORY --tasks text --text FILE

1. Every method scores the edges, exact edge patching too, group of prompts by group (`edge_circuits.benchmarks.agreement.edges`).
2. Node scores of both directions are held against exact node patching (`edge_circuits.benchmarks.agreement.nodes`).
3. Correlations with intervals are told as tables (`edge_circuits.benchmarks.agreement.report`).

With `--out` tables are written as text, CSV and JSON, the scores as JSON, and scatter plots, interpolation curves and heat maps
as pictures. What has been scored is kept in `DIR/.partial`, so a run that was stopped goes on there. The tables go to standard
output, all else that is told to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from edge_circuits.benchmarks.agreement import report as agreement_report
from edge_circuits.benchmarks.agreement.edges import (
    EXACT,
    Compared,
    Scores,
    Settings,
    compare,
    interpolated,
    method_names,
    score_groups,
    telling_edges,
)
from edge_circuits.benchmarks.agreement.nodes import DIRECTIONS, compare_nodes
from edge_circuits.benchmarks.agreement.report import Result
from edge_circuits.benchmarks.output.cache import SavedParts, parts_in
from edge_circuits.benchmarks.problems.any_model import Subject, subjects
from edge_circuits.benchmarks.problems.known_circuits import PLANTED
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.correlation import N_RESAMPLES
from edge_circuits.graphs.files.atomic import write_whole

SHARES = tuple(step / 10 for step in range(11))  # of an edge that is cut
STOPPED, REFUSED = 130, 2  # exit statuses


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the result is the exit status."""
    given = _parser().parse_args(arguments)
    try:
        results = _results(given)
    except ValueError as error:
        print(f"edge_circuits.benchmarks.agreement: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        kept = (
            "what is finished is kept, and the same command goes on from there"
            if given.out
            else "nothing is kept without --out DIR"
        )
        print(f"\nstopped; {kept}", file=sys.stderr)
        return STOPPED
    if given.out is not None and not given.quiet:
        print(f"tables, scores and pictures are in {given.out}", file=sys.stderr)
    return 0 if results else REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edge_circuits.benchmarks.agreement", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add(
        "--model",
        default=PLANTED,
        help="planted (the default), a hub name such as gpt2, or a directory; random:gpt2 for random weights",
    )
    add(
        "--tasks",
        nargs="+",
        help="ioi, docstring, greater_than, sort, text; by default all planted ones, else text, without tokenizer sort",
    )
    add("--methods", nargs="+", help=f"of {', '.join(method_names())}; by default all")
    add("--metric", help="name in edge_circuits.graphs.metrics; by default each task's own")
    add("--n-prompts", type=int, default=100, help="prompts of each task (100)")
    add("--groups", type=int, default=20, help="groups of prompts for the bootstrap (20)")
    add("--resamples", type=int, default=N_RESAMPLES, help=f"draws of the bootstrap ({N_RESAMPLES})")
    add("--seed", type=int, default=0, help="of prompts and bootstrap (0)")
    add(
        "--edges",
        nargs="+",
        help="edges whose interpolation is drawn; by default those of the largest effects and error",
    )
    add("--without-nodes", action="store_true", help="edges alone")
    add("--text", type=Path, help="file of prompts for the task text; by default the model writes them")
    add("--weights", type=Path, help="folder with weights of planted models; by default those shipped")
    add("--device", help="of a model that is not planted; by default cuda where there is one")
    add("--out", type=Path, help="folder for tables, scores, pictures and what was scored so far")
    add("--format", choices=("png", "svg", "pdf"), default="png", help="of pictures (png)")
    add("--fresh", action="store_true", help="forget what was scored before in --out")
    add("--quiet", action="store_true", help="no progress bar and no notes, the tables alone")
    return parser


def _results(given: argparse.Namespace) -> list[Result]:
    """Everything, told and written."""
    settings, methods = _settings(given), _methods(given)
    asked = dict(n_prompts=given.n_prompts, seed=given.seed, metric=given.metric, text=given.text)
    found = subjects(given.model, given.tasks, **asked, weights=given.weights, device=given.device, quiet=given.quiet)
    for subject in found:
        for edge in given.edges or ():
            subject.graph.edge_index(edge)  # refuses an unknown one before any work
    results, pictures = [], []
    with parts_in(given.out, given.fresh) as parts:
        for subject in found:
            result, exact_nodes = _result(subject, settings, methods, parts, given)
            results.append(result)
            pictures.append(exact_nodes)
    print(agreement_report.text(results), flush=True)
    if given.out is not None:
        _write(results, pictures, given)
    return results


def _settings(given: argparse.Namespace) -> Settings:
    for name in ("groups", "resamples"):
        if getattr(given, name) < 2:
            raise ValueError(f"--{name}: expected 2 or more, came {getattr(given, name)}")
    return Settings(given.groups, given.resamples, given.seed)


def _methods(given: argparse.Namespace) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(given.methods or method_names()))
    if unknown := [name for name in chosen if name not in method_names()]:
        raise ValueError(
            f"method: expected one of {', '.join(method_names())}, came {unknown[0]!r}; all are held against {EXACT}"
        )
    return chosen


def _result(
    subject: Subject, settings: Settings, methods: Sequence[str], parts: SavedParts, given: argparse.Namespace
) -> tuple[Result, dict[str, dict[str, Tensor]]]:
    """One model and task; and exact node patching by direction and kind of node, for the pictures."""
    n_parts = sum(len(settings.groups(subject.pairs, method)) for method in (EXACT, *methods))
    scored: dict[str, Scores] = {}
    left_out: dict[str, str] = {}
    with tqdm(total=n_parts, unit="part", disable=given.quiet, leave=False) as bar:
        for method in (EXACT, *methods):
            bar.set_description(f"{subject.name}, {method}")
            try:
                scored[method] = score_groups(subject, method, parts, settings, bar.update)
            except ValueError as error:
                if method == EXACT:
                    raise
                left_out[method] = str(error)
    exact = scored.pop(EXACT)
    compared = [compare(subject, scores, exact, settings) for scores in scored.values()]
    exact_nodes, nodes = {}, []
    for direction in (
        () if given.without_nodes or getattr(subject.metric, "zero_gradient_at_clean", False) else DIRECTIONS
    ):
        exact_nodes[direction], found = compare_nodes(subject, direction, settings)
        nodes += found
    return Result(subject, settings, exact, compared, left_out, nodes), exact_nodes


def _write(
    results: Sequence[Result], exact_nodes: Sequence[dict[str, dict[str, Tensor]]], given: argparse.Namespace
) -> None:
    """All files, tables first."""
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items() if name != "out"
    }
    write_whole(given.out / "agreement.txt", (agreement_report.text(results) + "\n").encode())
    write_whole(given.out / "agreement.csv", agreement_report.as_csv(results).encode())
    write_whole(given.out / "agreement.json", agreement_report.as_json(results, settings).encode())
    for result in results:
        for scores in (result.exact, *(one.scores for one in result.compared)):
            about = {"model": result.subject.model_name, "task": result.subject.task, "method": scores.method}
            name = f"scores-{result.subject.stem}-{scores.method}-{result.subject.metric_name}.json"
            ScoredGraph(result.subject.graph, scores.mean, about).save(given.out / name)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no pictures: matplotlib is not installed; pip install 'edge-circuits[plots]'", file=sys.stderr)
        return
    for result, by_direction in zip(results, exact_nodes):
        _draw(result, by_direction, given)


def _draw(result: Result, exact_nodes: dict[str, dict[str, Tensor]], given: argparse.Namespace) -> None:
    """The pictures of one model and task."""
    from edge_circuits.benchmarks.agreement import plots

    subject = result.subject

    def path(name: str) -> Path:
        return given.out / f"{name}-{subject.stem}.{given.format}"

    if result.compared:
        plots.plot_scatter(result.compared, result.exact, path("agreement-scatter"))
        edges = given.edges or telling_edges(result.exact, _first_signed(result.compared), subject.graph)
        curves = {edge: interpolated(subject, edge, SHARES) for edge in edges}
        plots.plot_interpolation(curves, SHARES, result.compared, path("agreement-interpolation"))
    if result.nodes:
        plots.plot_bars(result.nodes, f"{subject.name}: nodes", path("agreement-nodes"))
    for direction, exact in exact_nodes.items():
        here = [one for one in result.nodes if one.direction == direction]
        plots.plot_heat_maps(exact, here, f"{subject.name}: {direction}", path(f"agreement-{direction}"))


def _first_signed(compared: Sequence[Compared]) -> Scores:
    """The first method whose scores have the metric's unit, if there is one."""
    return next((one for one in compared if not one.by_size), compared[0]).scores
