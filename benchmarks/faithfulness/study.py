"""How faithful the circuits of each method are: `python -m edge_circuits.benchmarks.faithfulness`.

    python -m edge_circuits.benchmarks.faithfulness                                       # all planted models
    python -m edge_circuits.benchmarks.faithfulness --tasks ioi --methods eap relp random --intervention mean
    python -m edge_circuits.benchmarks.faithfulness --model DIRECTORY --tasks sort        # any model, see edge_circuits.benchmarks.problems.any_model
    python -m edge_circuits.benchmarks.faithfulness --out results/faithfulness            # tables and pictures as files too

1. Every method scores the edges on training prompts, and circuits of ten sizes are cut from its scores.
2. They run on held-out prompts: faithfulness over size, with the areas CPR and CMD (`edge_circuits.graphs.measures.curves`).
3. The figures and their intervals are told as a table; with `--out` as text, CSV, JSON and a picture a case. Then scores are
   kept as they come, and a command that was stopped goes on when it is given again.

The table goes to standard output, all else that is told to standard error. Files are written whole or not at all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from edge_circuits.benchmarks.faithfulness import report as faithfulness_report
from edge_circuits.benchmarks.faithfulness.cases import Case, cases, find
from edge_circuits.benchmarks.faithfulness.report import Result
from edge_circuits.benchmarks.problems.known_circuits import PLANTED
from edge_circuits.eap.methods.lookup import known
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.measures.quality import measure
from edge_circuits.graphs.running.patching import Intervention

DEFAULT_METHODS = ("eap", "relp", "eap-ig", "exact", "random")
SCORES = "scores"  # folder in --out for scores so far
STOPPED, REFUSED = 130, 2  # exit statuses


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the result is the exit status."""
    given = _parser().parse_args(arguments)
    try:
        if given.out is not None:
            _make_folder(given.out)
        results = _results(given)
        print(faithfulness_report.text(results), flush=True)
        if given.out is not None:
            _write(results, given)
    except ValueError as error:
        print(f"edge_circuits.benchmarks.faithfulness: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        kept = (
            "nothing is kept"
            if given.out is None
            else f"scores are kept in {given.out / SCORES}, and the same command goes on"
        )
        print(f"\nstopped; {kept}", file=sys.stderr)
        return STOPPED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m edge_circuits.benchmarks.faithfulness", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--model", default=PLANTED, help="planted (the default), a hub name such as gpt2, or a directory")
    add(
        "--tasks",
        nargs="+",
        help="ioi, docstring, greater_than, sort, text; by default all planted ones, else text, without tokenizer sort",
    )
    add(
        "--methods",
        nargs="+",
        default=DEFAULT_METHODS,
        help=f"of {', '.join(known())}; by default {', '.join(DEFAULT_METHODS)}",
    )
    add("--metric", help="name in edge_circuits.graphs.metrics; by default each task's own")
    add(
        "--intervention",
        default="patching",
        help=f"what a cut edge reads: {', '.join(get_args(Intervention))} (patching)",
    )
    add("--n-prompts", type=int, default=100, help="prompts of each task to score on, and as many to measure on (100)")
    add("--seed", type=int, default=0, help="of prompts, bootstrap and random scores (0)")
    add("--text", type=Path, help="file of prompts for the task text; by default the model writes them")
    add("--weights", type=Path, help="folder with weights of planted models; by default those shipped")
    add("--device", help="of a model that is not planted; by default cuda where there is one")
    add("--out", type=Path, help="folder for tables and pictures")
    add("--quiet", action="store_true", help="no progress bar and no notes, the tables alone")
    return parser


def _make_folder(folder: Path) -> None:
    """Make the folder before any work, so that the work is not lost for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: cannot make the folder {folder}: {error}") from error


def _results(given: argparse.Namespace) -> list[Result]:
    """Everything that was asked for."""
    methods = tuple(dict.fromkeys(given.methods))
    if unknown := [name for name in methods if name not in known()]:
        raise ValueError(f"--methods: expected some of {', '.join(known())}, came {unknown[0]!r}")
    if given.intervention not in get_args(Intervention):
        raise ValueError(
            f"--intervention: expected one of {', '.join(get_args(Intervention))}, came {given.intervention!r}"
        )
    asked = dict(n_prompts=given.n_prompts, seed=given.seed, metric=given.metric, text=given.text)
    found = cases(given.model, given.tasks, **asked, weights=given.weights, device=given.device, quiet=given.quiet)
    with tqdm(total=len(found) * len(methods), unit="method", disable=given.quiet, leave=False) as bar:
        return [_result(case, methods, given, bar) for case in found]


def _result(case: Case, methods: Sequence[str], given: argparse.Namespace, bar: tqdm) -> Result:
    """All methods in one case; a method that cannot be asked is left out with its reason."""
    known = (
        None if case.known is None else measure(case.model, case.known, case.test, case.metric, given.intervention)[0]
    )
    folder = None if given.out is None else given.out / SCORES
    rows, left_out = [], {}
    for method in methods:
        bar.set_description(f"{case.name}, {method}")
        try:
            rows.append(find(case, method, given.intervention, given.seed, folder=folder))
        except ValueError as error:
            left_out[method] = str(error)
        bar.update()
    return Result(case, given.intervention, given.seed, known, rows, left_out)


def _write(results: Sequence[Result], given: argparse.Namespace) -> None:
    """All files, tables first."""
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items() if name != "out"
    }
    write_whole(given.out / "faithfulness.txt", (faithfulness_report.text(results) + "\n").encode())
    write_whole(given.out / "faithfulness.csv", faithfulness_report.as_csv(results).encode())
    write_whole(given.out / "faithfulness.json", faithfulness_report.as_json(results, settings).encode())
    notes = [_draw(results, given.out), f"tables and pictures are in {given.out}"]
    if not given.quiet:
        print("\n".join(filter(None, notes)), file=sys.stderr)


def _draw(results: Sequence[Result], folder: Path) -> str:
    """A picture of each case; returns what the user should know."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "no pictures: matplotlib is not installed; pip install 'edge-circuits[plots]'"
    from edge_circuits.benchmarks.faithfulness.plots import plot_case

    for result in results:
        if result.rows:
            plot_case(result, folder / f"faithfulness-{result.case.stem}.png")
    return ""
