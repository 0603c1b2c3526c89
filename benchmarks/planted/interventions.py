"""Under which interventions planted circuits are true: `python -m edge_circuits.benchmarks.planted.interventions`.

The three checks of `verify` for every circuit under every intervention, and the share of the whole model's accuracy that the circuit
alone keeps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_circuits.benchmarks.output.tables import table
from edge_circuits.benchmarks.planted import NAMES, load
from edge_circuits.benchmarks.planted.model import FOUR
from edge_circuits.benchmarks.planted.verify import SEED, Verification, verify
from edge_circuits.benchmarks.study import Study, tell

N_PROMPTS = 256
LEGEND = """\
true: all three checks of planted.verify; else the checks that fail. Behind it the circuit's accuracy over the whole model's."""


def checked(
    names: Sequence[str], n_prompts: int = N_PROMPTS, folder: Path | None = None, quiet: bool = False
) -> Iterator[tuple[str, Verification]]:
    """Intervention and checks, circuit by circuit."""
    for name in names:
        planted = load(name, folder)
        for intervention in FOUR:
            yield intervention, verify(planted, n_prompts, SEED, intervention, quiet)


def row(intervention: str, result: Verification) -> dict[str, Any]:
    """One circuit under one intervention, under flat names."""
    checks = (result.circuit_answers, result.each_edge_matters, result.nothing_else_matters)
    return {
        "task": result.task.name,
        "intervention": intervention,
        "trained": intervention in result.task.interventions,
        "failed": [number for number, passed in enumerate(checks, 1) if not passed],
        "accuracy": result.accuracy,
        "kept": result.circuit_accuracy / result.accuracy,
    }


def text(rows: Sequence[dict[str, Any]]) -> str:
    """A line a circuit, a column an intervention."""
    lines: dict[str, list[str]] = {}
    for one in rows:
        cells = lines.setdefault(one["task"], [f"{one['accuracy']:.0%}"])
        verdict = "true" if not one["failed"] else f"not {', '.join(map(str, one['failed']))}"
        cells.append(f"{verdict} {one['kept']:.2f}")
    names = dict.fromkeys(one["intervention"] for one in rows)
    return f"{table(['circuit', 'accuracy', *names], [[name, *cells] for name, cells in lines.items()])}\n{LEGEND}"


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--prompts", type=int, default=N_PROMPTS, help=f"how many held-out prompts ({N_PROMPTS})")


def _work(given: argparse.Namespace) -> None:
    rows = [row(*each) for each in checked(given.tasks, given.prompts, given.weights, given.quiet)]
    tell(given, "interventions", text(rows), rows)


STUDY = Study(
    "planted.interventions",
    "Under which interventions planted circuits are true.",
    ("weights", "out", "quiet"),
    _add,
    _work,
)
main, parser = STUDY.main, STUDY.parser

if __name__ == "__main__":
    raise SystemExit(main())
