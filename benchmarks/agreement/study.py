"""How well methods agree with exact patching: `python -m edge_circuits.benchmarks.agreement`.

    python -m edge_circuits.benchmarks.agreement                                       # all planted models, all methods
    python -m edge_circuits.benchmarks.agreement --model gpt2 --tasks ioi              # a model of the hub, a task of the package
    python -m edge_circuits.benchmarks.agreement --model DIRECTORY --tasks sort        # a model of digits without a tokenizer
    python -m edge_circuits.benchmarks.agreement --model DIRECTORY --tasks text --text FILE
    python -m edge_circuits.benchmarks.agreement --model DIRECTORY --prompts FILE      # your own prompts
    python -m edge_circuits.benchmarks.agreement --budget-map --model planted trained  # agreement against its price

1. Every method scores the edges, exact edge patching too, group of prompts by group (`edge_circuits.benchmarks.agreement.edges`).
2. Node scores of both directions are held against exact node patching (`edge_circuits.benchmarks.agreement.nodes`).
3. Correlations with intervals are told as tables (`edge_circuits.benchmarks.agreement.report`).

With `--out` tables are written as text, CSV and JSON, the scores as JSON, and scatter plots, interpolation curves and heat maps
as pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from edge_circuits.benchmarks.agreement import budget_map
from edge_circuits.benchmarks.agreement.edges import (
    EXACT,
    Compared,
    Settings,
    compare,
    interpolated,
    method_names,
    named,
    telling_edges,
)
from edge_circuits.benchmarks.agreement.nodes import DIRECTIONS, compare_nodes
from edge_circuits.benchmarks.agreement.report import Result, rows, text
from edge_circuits.benchmarks.group_scores import scores_beside_exact
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.study import FILES, PROBLEM, Study, draws, n_measured, note, parts_of, problems_of, tell
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.bootstrap import N_RESAMPLES
from edge_circuits.graphs.checks import whole_number

SHARES = tuple(step / 10 for step in range(11))  # of an edge that is cut


def _add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--methods", "--method", nargs="+", help=f"of {', '.join(method_names())}; by default all")
    add("--groups", type=int, default=20, help="groups of prompts for the bootstrap (20)")
    add("--resamples", type=int, default=N_RESAMPLES, help=f"draws of the bootstrap ({N_RESAMPLES})")
    told = "edges whose interpolation is drawn; by default those of the largest effects and error"
    add("--edges", nargs="+", help=told)
    told = "agreement, CPR and CMD against the price, for all methods and readers"
    add("--budget-map", action="store_true", help=told)
    add("--without-nodes", action="store_true", help="edges alone")


def _work(given: argparse.Namespace) -> None:
    n_groups, n_resamples = (whole_number(f"--{name}", getattr(given, name), 2) for name in ("groups", "resamples"))
    (_map if given.budget_map else _agreement)(given, Settings(n_groups, n_resamples, given.seed))


def _agreement(given: argparse.Namespace, settings: Settings) -> None:
    """Correlations of every method, and of nodes."""
    methods = {method: named(method) for method in given.methods or method_names()}
    problems = problems_of(given)
    for problem in problems:
        problem.graph.mask_of(given.edges or ())  # refuses an unknown one before any work
    with parts_of(given) as folder:
        found = [_result(problem, settings, methods, folder, given) for problem in problems]
    results = [result for result, _ in found]
    left_out = {result.problem.name: result.left_out for result in results}
    tell(given, "agreement", text(results), [row for result in results for row in rows(result)], left_out=left_out)
    if given.out is not None:
        _write(found, given)


def _map(given: argparse.Namespace, settings: Settings) -> None:
    """The budget map."""
    methods = tuple(dict.fromkeys(given.methods or budget_map.map_names()))
    for method in methods:
        find(method)
    problems = problems_of(given, n_held_out=n_measured(given))
    with parts_of(given) as folder:
        found = {each.name: budget_map.points(each, methods, settings, folder, given.quiet) for each in problems}
    points = [point for of_problem, _ in found.values() for point in of_problem]
    left_out = {name: each for name, (_, each) in found.items()}
    tell(given, "budget-map", budget_map.text(points), [point.row() for point in points], left_out=left_out)
    if draws(given):
        from edge_circuits.benchmarks.agreement.plots import plot_map

        for name in ("pearson", "spearman", "cmd"):
            plot_map(points, name, given.out / f"budget-map-{name}.{given.format}")


def _result(
    problem: Problem, settings: Settings, methods: Mapping[str, Method], folder: Path, given: argparse.Namespace
) -> tuple[Result, dict[str, dict[str, Tensor]]]:
    """One model and task; and exact node patching by direction and kind of node, for the pictures."""
    exact, scored, left_out = scores_beside_exact(problem, methods, folder, settings.n_groups, given.quiet)
    compared = [compare(method, each, exact, settings) for method, each in scored.items()]
    exact_nodes, nodes = {}, []
    is_flat = getattr(problem.metric, "zero_gradient_at_clean", False)
    for direction in () if given.without_nodes or is_flat else DIRECTIONS:
        exact_nodes[direction], found = compare_nodes(problem, direction, settings)
        nodes += found
    return Result(problem, settings, exact, compared, left_out, nodes), exact_nodes


def _write(found: Sequence[tuple[Result, dict[str, dict[str, Tensor]]]], given: argparse.Namespace) -> None:
    """Scores and pictures."""
    with_pictures = draws(given)
    for result, exact_nodes in found:
        problem = result.problem
        for method, scored in [(EXACT, result.exact), *((one.method, one.scored) for one in result.compared)]:
            about = {"model": problem.model_name, "task": problem.task, "method": method}
            name = f"scores-{problem.stem}-{method}-{problem.metric_name}.json"
            ScoredGraph(problem.graph, scored.scores, about).save(given.out / name)
        if with_pictures:
            _draw(result, exact_nodes, given)
    note(given, f"tables, scores and pictures are in {given.out}")


def _draw(result: Result, exact_nodes: dict[str, dict[str, Tensor]], given: argparse.Namespace) -> None:
    """The pictures of one model and task."""
    from edge_circuits.benchmarks.agreement import plots

    problem = result.problem

    def path(name: str) -> Path:
        return given.out / f"{name}-{problem.stem}.{given.format}"

    if result.compared:
        plots.plot_scatter(result, path("agreement-scatter"))
        edges = given.edges or telling_edges(result.exact, _first_signed(result.compared))
        curves = {edge: interpolated(problem, edge, SHARES) for edge in edges}
        plots.plot_interpolation(curves, SHARES, result, path("agreement-interpolation"))
    if result.nodes:
        plots.plot_bars(result.nodes, f"{problem.name}: nodes", path("agreement-nodes"))
    for direction, exact in exact_nodes.items():
        here = [one for one in result.nodes if one.direction == direction]
        plots.plot_heat_maps(exact, here, f"{problem.name}: {direction}", path(f"agreement-{direction}"))


def _first_signed(compared: Sequence[Compared]) -> ScoredGraph:
    """The first method whose scores have the metric's unit, if there is one."""
    return next((one for one in compared if not one.by_size), compared[0]).scored


STUDY = Study("agreement", "How well methods agree with exact patching.", (*PROBLEM, "metric", *FILES), _add, _work)
main, parser = STUDY.main, STUDY.parser
