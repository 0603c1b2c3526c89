"""How well do methods find known circuits: `python -m edge_circuits.benchmarks.roc`.

    python -m edge_circuits.benchmarks.roc                                     # all planted models, all methods
    python -m edge_circuits.benchmarks.roc --tasks ioi --methods eap random    # some of them
    python -m edge_circuits.benchmarks.roc --model gpt2                        # a model of the hub and its reference circuits
    python -m edge_circuits.benchmarks.roc --model planted DIRECTORY --k 50 200 --metrics task kl
    python -m edge_circuits.benchmarks.roc --model DIRECTORY --prompts mine.csv --circuit known.json

1. A problem is a model, prompts and the circuit in it that is known (`edge_circuits.benchmarks.problems`).
2. Every method scores the model's edges, group of prompts by group (`edge_circuits.benchmarks.roc.methods`).
3. The scores are held against the circuit (`edge_circuits.benchmarks.roc.finding`), and told as a table
   (`edge_circuits.benchmarks.roc.report`).

With `--out` the table is written as text, CSV and JSON, the scores as JSON, ROC curves and scores as pictures, and circuits
as drawings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.roc import circuit_drawings, methods, report
from edge_circuits.benchmarks.roc.finding import Finding, Search, Settings
from edge_circuits.benchmarks.study import FILES, PROBLEM, Study, draws, note, parts_of, problems_of, tell
from edge_circuits.graphs.checks import whole_number

TASK_METRIC = "task"


def _add(parser: argparse.ArgumentParser) -> None:
    add, known = parser.add_argument, ", ".join(methods.names())
    add("--methods", "--method", nargs="+", help=f"of {known}; by default all, on large graphs those that are fast")
    told = "names, kl, or task: the task's own (the default)"
    add("--metrics", "--metric", nargs="+", default=[TASK_METRIC], help=told)
    add("--groups", type=int, default=20, help="groups of prompts for the bootstrap (20)")
    add("--k", nargs="+", type=int, default=[], help="numbers of edges to tell rates and draw circuits for")
    add("--universe", default="all", help="among which edges; see edge_circuits.benchmarks.reference.universes (all)")


def _work(given: argparse.Namespace) -> None:
    searches = [search for problem in problems_of(given, needs_circuit=True) for search in _searches(problem, given)]
    with parts_of(given) as folder:
        findings, skipped = _found(searches, given, folder)
    rows = [finding.row() for finding in findings]
    tell(given, "roc", report.text(findings, skipped), rows, skipped=report.skipped_rows(skipped))
    if given.out is not None:
        _write(findings, given)


def _searches(problem: Problem, given: argparse.Namespace) -> Iterator[Search]:
    """One for each metric."""
    n_groups = whole_number("--groups", given.groups, 1)
    settings = Settings(seed=given.seed, n_groups=n_groups, universe=given.universe, k=tuple(given.k))
    names = [problem.metric_name if name == TASK_METRIC else name for name in given.metrics]
    for name in dict.fromkeys(names):
        search = Search(problem, name, problem.metric_named(name), settings)
        search.check()
        yield search


def _found(
    searches: Sequence[Search], given: argparse.Namespace, folder: Path
) -> tuple[list[Finding], list[report.Skipped]]:
    """What every method finds in every search, and what could not be asked."""
    findings, skipped = [], []
    with tqdm(_asked(searches, given), unit="method", disable=given.quiet) as bar:
        for search, method in bar:
            bar.set_description(f"{search.problem.name}, {method}")
            try:
                findings.append(methods.find(method, search, folder))
            except ValueError as error:
                if not getattr(search.metric, "zero_gradient_at_clean", False):
                    raise
                skipped.append(report.Skipped(search, method, str(error)))
    return findings, skipped


def _asked(searches: Sequence[Search], given: argparse.Namespace) -> list[tuple[Search, str]]:
    """Every method in every search; one that uses no metric is asked in a problem's last search alone."""
    asked = []
    for problem, group in groupby(searches, key=lambda search: search.problem):
        names, of_problem = _method_names(problem, given), list(group)
        for search in of_problem:
            asked += [(search, name) for name in names if methods.uses_metric(name) or search is of_problem[-1]]
    return asked


def _method_names(problem: Problem, given: argparse.Namespace) -> tuple[str, ...]:
    if given.methods is not None:
        return tuple(dict.fromkeys(given.methods))
    chosen = methods.default_names(problem)
    if left_out := [name for name in methods.names() if name not in chosen]:
        slow = f"slow on {problem.graph.n_edges:,} edges; ask with --methods"
        note(given, f"{problem.name}: without {', '.join(left_out)}, {slow}")
    return chosen


def _write(findings: Sequence[Finding], given: argparse.Namespace) -> None:
    """Scores, pictures and circuits."""
    for finding in findings:
        if finding.scored is not None:
            stem = finding.search.problem.stem
            finding.scored.save(given.out / f"scores-{stem}-{finding.method}-{finding.metric}.json")
    if draws(given):
        _draw(findings, given)
    note(given, *circuit_drawings.draw_all(findings, given.out)[1])
    note(given, f"tables, scores, pictures and circuits are in {given.out}")


def _draw(findings: Sequence[Finding], given: argparse.Namespace) -> None:
    """Pictures of curves and scores."""
    from edge_circuits.benchmarks.roc import curve_plots, score_plots

    plots: dict[str, Callable[[list[Finding], Path], Path | None]] = {
        "roc": curve_plots.plot_problem,
        "distributions": score_plots.plot_distributions,
        "roles": score_plots.plot_by_role,
    }
    for problem, group in groupby(findings, key=lambda finding: finding.search.problem):
        found = list(group)
        for name, plot in plots.items():
            plot(found, given.out / f"{name}-{problem.stem}.{given.format}")
    if real := [finding for finding in findings if not finding.search.problem.is_planted]:
        curve_plots.plot_beside_published(real, given.out / f"beside-published.{given.format}")


STUDY = Study("roc", "How well methods find known circuits.", (*PROBLEM, *FILES), _add, _work)
main, parser = STUDY.main, STUDY.parser
