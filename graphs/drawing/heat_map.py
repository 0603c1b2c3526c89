"""A number for every head as a grid of layers and heads, in SVG: layers upwards, heads to the right, the darker the larger."""

from __future__ import annotations

from html import escape

from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.drawing.elements import document
from edge_circuits.graphs.drawing.looks import FAINT_INK, INK, printable

_CELL, _MARGIN, _LABEL = 22, 14, 26
BLUE = (0, 68, 136)


def heat_map_svg(values: Float[Tensor, "layer head"], title: str) -> str:
    """The text of an SVG file.

    Args:
        values: From 0 up, finite; the largest is darkest. [layer head]
        title: A line above, that says what the numbers are.
    """
    n_layers, n_heads = values.shape
    largest = values.max().item() or 1.0
    width = max(_LABEL + _CELL * n_heads + 2 * _MARGIN, 8 * len(title) + 2 * _MARGIN)
    top = _MARGIN + 24
    height = top + _CELL * n_layers + 34 + _MARGIN
    lines = [f'<text x="{_MARGIN}" y="{_MARGIN + 8}" fill="{INK}" font-size="14">{escape(printable(title))}</text>']
    for layer, row in enumerate(values.tolist()):
        y = top + _CELL * (n_layers - 1 - layer)
        lines.append(f'<text x="{_MARGIN}" y="{y + 15}" fill="{FAINT_INK}">{layer}</text>')
        for head, value in enumerate(row):
            x = _MARGIN + _LABEL + _CELL * head
            lines.append(
                f'<rect x="{x}" y="{y}" width="{_CELL - 1}" height="{_CELL - 1}" fill="{shade(value / largest)}">'
                f"<title>a{layer}.h{head}  {value:.4g}</title></rect>"
            )
    below = top + _CELL * n_layers + 14
    heads = range(0, n_heads, 1 if n_heads <= 16 else 4)
    lines += [
        f'<text x="{_MARGIN + _LABEL + _CELL * head + 3}" y="{below}" fill="{FAINT_INK}">{head}</text>'
        for head in heads
    ]
    lines.append(f'<text x="{_MARGIN}" y="{below + 18}" fill="{FAINT_INK}">layer upwards, head to the right</text>')
    return document(width, height, 11, lines)


def shade(share: float, dark: tuple[int, int, int] = BLUE) -> str:
    """From white to dark, as `#rrggbb`."""
    return "#" + "".join(f"{round(255 - share * (255 - channel)):02x}" for channel in dark)
