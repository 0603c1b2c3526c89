"""What all studies share: their options, one form of errors, and how results are told and kept.

A study says its name, the shared options it takes (`OPTIONS`), those it adds, and its work:

    STUDY = Study("roc", "How well methods find known circuits.", (*PROBLEM, *FILES), add, work)
    main, parser = STUDY.main, STUDY.parser

Tables go to standard output, all else that is told to standard error. With `--out` tables are written too, and what has been
scored is kept in `DIR/.partial`, so a run that was stopped goes on there; `--fresh` forgets it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from edge_circuits.benchmarks.output.figures import FORMATS, MISSING, can_draw
from edge_circuits.benchmarks.output.provenance import code_digest, settings_of
from edge_circuits.benchmarks.output.tables import write_results
from edge_circuits.benchmarks.problems.opening import DTYPES
from edge_circuits.benchmarks.problems.problem import PLANTED, Problem
from edge_circuits.benchmarks.problems.selection import N_PROMPTS, Asked, open_problems
from edge_circuits.graphs.checks import refusal, whole_number
from edge_circuits.graphs.running.patching import Word

DONE, DIFFERS, REFUSED, STOPPED = 0, 1, 2, 130  # exit statuses
PARTIAL = ".partial"  # within the folder for results
OPTIONS: dict[str, dict[str, Any]] = {
    "--model": dict(
        nargs="+",
        default=[PLANTED],
        help="planted (the default), planted:1 of another training, trained, hub names such as gpt2, or directories",
    ),
    "--tasks --task": dict(
        nargs="+",
        help="ioi, docstring, greater_than, sort, text; by default those that the study can use with the model",
    ),
    "--prompts": dict(type=Path, help="CSV or JSON Lines file of your own prompts, in the tasks' place"),
    "--circuit": dict(type=Path, help="a saved circuit, as the known one"),
    "--metric": dict(help="name in edge_circuits.graphs.metrics; by default each task's own"),
    "--intervention": dict(default="patching", choices=get_args(Word), help="what a cut edge reads (patching)"),
    "--n-prompts": dict(type=int, help=f"prompts of each task ({N_PROMPTS}); of a file all by default"),
    "--seed": dict(type=int, default=0, help="of prompts, bootstrap and random scores (0)"),
    "--text": dict(type=Path, help="file that the task text takes its prompts from; by default the model writes them"),
    "--variant": dict(help="whose prompts, of a model that is not planted, e.g. mib; by default ACDC's"),
    "--edge-set": dict(help="whose edge set is the circuit of a model that is not planted; by default ACDC's"),
    "--weights": dict(type=Path, help="folder with weights of planted models; by default those shipped"),
    "--device": dict(help="by default cuda where there is one; planted models stay on the CPU"),
    "--dtype": dict(default="float32", choices=DTYPES, help="of the weights (float32)"),
    "--out": dict(type=Path, help="folder for tables, pictures and what was scored so far"),
    "--format": dict(choices=FORMATS, default="png", help="of pictures (png)"),
    "--resume": dict(action="store_true", default=True, help="use what was scored before in --out (the default)"),
    "--fresh": dict(action="store_true", help="forget what was scored before in --out"),
    "--quiet": dict(action="store_true", help="no progress bar and no notes, the tables alone"),
}
PROBLEM = ("model", "tasks", "prompts", "circuit", "n-prompts", "seed", "text", "variant", "edge-set", "weights")
PROBLEM += ("device", "dtype")
FILES = ("out", "format", "resume", "fresh", "quiet")


@dataclass(frozen=True)
class Study:
    """A study as a command.

    Attributes:
        name: By which it is called: `python -m edge_circuits.benchmarks.NAME`.
        summary: What it shows, in a sentence.
        shared: Names in `OPTIONS`, without dashes in front.
        add: Adds the study's own options to a parser.
        work: Does it all; gives the exit status, None for 0.
        defaults: Of shared options, where they are the study's own.
    """

    name: str
    summary: str
    shared: Sequence[str]
    add: Callable[[argparse.ArgumentParser], None]
    work: Callable[[argparse.Namespace], int | None]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def parser(self, prog: str | None = None) -> argparse.ArgumentParser:
        """Its options."""
        called = prog or f"python -m edge_circuits.benchmarks.{self.name}"
        parser = argparse.ArgumentParser(prog=called, description=self.summary)
        for names, settings in OPTIONS.items():
            flags = names.split()
            if flags[0][2:] in self.shared:
                parser.add_argument(*flags, **settings)
        self.add(parser)
        parser.set_defaults(**self.defaults)
        return parser

    def main(self, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
        """Run it; the result is the exit status.

        Args:
            argv: The words of the command line; None: those of this process.
            prog: What the command is called; None: `python -m` and the module.
        """
        given = self.parser(prog).parse_args(argv)
        out = getattr(given, "out", None)
        is_new = out is not None and not out.exists()
        try:
            if out is not None:
                _make_folder(out)  # before any work, so that the work is not lost for it
            return self.work(given) or DONE
        except ValueError as error:
            if is_new and out.is_dir() and not any(out.iterdir()):
                out.rmdir()
            print(f"{prog or f'edge_circuits.benchmarks.{self.name}'}: {error}", file=sys.stderr)
            return REFUSED
        except KeyboardInterrupt:
            kept = "what is finished is kept, and the same command goes on from there"
            print(f"\nstopped; {kept if out else 'with --out DIR the next run would go on from here'}", file=sys.stderr)
            return STOPPED


def problems_of(given: argparse.Namespace, **asked: Any) -> list[Problem]:
    """All problems that the shared options ask for, model by model.

    Raises:
        ValueError: As `open_problems`, or two models with one name.
    """
    named = {each.name: getattr(given, each.name) for each in fields(Asked) if hasattr(given, each.name)}
    problems = [one for model in given.model for one in open_problems(model, given.tasks, **named | asked)]
    stems = [problem.stem for problem in problems]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        expected = "models with different names, since files are named after them"
        raise refusal("--model", expected, f"{', '.join(twice)} twice")
    return problems


def n_measured(given: argparse.Namespace) -> int:
    """How many prompts are held out to measure on: as many as edges are scored on.

    Raises:
        ValueError: Fewer than two.
    """
    n = N_PROMPTS if given.n_prompts is None else given.n_prompts
    return whole_number("--n-prompts", n, 2, remedy="an interval needs two")


@contextmanager
def parts_of(given: argparse.Namespace) -> Iterator[Path]:
    """The folder for what is scored by this version of the code, kept with `--out`, else for this run alone."""
    if given.out is None:
        with TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    if given.fresh:
        shutil.rmtree(given.out / PARTIAL, ignore_errors=True)
    folder = given.out / PARTIAL / code_digest()
    if folder.exists():
        note(given, "what an earlier run has scored is used")
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    _make_folder(folder)
    try:
        yield folder
    except BaseException:
        for each in new:  # those that hold something stay
            with suppress(OSError):
                each.rmdir()
        raise


def tell(given: argparse.Namespace, stem: str, text: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Print a text, and with `--out` write it and the rows (`write_results`)."""
    print(text, flush=True)
    if given.out is not None:
        write_results(given.out, stem, text, rows, settings_of(given), **more)


def draws(given: argparse.Namespace) -> bool:
    """Whether pictures are to be drawn; says so where they are wanted and matplotlib is missing."""
    if given.out is None or can_draw():
        return given.out is not None
    note(given, MISSING)
    return False


def note(given: argparse.Namespace, *messages: str) -> None:
    """Tell the user something beside the results."""
    if not given.quiet:
        for message in messages:
            print(message, file=sys.stderr)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal("--out", "a folder that can be made", f"{folder}: {error.strerror}") from error
