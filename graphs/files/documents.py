"""JSON documents: bounded when they are read, with a digest that says whether they are as they were written.

The digest is of all other entries in their order, as `json.dumps` writes them. So blanks and line ends do not matter, and
one changed character of the content does.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.files.digest import digest_of

_LIBRARIES = ("edge-circuits", "torch", "transformer-lens", "transformers")

MOST_LEVELS = 64  # of lists and dicts within one another


@contextmanager
def reading(path: str | os.PathLike[str], remedy: str = "copy or save it again") -> Iterator[None]:
    """Within it, whatever a damaged or foreign file raises becomes a `ValueError` that names the file.

    A file that is missing or forbidden keeps its own error, which names it.

    Args:
        path: The file.
        remedy: What to do with it.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise refusal(str(path), "UTF-8 text", f"other bytes ({error})", "save the file as UTF-8") from error
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}" + ("" if "; " in str(error) else f"; {remedy}")) from error
    except Exception as error:  # readers of foreign bytes raise almost anything
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.filename is not None):
            raise
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise refusal(str(path), "a whole file", f"one that cannot be read ({reason})", remedy) from error


def parsed(content: bytes | str) -> Any:
    """What a JSON text says; no deeper than `MOST_LEVELS`.

    Raises:
        ValueError: It is not JSON, or goes deeper.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, got a torn or other file ({error})") from error
    _check_depth(value)
    return value


def json_types(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as it comes back from JSON: tuples are lists, keys are texts.

    Raises:
        ValueError: An entry does not fit; the message names it.
    """
    for name, entry in metadata.items():
        if not isinstance(name, str):
            raise refusal("metadata", "texts as keys", repr(name))
        try:
            parsed(json.dumps(entry, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise refusal(
                f"metadata[{name!r}]", "texts, finite numbers, lists and dicts of them", f"another value ({error})"
            ) from error
    return parsed(json.dumps(dict(metadata)))


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that are installed, without importing them."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A document with its digest as the last entry."""
    return {**content, "digest": _digest(content)}


def check_seal(content: dict[str, Any]) -> None:
    """Compare a document with its digest.

    Raises:
        ValueError: They differ, or there is none.
    """
    rest = {name: value for name, value in content.items() if name != "digest"}
    if content.get("digest") != (found := _digest(rest)):
        got = f"{content.get('digest')!r}, so it was changed after it was written"
        raise refusal('"digest"', f"{found} by what else the file holds", got)


def warn_without_digest() -> None:
    """Say that a file is of a version that had no digest."""
    warnings.warn(
        "a file of an older version has no digest, so nothing shows whether it was changed after it was written; "
        "save what it holds again",
        stacklevel=6,
    )


def _digest(content: dict[str, Any]) -> str:
    return digest_of(json.dumps(content, allow_nan=False))


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(f"expected at most {MOST_LEVELS} lists and dicts within one another, got more")


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
