"""Checks of arguments, and the one form of their errors: "NAME: expected WHAT, got WHAT; WHAT TO DO".

Each check gives the value back, as a plain Python number where it is one, or raises a `ValueError`. Here and elsewhere a function
that is said to refuse something raises one, which says what came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeVar

Choice = TypeVar("Choice", bound=str)


def refusal(name: str, expected: str, got: object, remedy: str = "") -> ValueError:
    """The error of an argument that cannot be used: "NAME: expected WHAT, got WHAT; WHAT TO DO".

    Args:
        name: The argument as its caller knows it, e.g. "k" or "pairs[3].answers".
        expected: What it has to be, e.g. "a whole number from 0".
        got: What it is, in words; a text is taken as it is, so give `repr(value)` for a value.
        remedy: What to do; empty where that is plain.
    """
    return ValueError(f"{name}: expected {expected}, got {got}" + (f"; {remedy}" if remedy else ""))


def whole_number(name: str, value: Any, least: int = 0, most: int | None = None, remedy: str = "") -> int:
    """A whole number from `least`, up to `most` where that is given; no bool, and no float that is whole.

    Raises:
        ValueError: It is something else.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        expected = f"a whole number from {least}" + ("" if most is None else f" to {most}")
        raise refusal(name, expected, repr(value), remedy)
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    above: int | float | None = None,
    least: int | float | None = None,
    below: int | float | None = None,
    most: int | float | None = None,
    remedy: str = "",
) -> float:
    """A finite number within bounds: `above` and `below` are not part of the range, `least` and `most` are.

    Raises:
        ValueError: It is something else; no bool.
    """
    fits = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    fits = fits and (above is None or value > above) and (least is None or value >= least)
    fits = fits and (below is None or value < below) and (most is None or value <= most)
    if not fits:
        bounds = {"above": above, "from": least, "below": below, "up to": most}
        words = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        raise refusal(name, " ".join(["a finite number", " and ".join(words)]).rstrip(), repr(value), remedy)
    return float(value)


def share(name: str, value: Any) -> float:
    """A share of something: a number above 0 and up to 1.

    Raises:
        ValueError: It is something else.
    """
    return number(name, value, above=0, most=1)


def between_0_and_1(name: str, value: Any) -> float:
    """A number above 0 and below 1, such as a confidence.

    Raises:
        ValueError: It is something else.
    """
    return number(name, value, above=0, below=1)


def choice(name: str, value: Any, choices: Iterable[Choice], remedy: str = "") -> Choice:
    """One of several words.

    Raises:
        ValueError: It is another; the message lists them.
    """
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise refusal(name, f"one of {', '.join(map(repr, choices))}", repr(value), remedy)
    return value


def flag(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, bool):
        raise refusal(name, "True or False", repr(value))
    return value


def described(value: object) -> str:
    """What a value is, for an error: the dtype and shape of a tensor, else the name of its type."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"{dtype} of shape {tuple(shape)}"
