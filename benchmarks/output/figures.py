"""What all pictures share: sizes in inches, colours of methods, and how a figure is written. Needs matplotlib, imported on use."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_circuits.eap.methods.lookup import known
from edge_circuits.graphs.files.atomic import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a5a9e", "#7f5539", "#333333")
GREY = "#999999"
DPI = 130
COLUMNS = 3  # of panels
FORMATS = ("png", "svg", "pdf")
MISSING = "no pictures: matplotlib is not installed; pip install 'edge-circuits[benchmarks]'"


def can_draw() -> bool:
    """Whether matplotlib is there; `MISSING` says what to do where it is not."""
    return find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches.

    Raises:
        ImportError: There is no matplotlib.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(
    shown: Sequence[Any], draw: Callable[[Axes, Any], None], width: float, height: float, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each of what is shown, three in a row.

    Args:
        draw: Draws one of them.
        width: Of a panel.
        height: Of a panel.
        shared: For `Figure.subplots`.
    """
    n_columns, n_rows = min(COLUMNS, len(shown)), -(-len(shown) // COLUMNS)
    figure = new_figure(width * n_columns, height * n_rows + 0.4)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **shared).flatten().tolist()
    for one, each in zip(axes, shown):
        draw(one, each)
    for one in axes[len(shown) :]:
        one.set_visible(False)
    return figure, axes


def write_figure(figure: Figure, path: Path, title: str | None = None) -> Path:
    """Write a figure whole, in the format of the path's ending; the same figure gives the same bytes."""
    from matplotlib import rc_context

    if title is not None:
        figure.suptitle(title, fontsize=12)
    ending, out = path.suffix.removeprefix("."), io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending, {})
    with rc_context({"svg.hashsalt": "edge-circuits"}):
        figure.savefig(out, format=ending, dpi=DPI, metadata=metadata)
    return write_whole(path, out.getvalue())


def colour_of(method: str) -> str:
    """A method's colour, the same in every picture; grey for random scores."""
    if method == "random":
        return GREY
    names = [name for name in known() if name != "random"]
    return PALETTE[(names.index(method) if method in names else len(names) + len(method)) % len(PALETTE)]


def finish(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Words beside the axes, and no frame at the top and the right."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
