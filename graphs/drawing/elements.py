"""What all drawings in SVG are made of: the document on white, and a line of text in it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from edge_circuits.graphs.drawing.looks import INK, printable


def document(width: float | int, height: float | int, font_size: int, lines: Iterable[str], unit: str = "") -> str:
    """The text of an SVG file.

    Args:
        width: In units of the drawing, and in `unit` ("pt"; "" for pixels) on the page.
        height: The same.
        font_size: Of texts that say nothing else.
        lines: What is drawn, from the back to the front.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}{unit}" height="{height:.0f}{unit}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif" font-size="{font_size}">'
    )
    return "\n".join([head, f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>', *lines, "</svg>", ""])


def text_at(
    place: tuple[float | int, float | int], text: str, colour: str = INK, *, size: int = 12, anchor: str = "start"
) -> str:
    """A line of text whose baseline starts (or has its "middle" or "end") at a place."""
    x, y = place
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">'
        f"{escape(printable(text))}</text>"
    )
