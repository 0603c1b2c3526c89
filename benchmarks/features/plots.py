"""Faithfulness and completeness of feature circuits over the number of nodes, as a picture. Needs matplotlib, imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from edge_circuits.benchmarks.output.figures import GREY, PALETTE, finish, new_figure, write_figure

if TYPE_CHECKING:
    from edge_circuits.benchmarks.features.study import Result

FAINT = 0.25


def plot_curves(results: Sequence[Result], path: Path) -> Path:
    """A column for each granularity, faithfulness above completeness: thin for each structure, bold for their mean."""
    granularities = list(dict.fromkeys(result.granularity for result in results))
    methods = list(dict.fromkeys(result.method for result in results))
    figure = new_figure(5.2 * len(granularities), 7.2)
    axes = figure.subplots(2, len(granularities), squeeze=False, sharex=True, sharey="row")
    for column, granularity in enumerate(granularities):
        for row, measure in enumerate(("faithfulness", "completeness")):
            one = axes[row][column]
            for method, colour in zip(methods, PALETTE):
                group = [r for r in results if (r.granularity, r.method) == (granularity, method)]
                curves = [getattr(result.curve, measure) for result in group]
                for result, curve in zip(group, curves):
                    one.plot(result.asked_sizes, curve, color=colour, alpha=FAINT, linewidth=0.9)
                mean = torch.stack(curves).mean(0)
                one.plot(group[0].asked_sizes, mean, color=colour, label=method, marker="o", markersize=3.5)
            one.axhline(1 if measure == "faithfulness" else 0, color=GREY, linewidth=0.8)
            one.set_xscale("log")
            finish(one, "nodes" if row else "", measure if column == 0 else "")
        axes[0][column].set_title(granularity, fontsize=11)
    axes[0][0].legend(frameon=False, fontsize=9)
    return write_figure(figure, path)
