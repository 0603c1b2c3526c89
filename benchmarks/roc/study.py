"""How well do methods find known circuits: `python -m edge_circuits.benchmarks.roc`.

    python -m edge_circuits.benchmarks.roc                                     # all planted models, all methods
    python -m edge_circuits.benchmarks.roc --tasks ioi --methods eap random    # some of them
    python -m edge_circuits.benchmarks.roc --model gpt2                        # a model of the hub and its reference circuits
    python -m edge_circuits.benchmarks.roc --model planted DIRECTORY --k 50 200 --metrics task kl

1. A problem is a model, prompts and the circuit in it that is known (`edge_circuits.benchmarks.problems.known_circuits`).
2. Every method scores the model's edges, group of prompts by group (`edge_circuits.benchmarks.roc.methods`).
3. The scores are held against the circuit (`edge_circuits.benchmarks.roc.finding`), and told as a table (`edge_circuits.benchmarks.roc.report`).

With `--out` the table is written as text, CSV and JSON, the scores as JSON, ROC curves and scores as pictures, and circuits
as drawings. What has been scored is kept in `DIR/.partial`, so a run that was stopped goes on there; `--fresh` starts anew.
The table goes to standard output, all else that is told to standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from edge_circuits.benchmarks.output.cache import SavedParts, parts_in
from edge_circuits.benchmarks.problems.known_circuits import PLANTED, Problem, planted_problems, reference_problems
from edge_circuits.benchmarks.roc import circuit_drawings as drawings
from edge_circuits.benchmarks.roc import methods, report
from edge_circuits.benchmarks.roc.finding import Finding, Search, Settings
from edge_circuits.graphs.files.atomic import write_whole

TASK_METRIC = "task"
STOPPED, REFUSED = 130, 2  # exit statuses


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the result is the exit status."""
    given = _parser().parse_args(arguments)
    parts = None
    try:
        with parts_in(given.out, given.fresh) as parts:
            searches = [search for problem in _problems(given) for search in _searches(problem, given)]
            findings, skipped = _found(searches, given, parts)
    except ValueError as error:
        print(f"edge_circuits.benchmarks.roc: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(_stopped(given, parts), file=sys.stderr)
        return STOPPED
    text = report.text(findings, skipped)
    print(text, flush=True)
    if given.out is not None:
        _write(findings, skipped, text, given)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m edge_circuits.benchmarks.roc", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", nargs="+", default=[PLANTED], help="planted (the default), hub names such as gpt2, or directories")
    add("--tasks", nargs="+", help="ioi, docstring, greater_than; by default all with a known circuit in the model")
    add(
        "--methods",
        nargs="+",
        help=f"of {', '.join(methods.names())}; by default all, on large graphs those that are fast",
    )
    add(
        "--metrics",
        nargs="+",
        default=[TASK_METRIC],
        help="names in edge_circuits.graphs.metrics, kl, or task: the task's own (the default)",
    )
    add("--n-prompts", type=int, default=100, help="prompts of each task (100)")
    add("--groups", type=int, default=20, help="groups of prompts for the bootstrap (20)")
    add("--seed", type=int, default=0, help="of prompts, bootstrap and random scores (0)")
    add(
        "--k",
        nargs="+",
        type=int,
        default=[],
        help="numbers of edges to tell rates and draw circuits for; by default the known circuit's",
    )
    add("--universe", default="all", help="among which edges; see edge_circuits.benchmarks.reference.universes (all)")
    add("--variant", help="whose prompts, of a model that is not planted, e.g. mib; by default ACDC's")
    add("--edge-set", help="whose edge set is the circuit of a model that is not planted; by default ACDC's")
    add("--weights", type=Path, help="folder with weights of planted models; by default those shipped")
    add("--device", help="of a model that is not planted; by default cuda where there is one")
    add("--out", type=Path, help="folder for tables, scores, pictures and what was scored so far")
    add("--format", choices=("png", "svg", "pdf"), default="png", help="of pictures (png)")
    add("--quiet", action="store_true", help="no progress bar and no notes, the table alone")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", default=True, help="use what was scored before in --out (the default)"
    )
    again.add_argument("--fresh", action="store_true", help="forget what was scored before in --out")
    return parser


