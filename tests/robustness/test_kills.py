"""Processes that are killed at random moments: whatever they leave, the next one ends with the numbers of an undisturbed run.

`--kills N` kills N times a call.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import logit_difference, prompt_pairs, tiny

from edge_circuits import acdc, eap
from edge_circuits.acdc import algorithm
from edge_circuits.eap import checkpoint

PAIRS = prompt_pairs([6, 5, 6, 4], seed=5)


def scored(method: str, folder: Path | None) -> torch.Tensor:
    model = tiny("attention-only").model
    return eap.score(model, PAIRS, logit_difference, method, batch_size=1, checkpoint=folder, quiet=True).scores


def found(folder: Path | None) -> tuple[Any, ...]:
    model = tiny("attention-only").model
    trace = acdc.discover(model, PAIRS, logit_difference, 0.02, batch_size=2, checkpoint=folder, quiet=True).trace
    return trace.start_value, trace.edges, trace.values, trace.kept


CALLS: dict[str, Callable[[Path | None], Any]] = {
    "exact": lambda folder: scored("exact", folder),
    "eap": lambda folder: scored("eap", folder),
    "acdc": found,
}


def killed(call: Callable[[Path], Any], folder: Path, seconds: float) -> bool:
    """Make a call in a process of its own and kill it after some time; whether it was still on its way."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # threads do not live on in a fork
        call(folder)
        os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_was_killed_ends_as_if_it_had_not_been(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setattr(
        os, "fsync", lambda file: None
    )  # what was written outlives a kill, if not a crash of the machine
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", -1.0)
    monkeypatch.setattr(algorithm, "FRESH_AFTER", 9)
    call, generator = CALLS[name], random.Random(name)
    expected = call(tmp_path / "whole")
    begun = time.monotonic()
    assert not killed(call, tmp_path / "another", 60.0)
    whole = time.monotonic() - begun
    n_kills = 0
    for attempt in range(10 * pytestconfig.getoption("--kills")):
        folder = tmp_path / f"killed {attempt // 3}"  # each is killed up to three times
        n_kills += killed(call, folder, generator.uniform(0, whole))
        assert_same(call(folder) if attempt % 3 == 2 else expected, expected)
        if n_kills == pytestconfig.getoption("--kills"):
            break
    assert_same(call(folder), expected)
    assert n_kills > 0


def assert_same(value: Any, expected: Any) -> None:
    assert torch.equal(value, expected) if isinstance(expected, torch.Tensor) else value == expected
