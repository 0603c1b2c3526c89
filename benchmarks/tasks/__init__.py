"""Tasks: prompt sets for which a circuit is known, one file each.

    task = load("ioi")
    pairs = task.pairs(tokenizer, 100)                            # clean and corrupted prompts with answers
    pairs = task.pairs(tokenizer, 100, variant="mib", split="test")
    small = task.word_pairs(1000, variant="random")               # the same task with a small word-level vocabulary

A file of this folder that defines `TASK` (a `edge_circuits.benchmarks.tasks.task.Task`) is a task and is found by its file name:
to add one, add one file.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from edge_circuits.graphs.checks import choice

if TYPE_CHECKING:
    from edge_circuits.benchmarks.tasks.task import Task


def load(name: str) -> Task:
    """The task of that file name, e.g. `load("ioi")`.

    Raises:
        ValueError: There is no such task.
    """
    return importlib.import_module(f"{__name__}.{choice('task', name, names())}").TASK


def names() -> tuple[str, ...]:
    """All tasks, sorted."""
    files = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(file for file in files if hasattr(importlib.import_module(f"{__name__}.{file}"), "TASK")))
