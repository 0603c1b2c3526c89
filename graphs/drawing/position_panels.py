"""Maps of layers and positions side by side, in SVG: layers upwards, positions to the right.

Blue says that cutting the node there lowers the metric (it helps), orange that it raises it; each panel is as dark as its own
largest |value|, which its title tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.drawing.elements import document
from edge_circuits.graphs.drawing.heat_map import BLUE, shade
from edge_circuits.graphs.drawing.looks import FAINT_INK, INK, printable

ORANGE = (213, 94, 0)

_CELL, _HEIGHT, _MARGIN, _LABEL, _LETTER = 18, 14, 16, 22, 6.2
_LONGEST = 14  # letters of a position's label


class Panel(NamedTuple):
    """One map.

    Attributes:
        title: A line above.
        values: Positive: cutting the node there raises the metric. [layer pos]
    """

    title: str
    values: Float[Tensor, "layer pos"]


def panels_svg(rows: Sequence[Sequence[Panel]], positions: Sequence[str], title: str) -> str:
    """The text of an SVG file with rows of panels, that share their positions; finite values."""
    n_layers = rows[0][0].values.shape[0]
    texts = [_shortened(text) for text in positions]
    below = 12 + 0.8 * _LETTER * max(map(len, texts))
    longest = max(len(_heading(panel)) for row in rows for panel in row)
    pitch = _MARGIN + max(_LABEL + _CELL * len(texts), _LETTER * longest)
    step = 24 + _HEIGHT * n_layers + below + _MARGIN
    width, height = pitch * max(map(len, rows)) + _MARGIN, 2 * _MARGIN + 16 + step * len(rows)
    lines = [f'<text x="{_MARGIN}" y="{_MARGIN + 8}" fill="{INK}" font-size="13">{escape(printable(title))}</text>']
    for down, row in enumerate(rows):
        for right, panel in enumerate(row):
            place = f"translate({_MARGIN + right * pitch:.1f} {2 * _MARGIN + 16 + down * step:.1f})"
            lines.append(f'<g transform="{place}">\n{_panel(panel, texts)}\n</g>')
    return document(width, height, 10, lines)


def _heading(panel: Panel) -> str:
    return f"{panel.title}, largest {panel.values.abs().max().item():.3g}"


def _panel(panel: Panel, texts: Sequence[str]) -> str:
    largest, n_layers = panel.values.abs().max().item() or 1.0, len(panel.values)
    lines = [f'<text y="8" fill="{INK}">{escape(_heading(panel))}</text>']
    for layer, row in enumerate(panel.values.tolist()):
        y = 14 + _HEIGHT * (n_layers - 1 - layer)
        if layer % (1 if n_layers <= 16 else 4) == 0:
            lines.append(f'<text y="{y + 11}" fill="{FAINT_INK}">{layer}</text>')
        for at, value in enumerate(row):
            lines.append(
                f'<rect x="{_LABEL + _CELL * at}" y="{y}" width="{_CELL - 1}" height="{_HEIGHT - 1}" '
                f'fill="{shade(abs(value) / largest, ORANGE if value > 0 else BLUE)}">'
                f"<title>layer {layer}, {escape(texts[at])}  {value:.4g}</title></rect>"
            )
    bottom = 14 + _HEIGHT * n_layers + 8
    for at, text in enumerate(texts):
        turn = f"translate({_LABEL + _CELL * at + 9} {bottom}) rotate(-60)"
        lines.append(f'<text transform="{turn}" text-anchor="end" fill="{FAINT_INK}">{escape(text)}</text>')
    return "\n".join(lines)


def _shortened(text: str) -> str:
    text = printable(text).strip() or "_"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
