"""Circuits of transformers: what they are, and how a model runs as one.

    from graphs import Graph, PromptPairs, prune, render, run

nodes, graph (the immutable topology) <- scores <- circuit, pruning <- files and drawing; the model adapter and what
cutting an edge means. Names are imported on first use, so that `import graphs` is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphs.circuit import Circuit
    from graphs.drawing import render
    from graphs.execution import run
    from graphs.graph import Graph
    from graphs.pairs import PromptPairs
    from graphs.pruning import prune
    from graphs.scores import ScoredGraph

__all__ = ["Circuit", "Graph", "PromptPairs", "ScoredGraph", "prune", "render", "run"]

_FILES = {
    "Circuit": "circuit",
    "Graph": "graph",
    "PromptPairs": "pairs",
    "ScoredGraph": "scores",
    "prune": "pruning",
    "render": "drawing",
    "run": "execution",
}


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
