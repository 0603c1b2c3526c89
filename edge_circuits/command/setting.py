"""The model and the prompts that a command names, and what its results say of themselves."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_circuits.benchmarks import planted, trained
from edge_circuits.benchmarks.problems.problem import PLANTED, TRAINED, Problem
from edge_circuits.benchmarks.problems.selection import N_PROMPTS, open_problems
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.documents import parsed, reading
from edge_circuits.graphs.scores import ScoredGraph


def opened(given: argparse.Namespace) -> Problem:
    """The model with its prompts, those to find with and as many others to measure on; says how they are divided.

    Raises:
        ValueError: The model cannot be opened, or the prompts do not fit it.
    """
    shipped = {PLANTED: planted.NAMES, TRAINED: tuple(trained.tasks())}.get(given.model.split(":")[0])
    if shipped and given.task is None:
        expected = f"the task of the {given.model} model, one of {', '.join(shipped)}"
        raise refusal("--task", expected, "none", "or give --model")
    tasks = None if given.task is None else [given.task]
    n = given.n_prompts
    asked = dict(n_prompts=n, n_held_out=n or N_PROMPTS, seed=given.seed, metric=given.metric, prompts=given.prompts)
    found = open_problems(given.model, tasks, **asked, device=given.device, dtype=given.dtype, quiet=given.quiet)[0]
    graph = found.graph
    shape = f"{graph.n_layers} layers of {graph.n_heads} heads, {graph.n_edges:,} edges"
    halves = f"{len(found.pairs)} {found.prompts} to find with, {len(found.held_out)} held out to measure on"
    note(given, f"{found.name}: {shape}; {halves}, divided by seed {given.seed}")
    return found


def tokenizer_of(problem: Problem) -> Any:
    """What tells tokens as text; None for a model of token ids."""
    if problem.is_planted:
        return planted.planted_task(problem.task).task.word_tokenizer()
    if problem.model_name.split(":")[0] == TRAINED:
        return trained.tasks()[problem.task][0].tokenizer
    return getattr(problem.model, "tokenizer", None)


def load(path: Path) -> ScoredGraph | Circuit:
    """Saved scores or a saved circuit.

    Raises:
        ValueError: The file does not hold one.
        OSError: It cannot be read.
    """
    with reading(path):
        content = parsed(path.read_bytes())
    is_circuit = isinstance(content, dict) and content.get("kind") == "circuit"
    return Circuit.load(path) if is_circuit else ScoredGraph.load(path)


def told(
    value: ScoredGraph | Circuit, given: argparse.Namespace, problem: Problem | None = None
) -> ScoredGraph | Circuit:
    """The same value, which now tells the command that made it, and the prompts."""
    known = {**value.metadata, "command": given.command, "folder": os.getcwd()}
    if problem is not None:
        known |= {
            "model": problem.model_name,
            "task": problem.task,
            "prompts": problem.prompts,
            "prompts_digest": problem.pairs.digest,
        }
    if isinstance(value, ScoredGraph):
        return replace(value, metadata=known)
    return Circuit(value.graph, value.mask, value.scores, known, value.n_requested)


def save(value: ScoredGraph | Circuit, path: Path, given: argparse.Namespace) -> None:
    """Write a file, in a folder that is made for it, and say so."""
    folder_for(path.parent)
    value.save(path)
    note(given, f"written: {path}")


def write(path: Path, text: str) -> None:
    """Write a text, in a folder that is made for it."""
    folder_for(path.parent)
    write_whole(path, text.encode())


def folder_for(folder: Path) -> None:
    """Make a folder; called once there is something to write, so that a refusal leaves none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal("--out", "a place where a folder can be made", f"{folder}: {error.strerror}") from error


def check_out(out: Path) -> None:
    """Refuse, before any work, a place that cannot be written.

    Raises:
        ValueError: It lies below a file, or in a folder without the right to write.
    """
    nearest = next(each for each in (out.absolute(), *out.absolute().parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise refusal("--out", "a place where a folder can be made", str(out), f"{nearest} cannot be written into")


def note(given: argparse.Namespace, text: str) -> None:
    """Tell something beside the results."""
    if not given.quiet:
        print(text, file=sys.stderr)
