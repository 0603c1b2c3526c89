"""`edge-circuits map`: where in layers and positions nodes matter, drawn, and how far estimates agree with exact patching."""

from __future__ import annotations

import argparse

from edge_circuits.command import setting
from edge_circuits.eap.position_map import position_map
from edge_circuits.graphs.checks import whole_number


def draw_map(given: argparse.Namespace) -> None:
    """The maps of one prompt, or over the spans of all prompts of a file."""
    setting.check_out(given.out.parent)
    problem = setting.opened(given)
    chosen = whole_number("--prompt", given.prompt, 0, len(problem.pairs) - 1)
    pairs = problem.pairs if problem.pairs.spans is not None else problem.pairs[[chosen]]
    tokenizer = setting.tokenizer_of(problem)
    found = position_map(problem.model, pairs, problem.metric, given.methods, tokenizer=tokenizer, quiet=given.quiet)
    setting.folder_for(given.out.parent)
    found.save(given.out, f"{problem.name}, {problem.metric_name}; blue: cutting it lowers the metric")
    setting.note(given, f"written: {given.out}")
    print(found.table())