def _problems(given: argparse.Namespace) -> list[Problem]:
    """All problems asked for, model by model."""
    asked = dict(n_prompts=given.n_prompts, seed=given.seed)
    problems = []
    for model in given.model:
        if model == PLANTED:
            problems += planted_problems(given.tasks, **asked, folder=given.weights)
        else:
            real = dict(variant=given.variant, edge_set=given.edge_set, device=given.device, quiet=given.quiet)
            problems += reference_problems(model, given.tasks, **asked, **real)
    if twice := {problem.stem for problem in problems if [other.stem for other in problems].count(problem.stem) > 1}:
        raise ValueError(
            f"--model: expected models with different names, since files are named after them; came {', '.join(sorted(twice))} twice"
        )
    return problems


def _searches(problem: Problem, given: argparse.Namespace) -> Iterator[Search]:
    """One for each metric."""
    if given.groups < 1:
        raise ValueError(f"--groups: expected 1 or more, came {given.groups}")
    settings = Settings(seed=given.seed, n_groups=given.groups, universe=given.universe, k=tuple(given.k))
    names = [problem.metric if name == TASK_METRIC else name for name in given.metrics]
    for name in dict.fromkeys(names):
        search = Search(problem, name, problem.metric_named(name), settings)
        search.check()
        yield search


def _found(
    searches: Sequence[Search], given: argparse.Namespace, parts: SavedParts
) -> tuple[list[Finding], list[report.Skipped]]:
    """What every method finds in every search, and what could not be asked."""
    asked, findings, skipped = _asked(searches, given), [], []
    with tqdm(total=sum(method.n_parts(search) for search, method in asked), unit="part", disable=given.quiet) as bar:
        for search, method in asked:
            bar.set_description(f"{search.problem.name}, {method.name}")
            try:
                findings.append(method.find(search, parts, bar.update))
            except ValueError as error:
                if not getattr(search.metric, "zero_gradient_at_clean", False):
                    raise
                skipped.append(report.Skipped(search, method.name, str(error)))
                bar.total -= method.n_parts(search)
    if parts.n_reused and not given.quiet:
        print(f"{parts.n_reused} of {parts.n_reused + parts.n_computed} parts are of an earlier run", file=sys.stderr)
    return findings, skipped


def _asked(searches: Sequence[Search], given: argparse.Namespace) -> list[tuple[Search, methods.Method]]:
    """Every method in every search; one that uses no metric is asked in a problem's last search alone."""
    asked = []
    for problem, group in groupby(searches, key=lambda search: search.problem):
        names, of_problem = _method_names(problem, given), list(group)
        for search in of_problem:
            chosen = map(methods.method, names)
            asked += [(search, method) for method in chosen if method.uses_metric or search is of_problem[-1]]
    return asked


def _method_names(problem: Problem, given: argparse.Namespace) -> tuple[str, ...]:
    if given.methods is not None:
        return tuple(dict.fromkeys(given.methods))
    chosen = methods.default_names(problem)
    if (left_out := [name for name in methods.names() if name not in chosen]) and not given.quiet:
        n_edges = problem.graph.n_edges
        print(
            f"{problem.name}: without {', '.join(left_out)}, slow on {n_edges:,} edges; ask with --methods",
            file=sys.stderr,
        )
    return chosen


def _stopped(given: argparse.Namespace, parts: SavedParts | None) -> str:
    if given.out is None or parts is None:
        return "\nstopped; with --out DIR the next run would go on from here"
    return f"\nstopped; {parts.n_computed + parts.n_reused} parts are kept, and the same command goes on from there"


def _write(
    findings: Sequence[Finding], skipped: Sequence[report.Skipped], text: str, given: argparse.Namespace
) -> None:
    """All files, tables first."""
    settings = {name: [str(v) for v in value] if name == "model" else value for name, value in vars(given).items()}
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in settings.items() if name != "out"
    }
    write_whole(given.out / "roc.txt", (text + "\n").encode())
    write_whole(given.out / "roc.csv", report.as_csv(findings).encode())
    write_whole(given.out / "roc.json", report.as_json(findings, skipped, settings).encode())
    for finding in findings:
        if finding.scored is not None:
            stem = finding.search.problem.stem
            finding.scored.save(given.out / f"scores-{stem}-{finding.method}-{finding.metric}.json")
    notes = [*_write_plots(findings, given), *drawings.draw_all(findings, given.out)[1]]
    if not given.quiet:
        print("\n".join([*notes, f"tables, scores, pictures and circuits are in {given.out}"]), file=sys.stderr)


def _write_plots(findings: Sequence[Finding], given: argparse.Namespace) -> list[str]:
    """Pictures of curves and scores; returns what the user should know."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return ["no pictures of curves and scores: matplotlib is not installed; pip install 'edge-circuits[plots]'"]
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
    return []
