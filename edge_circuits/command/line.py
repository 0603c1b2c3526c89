"""`main`: the words of the command line to the function that does what they ask; errors and warnings in one line."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from edge_circuits.command.options import STUDIES, parser

REFUSED, STOPPED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the result is the exit status: 0, 1 where something was found wrong, 2 where the command was refused."""
    words = list(sys.argv[1:] if argv is None else argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
        return _run(words)


def _run(words: list[str]) -> int:
    try:
        if words and words[0] in STUDIES:
            return import_module(STUDIES[words[0]][0]).main(words[1:], prog=f"edge-circuits {words[0]}")
        given = parser().parse_args(words)
        given.command = shlex.join(["edge-circuits", *words])
        module, function = given.work.split(":")
        return getattr(import_module(f"edge_circuits.command.{module}"), function)(given) or 0
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except (ValueError, RuntimeError) as error:
        told = str(error)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return STOPPED
    print(f"edge-circuits {words[0]}: {' '.join(told.split())}", file=sys.stderr)
    return REFUSED
