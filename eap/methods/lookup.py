"""Methods by name: `find("relp")`, `find("relp:attention=ah,reader=norm")`, and a method itself for itself.

Every class of methods in a file of this folder is there, under its short names; nothing else lists them.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from edge_circuits.eap import methods
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs.checks import choice

ELSEWHERE = {"eap-ig-inputs": "eap-ig", "edge-relp": "relp"}  # what other tools and papers call them


@cache
def known() -> dict[str, Method]:
    """The method of every short name: gradients first, then those without a sign or metric, slow ones last; short names first."""
    found: dict[str, Method] = {}
    for file in pkgutil.iter_modules(methods.__path__):
        module = importlib.import_module(f"{methods.__name__}.{file.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Method) and kind.__module__ == module.__name__:
                found |= {name: kind(**settings) for name, settings in kind.short_names.items()}
    return dict(sorted(found.items(), key=lambda item: _place(*item)))


def find(method: str | Method) -> Method:
    """The method of a name, or the method that is given.

    Args:
        method: a short name, with settings behind a colon if they are not the usual: "eap-ig:steps=10,rule=midpoint".
            Capitals, underscores and spaces make no difference.

    Raises:
        ValueError: no such method, or a setting it does not have.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise ValueError(f"method: expected a name, or a method such as RelP(), got {method!r}")
    spelled = method.strip().lower().replace("_", "-").replace(" ", "-")
    name, _, rest = spelled.partition(":")
    name = ELSEWHERE.get(name, name)
    usual = known()[choice("method", name, known())]
    kind = type(usual)
    given = dict(kind.short_names[name])
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        given[key.replace("-", "_")] = _read(kind, name, key.replace("-", "_"), value)
    return kind(**given) if rest else usual


def _read(kind: type[Method], name: str, key: str, text: str) -> Any:
    """A setting from its text, in the type of its default."""
    usual = {field.name: field.default for field in fields(kind)}
    if key not in usual:
        raise ValueError(f"method {name!r} has no setting {key!r}; it has {', '.join(usual) or 'none'}.")
    type_of = get_type_hints(kind)[key]
    try:
        return type_of(text) if type_of in (int, float) else text
    except ValueError:
        expected = "a whole number" if type_of is int else "a number"
        raise ValueError(f"method {name!r}: expected {expected} for {key}, got {text!r}.") from None


def _place(name: str, method: Method) -> tuple[bool, bool, bool, int, str]:
    return method.slow, not method.needs_metric, not method.signed, len(name), name
