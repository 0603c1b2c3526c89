"""How drawings look: colours of edges, nodes and roles, and texts that any drawing can hold.

A role has its colour from its name, so it keeps it from picture to picture; among the roles of one picture no two are alike
while there are no more than `N_HUES`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from typing import Literal

from edge_circuits.graphs.files.digest import digest_of
from edge_circuits.graphs.signs import Effect

EdgePart = Literal["q", "k", "v", "mlp", "logits"]
Side = Literal["shared", "flipped", "here", "there"]

EDGE_COLOURS: dict[EdgePart, str] = {  # after Okabe and Ito: told apart with any kind of colour vision
    "q": "#d55e00",
    "k": "#0072b2",
    "v": "#009e73",
    "mlp": "#8a5a9e",
    "logits": "#333333",
}
EDGE_LABELS: dict[EdgePart, str] = {"q": "q", "k": "k", "v": "v", "mlp": "into an MLP", "logits": "into logits"}
SIDE_COLOURS: dict[Side, str] = {"shared": "#555555", "flipped": "#cc79a7", "here": "#d55e00", "there": "#0072b2"}
SIDE_LABELS: dict[Side, str] = {
    "shared": "in both",
    "flipped": "in both, helps in one and hurts in the other",
    "here": "only in the first",
    "there": "only in the second",
}
EFFECT_LABELS: dict[Effect, str] = {
    "helps": "helps: cutting it lowers the metric",
    "hurts": "hurts: cutting it raises the metric",
}
NODE_COLOURS = {"input": "#dddddd", "head": "#e9f1fb", "mlp": "#f3e6f7", "logits": "#dddddd"}
INK = "#222222"
FAINT_INK = "#777777"
N_HUES = 24


def role_colours(roles: Iterable[str]) -> dict[str, str]:
    """A light colour for each role, as `#rrggbb`."""
    colours: dict[str, str] = {}
    for role in sorted(set(roles)):
        place = int(digest_of(role), 16)
        free = (place + step for step in range(N_HUES) if _hue(place + step) not in colours.values())
        colours[role] = _hue(next(free, place))
    return colours


def _hue(place: int) -> str:
    red_green_blue = colorsys.hls_to_rgb(place % N_HUES / N_HUES, 0.86 if place % 2 else 0.79, 0.8)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in red_green_blue)


def printable(text: str) -> str:
    """A text without what XML and DOT cannot hold: control characters and halves of characters are blanks."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def short_name(text: str) -> str:
    """The last part of a path; of a Hugging Face model without a name, which TransformerLens calls external, the class."""
    text = text.removeprefix("external (").removesuffix(")") if text.startswith("external (") else text
    is_path = text.startswith(("/", ".", "~")) or text.count("/") > 1 or "\\" in text
    return text.replace("\\", "/").rstrip("/").rpartition("/")[2] if is_path else text
