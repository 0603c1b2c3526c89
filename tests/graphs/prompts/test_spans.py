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


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_files_hold_them(tmp_path: Path, kind: str) -> None:
    whole = pairs(name=[(1, 3), 0], end=[-1, (2, 2)])
    for given in (whole, PromptPairs([[1, 2]], [[3, 4]]).by_token(), pairs(all=[(0, None)] * 2)):
        getattr(given, f"to_{kind}")(tmp_path / "pairs")
        assert getattr(PromptPairs, f"from_{kind}")(tmp_path / "pairs") == given
    assert '"name": [1, 3], "end": [3, 4]' in whole_text(whole, tmp_path)


def whole_text(given: PromptPairs, folder: Path) -> str:
    given.to_jsonl(folder / "text.jsonl")
    return (folder / "text.jsonl").read_text()


def test_columns_of_first_tokens(tmp_path: Path) -> None:
    """The layout of PEAP: a span ends where the next one begins, the last one at the prompt's length."""
    path = tmp_path / "pairs.csv"
    path.write_text('clean,corrupted,S1,verb,end,length\n"[1,2,3,4]","[1,2,3,5]",1,3,3,4\n"[5,6]","[5,7]",0,0,1,2\n')
    read = PromptPairs.from_csv(path)
    assert read.spans.names == ("S1", "verb", "end", "rest")
    assert read.spans.of_token.tolist() == [[3, 0, 0, 2], [1, 2, -1, -1]]


REFUSED_FILES = {
    "length of another tokenizer": ("csv", "clean,corrupted,S1,length\n[1],[2],0,1\n\"[1,2]\",\"[1,3]\",0,1\n",
                                    r"line 3: row 1: length: expected the prompt's 2 tokens, BOS counted, got 1"),
    "spans that go back": ("csv", "clean,corrupted,a,b,length\n\"[1,2]\",\"[1,2]\",1,0,2\n",
                           r"line 2: row 0: spans\['a'\]\[0\]: expected a stretch within 2 tokens, start before stop"),
    "empty first token": ("csv", "clean,corrupted,a,length\n[1],[2],,1\n", "line 2: a: expected an integer, got ''"),
    "a misspelt column": ("csv", "clean,corrupted,wrong_answer,length\n[1],[2],0,1\n", "did you mean 'wrong_answers'"),
    "no object": ("csv", "clean,corrupted,spans\n[1],[2],3\n", r"line 2: spans: expected an object such as"),
    "other names": ("jsonl", '{"clean": [1], "corrupted": [1], "spans": {"a": 0}}\n'
                    '{"clean": [1], "corrupted": [1], "spans": {"b": 0}}',
                    r"line 2: row 1: spans: expected an object with the names of row 0, \['a'\], got \['b'\]"),
    "none on some rows": ("jsonl", '{"clean": [1], "corrupted": [1], "spans": {"a": 0}}\n{"clean": [1], "corrupted": [1]}',
                          "line 2: row 1: spans: expected an object with the names of row 0"),
    "a span twice": ("jsonl", '{"clean": [1], "corrupted": [1], "spans": {"a": 0, "a": 0}}', "line 1: expected each span once"),
    "no stretch": ("jsonl", '{"clean": [1], "corrupted": [1], "spans": {"a": "0"}}', r"got '0'"),
}  # fmt: skip


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("case", REFUSED_FILES)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, case: str) -> None:
    kind, content, message = REFUSED_FILES[case]
    path = tmp_path / f"pairs.{kind}"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        getattr(PromptPairs, f"from_{kind}")(path)


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
