"""Exact patching that was stopped goes on and ends with the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import eap
from eap import exact_progress
from graphs import PromptPairs
from graphs.adapter import graph_of
from models import logit_difference, prompt_pairs, tiny

PAIRS = prompt_pairs([6, 6, 4], seed=2)


class Stopped(BaseException):
    """Raised in the middle of a run."""


def stopping_after(n_calls: int):
    """The metric, which works n times and then stops the run."""
    left = [n_calls]

    def stopping(logits: Tensor, pairs: PromptPairs) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise Stopped
        return logit_difference(logits, pairs)

    stopping.__name__ = logit_difference.__name__
    return stopping


def scored(metric, checkpoint: Path | None, pairs: PromptPairs = PAIRS, **settings) -> Tensor:
    return eap.score(tiny("gpt2").model, pairs, metric, "exact", checkpoint=checkpoint, batch_size=2, quiet=True, **settings).scores


@pytest.mark.parametrize("n_calls", [1, 40, 150])
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_calls: int) -> None:
    monkeypatch.setattr(exact_progress, "SECONDS_BETWEEN", -1.0)  # written after every destination
    whole = scored(logit_difference, None)
    n_needed = [0]

    def counted(logits: Tensor, pairs: PromptPairs) -> Tensor:
        n_needed[0] += 1
        return logit_difference(logits, pairs)

    counted.__name__ = logit_difference.__name__
    with pytest.raises(Stopped):
        scored(stopping_after(n_calls), tmp_path)
    assert torch.equal(scored(counted, tmp_path), whole)
    first, n_needed[0] = n_needed[0], 0
    assert torch.equal(scored(counted, tmp_path), whole)
    assert n_needed[0] == 2 < first  # the whole model's metric on each batch, and nothing else


def test_another_question_does_not_read_it(tmp_path: Path) -> None:
    scored(logit_difference, tmp_path)
    n_files = len(list(tmp_path.iterdir()))
    edges = torch.zeros_like(graph_of(tiny("gpt2").model).edge_mask)
    edges[0, -1] = True
    for number, settings in enumerate([dict(intervention="zero"), dict(edges=edges), dict(pairs=prompt_pairs([6, 6, 4], seed=3))]):
        assert torch.equal(scored(logit_difference, tmp_path, **settings), scored(logit_difference, None, **settings))
        assert len(list(tmp_path.iterdir())) == n_files * (number + 2)


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    scored(logit_difference, tmp_path)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"cannot read .*{file.name}.*delete it to measure anew"):
        scored(logit_difference, tmp_path)


@pytest.mark.parametrize("name", ["checkpoint", "edges"])
def test_other_methods_have_no_place_for_it(tmp_path: Path, name: str) -> None:
    value = tmp_path if name == "checkpoint" else graph_of(tiny("gpt2").model).edge_mask
    with pytest.raises(ValueError, match=f"{name} has no place in method 'eap'; it belongs to exact"):
        eap.score(tiny("gpt2").model, PAIRS, logit_difference, "eap", **{name: value})
