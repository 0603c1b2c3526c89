"""Ctrl-C at random moments of public calls: the model is as before, files are whole, and the same call then gives what it always gives.

`--interrupts N` interrupts each call N times.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from models import build, logit_difference, prompt_pairs
from test_models_untouched import state_of
from torch import Tensor

import edge_circuits as ec
from edge_circuits.eap import checkpoint
from edge_circuits.graphs.files.eap_ig import export, import_scores

PAIRS = prompt_pairs([6, 5, 6], seed=5)
CLEANING = {"__exit__", "__del__", "_remove_orphans", "unlink", "close", "remove", "callback", "pop", "reset_hooks"}


@cache
def model() -> torch.nn.Module:
    made = build("gpt2", torch.float64).model
    made(PAIRS.clean)  # TransformerLens sets hooks of its own on its first pass
    return made


@cache
def scores() -> ec.ScoredGraph:
    return ec.score(model(), PAIRS, logit_difference, "eap", quiet=True)


@cache
def circuit() -> ec.Circuit:
    return ec.prune(scores(), k=40)


def scored(method: str, folder: Path) -> Tensor:
    settings = dict(batch_size=1, checkpoint=folder / "parts", quiet=True)
    return ec.score(model(), PAIRS, logit_difference, method, **settings).scores


def swept(folder: Path) -> Any:
    found = ec.sweep(model(), PAIRS, "kl", [0.5, 1.0], circuit=circuit(), checkpoint=folder / "traces", quiet=True)
    return [trace.kept for trace in found.traces]


def saved(write: Callable[[Path], object], read: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    """Write a file over an older one and read it, which also has to go after an interruption."""

    def call(folder: Path) -> Any:
        if (folder / name).exists():
            read(folder / name)
        write(folder / name)
        return read(folder / name)

    return call


CALLS: dict[str, Callable[[Path], Any]] = {
    "score, exact": lambda folder: scored("exact", folder),
    "score, relp": lambda folder: scored("relp", folder),
    "score, a mask": lambda _: ec.score(model(), PAIRS, logit_difference, "learned-mask:steps=2", quiet=True).scores,
    "score_nodes": lambda _: ec.score_nodes(model(), PAIRS, logit_difference, quiet=True).mean("heads"),
    "score_groups": lambda _: ec.score_groups(model(), PAIRS, logit_difference, n_groups=3, quiet=True).per_group,
    "sweep": swept,
    "run": lambda _: ec.run(model(), circuit(), PAIRS, "mean").detach(),
    "measure": lambda _: ec.measure(model(), circuit(), PAIRS, logit_difference)[0].faithfulness,
    "verify": lambda _: len(ec.verify(model(), scores(), PAIRS, logit_difference, n_edges=4, bf16=False).checks),
    "save scores": saved(lambda path: scores().save(path), lambda path: ec.ScoredGraph.load(path).scores, "s.json"),
    "save a circuit": saved(lambda path: circuit().save(path), lambda path: ec.Circuit.load(path).edges, "c.json"),
    "save prompts": saved(PAIRS.to_csv, lambda path: ec.PromptPairs.from_csv(path).digest, "p.csv"),
    "export": saved(lambda path: export(scores(), path, d_model=8), lambda path: import_scores(path).scores, "s.pt"),
    "render": saved(lambda path: ec.render(circuit(), path), lambda path: path.read_text().strip()[-6:], "c.svg"),
}


def traced(call: Callable[[], Any], most: float) -> tuple[Any, int]:
    """What a call gives, interrupted when it enters its n-th function, clean-up aside; and how many it entered."""
    n_entered = 0

    def enter(frame: FrameType, event: str, _: object) -> None:
        nonlocal n_entered
        n_entered += 1
        if n_entered >= most and frame.f_code.co_name not in CLEANING and not cleaning(frame):
            sys.settrace(None)
            raise KeyboardInterrupt

    sys.settrace(enter)
    try:
        return call(), n_entered
    except KeyboardInterrupt:
        return KeyboardInterrupt, n_entered
    finally:
        sys.settrace(None)


def cleaning(frame: FrameType | None) -> bool:
    """Whether a function is called to clean up, where no program survives an interruption for sure."""
    while frame is not None:
        if frame.f_code.co_name in CLEANING:
            return True
        frame = frame.f_back
    return False


def surroundings() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_leaves_all_as_it_was(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN", -1.0)
    call, draw = CALLS[name], random.Random(name)
    (tmp_path / "whole").mkdir()
    call(tmp_path / "whole")
    (tmp_path / "again").mkdir()
    expected, n_entered = traced(lambda: call(tmp_path / "again"), float("inf"))
    state = state_of(model())
    n_interrupted = 0
    for number in range(pytestconfig.getoption("--interrupts")):
        folder = tmp_path / f"{number // 2}"  # each is interrupted twice
        folder.mkdir(exist_ok=True)
        n_interrupted += traced(lambda: call(folder), draw.randint(1, n_entered))[0] is KeyboardInterrupt
        assert state_of(model()) == state
        assert surroundings() == (torch.float32, torch.device("cpu"), True, False)
        if number % 2:
            assert_same(call(folder), expected)
    assert_same(call(folder), expected)
    assert n_interrupted > 0


def assert_same(value: Any, expected: Any) -> None:
    assert torch.equal(value, expected) if isinstance(expected, Tensor) else value == expected
