"""How faithful the circuits of each method are: `python -m edge_circuits.benchmarks.faithfulness`.

    python -m edge_circuits.benchmarks.faithfulness                                       # all planted models
    python -m edge_circuits.benchmarks.faithfulness --tasks ioi --methods eap relp random --intervention mean
    python -m edge_circuits.benchmarks.faithfulness --model DIRECTORY --tasks sort        # any model
    python -m edge_circuits.benchmarks.faithfulness --model DIRECTORY --prompts FILE      # your own prompts

1. Every method scores the edges on one set of prompts, and circuits of ten sizes are cut from its scores.
2. They run on held-out prompts: faithfulness over size, with the areas CPR and CMD (`edge_circuits.graphs.measures.curves`).
3. The figures and their intervals are told as a table; with `--out` as text, CSV, JSON and a picture a problem.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from edge_circuits.benchmarks.faithfulness.finding import find
from edge_circuits.benchmarks.faithfulness.report import Result, known_row, rows, text
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.study import FILES, PROBLEM, Study, draws, n_measured, note, parts_of, problems_of, tell
from edge_circuits.eap.methods.lookup import find as find_method
from edge_circuits.eap.methods.lookup import known
from edge_circuits.graphs.measures.quality import measure

DEFAULT_METHODS = ("eap", "relp", "eap-ig", "exact", "random")


def _add(parser: argparse.ArgumentParser) -> None:
    told = f"of {', '.join(known())}; by default {', '.join(DEFAULT_METHODS)}"
    parser.add_argument("--methods", "--method", nargs="+", default=list(DEFAULT_METHODS), help=told)


def _work(given: argparse.Namespace) -> None:
    methods = tuple(dict.fromkeys(given.methods))
    for method in methods:
        find_method(method)
    problems = problems_of(given, n_held_out=n_measured(given))
    with parts_of(given) as folder, tqdm(total=len(problems) * len(methods), unit="method", disable=given.quiet) as bar:
        results = [_result(problem, methods, given, folder, bar) for problem in problems]
    told = {result.problem.name: result for result in results}
    known = {name: known_row(result.known) for name, result in told.items() if result.known is not None}
    left_out = {name: result.left_out for name, result in told.items()}
    found = [row for result in results for row in rows(result)]
    tell(given, "faithfulness", text(results), found, known=known, left_out=left_out)
    if draws(given):
        from edge_circuits.benchmarks.faithfulness.plots import plot_problem

        for result in results:
            if result.rows:
                plot_problem(result, given.out / f"faithfulness-{result.problem.stem}.{given.format}")
    if given.out is not None:
        note(given, f"tables and pictures are in {given.out}")


def _result(problem: Problem, methods: Sequence[str], given: argparse.Namespace, folder: Path, bar: tqdm) -> Result:
    """All methods on one problem; a method that cannot be asked is left out with its reason."""
    known = None
    if problem.known is not None:
        known = measure(problem.model, problem.circuit, problem.held_out, problem.metric, given.intervention)[0]
    rows, left_out = [], {}
    for method in methods:
        bar.set_description(f"{problem.name}, {method}")
        try:
            rows.append(find(problem, method, given.intervention, given.seed, folder=folder))
        except ValueError as error:
            left_out[method] = str(error)
        bar.update()
    return Result(problem, given.intervention, given.seed, known, rows, left_out)


STUDY = Study(
    "faithfulness",
    "How faithful the circuits of each method are.",
    (*PROBLEM, "metric", "intervention", *FILES),
    _add,
    _work,
)
main, parser = STUDY.main, STUDY.parser
