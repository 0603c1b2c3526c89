"""Spans: what callers may give, and that they stay with their prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.prompts.spans import Spans

CLEAN = [[1, 2, 3, 4], [5, 6]]


def pairs(**spans: list) -> PromptPairs:
    return PromptPairs(CLEAN, CLEAN, spans=spans)


def test_worked_by_hand() -> None:
    spans = pairs(name=[(1, 3), 0], end=[-1, (2, 2)]).spans
    assert spans.names == ("name", "end", "rest")
    assert spans.of_token.tolist() == [[2, 0, 0, 1], [0, 2, -1, -1]]
    assert spans.stretches(0) == {"name": [1, 2], "end": [3], "rest": [0]}
    assert spans.where(1).tolist() == [[False, False, False, True], [False] * 4]


def test_rest_is_left_out_where_nothing_is_left() -> None:
    assert pairs(all=[(0, None), (0, None)]).spans.names == ("all",)


def test_they_go_where_their_prompts_go() -> None:
    whole = pairs(name=[(1, 3), 0])
    short, long = whole.batches(1)
    assert short.spans.of_token.tolist() == [[0, 1]] and long.spans.of_token.tolist() == [[1, 0, 0, 1]]
    assert PromptPairs.concat([whole[[0]], whole[[1]]]) == whole
    assert whole.swapped().spans is whole.spans and whole.digest != PromptPairs(CLEAN, CLEAN).digest
    with pytest.raises(ValueError, match="has no spans and others have"):
        PromptPairs.concat([whole, PromptPairs(CLEAN, CLEAN)])
    with pytest.raises(ValueError, match=r"sets\[1\].spans: expected those of the first set"):
        PromptPairs.concat([whole, pairs(other=[0, 0])])


def test_files_say_that_they_hold_none(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="spans are not written to files"):
        pairs(name=[0, 0]).to_jsonl(tmp_path / "pairs.jsonl")
    assert PromptPairs.from_jsonl(tmp_path / "pairs.jsonl").spans is None


def test_by_token() -> None:
    spans = PromptPairs([[1, 2]], [[3, 4]]).by_token().spans
    assert spans.names == ("0", "1") and torch.equal(spans.of_token, torch.tensor([[0, 1]]))
    assert isinstance(spans, Spans)
    with pytest.raises(ValueError, match="prompts of one length, got 2 to 4 tokens; name the stretches"):
        pairs().by_token()


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (dict(a=[0]), "expected a stretch for each of 2 prompts, got 1"),
        (
            dict(a=[(0, 5), 0]),
            r"spans\['a'\]\[0\]: expected a stretch within 4 tokens, start before stop, got \(0, 5\)",
        ),
        (dict(a=[2, 2]), r"spans\['a'\]\[1\]: expected a stretch within 2 tokens"),
        (dict(a=[(3, 1), 0]), "start before stop"),
        (dict(a=[(0, 2), 0], b=[1, 1]), r"spans\['b'\]\[0\]: expected tokens of no other span, got token 1 of 'a'"),
        (dict(rest=[0, 0]), "expected names other than 'rest'"),
    ],
)
def test_stretches_that_do_not_fit_are_refused(spans: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs(**spans)
