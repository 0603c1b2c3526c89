"""Pairs in files: round trips, columns as documented, every refusal with file and line."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_circuits.graphs.prompts.pairs import PromptPairs

READERS: dict[str, Callable[..., PromptPairs]] = {"csv": PromptPairs.from_csv, "jsonl": PromptPairs.from_jsonl}


class LetterTokenizer:
    """One id a character, except the words " Mary" (1) and " John, Jr" (2)."""

    def encode(self, text: str) -> list[int]:
        words = {" Mary": 1, " John, Jr": 2}
        return [words[text]] if text in words else [ord(letter) for letter in text]


def random_pairs(seed: int, answers: bool) -> PromptPairs:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 6) for _ in range(5)]
    clean, corrupted = ([[rng.randrange(9) for _ in range(n)] for n in lengths] for _ in range(2))
    choices = [[rng.randrange(9) for _ in range(rng.randint(1, 3))] for _ in lengths]
    given = dict(answers=choices, wrong_answers=choices[::-1]) if answers else {}
    return PromptPairs(clean, corrupted, **given, positions=[rng.randrange(n) for n in lengths])


def written(folder: Path, kind: str, content: str) -> Path:
    path = folder / f"pairs.{kind}"
    path.write_bytes(content.encode())
    return path


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_round_trip(tmp_path: Path, kind: str, answers: bool, seed: int) -> None:
    pairs = random_pairs(seed, answers)
    path = tmp_path / f"pairs.{kind}"
    getattr(pairs, f"to_{kind}")(path)
    assert READERS[kind](path) == pairs
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_files_are_as_documented(tmp_path: Path) -> None:
    pairs = PromptPairs([[5, 6], [7]], [[5, 8], [9]], [1, [2, 3]], positions=[0, 0])
    pairs.to_csv(tmp_path / "a.csv")
    pairs.to_jsonl(tmp_path / "a.jsonl")
    assert (tmp_path / "a.csv").read_text() == (
        'clean,corrupted,answers,position,digest\n"[5, 6]","[5, 8]",[1],0,cb2c906cc9cf9203\n[7],[9],"[2, 3]",0,cb2c906cc9cf9203\n'
    )
    assert (tmp_path / "a.jsonl").read_text().splitlines()[1] == (
        '{"clean": [7], "corrupted": [9], "answers": [2, 3], "position": 0, "digest": "cb2c906cc9cf9203"}'
    )


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("change", ["a token", "a row less", "other order", "no digest in one"])
def test_what_was_written_here_and_changed_since_is_refused(tmp_path: Path, kind: str, change: str) -> None:
    pairs = PromptPairs([[5, 6], [7], [8]], [[5, 8], [9], [9]], [1, [2, 3], 4], spans={"a": [0, 0, 0]})
    path = tmp_path / f"pairs.{kind}"
    getattr(pairs, f"to_{kind}")(path)
    assert READERS[kind](path) == pairs
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    digest = re.search("[0-9a-f]{16}", text)[0]
    changed = {
        "a token": text.replace("[7]", "[17]"),
        "a row less": "".join(lines[:-1]),
        "other order": "".join([*lines[:-2], lines[-1], lines[-2]]),
        "no digest in one": "".join([*lines[:-1], re.sub(r', "digest": "\w+"|\b[0-9a-f]{16}$', "", lines[-1])]),
    }[change]
    assert changed != text
    path.write_text(changed)
    with pytest.raises(ValueError, match=f"pairs.{kind}: expected the digest .* take the column digest out"):
        READERS[kind](path)
    path.write_text(re.sub(f',"?digest"?$|,{digest}$|, "digest": "{digest}"', "", text, flags=re.MULTILINE))
    assert READERS[kind](path) == pairs


def test_text_in_csv(tmp_path: Path) -> None:
    content = (
        "\ufeffclean,corrupted,answers,wrong_answers,position\r\n"
        'ab, b, Mary,"[""x"", "" Mary""]",\r\n'
        "\r\n"
        '"c,\r\nd","[1]dd"," John, Jr",5,-2\r\n'
    )
    pairs = PromptPairs.from_csv(written(tmp_path, "csv", content), LetterTokenizer())
    ids = [[list(map(ord, text)) for text in texts] for texts in (["ab", "c,\r\nd"], [" b", "[1]dd"])]
    assert pairs == PromptPairs(*ids, [1, 2], [[ord("x"), 1], ord("5")], positions=[1, 3])


def test_text_and_ids_in_jsonl(tmp_path: Path) -> None:
    rows = [
        {"clean": "ab\u2028", "corrupted": "bcd", "answers": " Mary", "position": 1},
        {"clean": "c", "corrupted": "d", "answers": [7, " Mary"], "wrong_answers": None},
    ]
    content = "\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    pairs = PromptPairs.from_jsonl(written(tmp_path, "jsonl", content), LetterTokenizer())
    ids = [[97, 98, 0x2028], [99]], [[98, 99, 100], [100]]
    assert pairs == PromptPairs(*ids, [1, [7, 1]], positions=[1, 0])


def test_a_single_id_is_an_answer_in_csv(tmp_path: Path) -> None:
    path = written(tmp_path, "csv", 'clean,corrupted,answers\n"[1, 2]","[1, 3]",4\n')
    assert PromptPairs.from_csv(path) == PromptPairs([[1, 2]], [[1, 3]], [4])


def test_the_csv_of_eap_ig_is_read_as_it_is(tmp_path: Path) -> None:
    content = ',clean,corrupted_hard,corrupted,correct_idx,incorrect_idx\n0,ab,x,cd,1,2\n1,abc,y,cde,7,"[1, 2]"\n'
    expected = PromptPairs(["ab", "abc"], ["cd", "cde"], [1, 7], [2, [1, 2]], tokenizer=LetterTokenizer())
    assert PromptPairs.from_csv(written(tmp_path, "csv", content), LetterTokenizer()) == expected


def test_prepend_bos_reaches_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = LetterTokenizer()
    tokenizer.bos_token_id = 0
    path = written(tmp_path, "csv", "clean,corrupted\na,b\n")
    assert PromptPairs.from_csv(path, tokenizer, prepend_bos=True) == PromptPairs([[0, 97]], [[0, 98]])


def test_long_prompts_fit_into_a_cell(tmp_path: Path) -> None:
    default = csv.field_size_limit()
    pairs = PromptPairs([[10_000] * 30_000], [[10_001] * 30_000])
    pairs.to_csv(tmp_path / "long.csv")
    assert PromptPairs.from_csv(tmp_path / "long.csv") == pairs
    assert csv.field_size_limit() == default == 131_072


REFUSED = {
    "empty csv": ("csv", "", "pairs.csv: expected at least one pair, got none"),
    "header alone": ("csv", "clean,corrupted\n", "pairs.csv: expected at least one pair"),
    "empty jsonl": ("jsonl", "\n\n", "pairs.jsonl: expected at least one pair"),
    "unknown column": (
        "csv",
        "clean,corrupted,wrong_answer\n[1],[1],2\n",
        "pairs.csv, line 1: expected columns of clean, .*, got 'wrong_answer'; did you mean 'wrong_answers'",
    ),
    "unknown column, nothing near": (
        "csv",
        "clean,corrupted,zzz\n[1],[1],2\n",
        "expected columns of .*, got 'zzz'; leave it out",
    ),
    "unknown key": (
        "jsonl",
        '{"clean": [1], "corrupted": [1]}\n{"clean": [1], "corupted": [1]}',
        "pairs.jsonl, line 2: expected keys of .*, got 'corupted'; did you mean 'corrupted'",
    ),
    "missing column": ("csv", "clean,answers\n[1],2\n", "line 1: expected a column 'corrupted'"),
    "missing key": ("jsonl", '{"clean": [1]}', "line 1: expected a key 'corrupted'"),
    "column twice": ("csv", "clean,corrupted,clean\n[1],[1],[1]\n", "line 1: expected each column once"),
    "key twice": ("jsonl", '{"clean": [1], "corrupted": [1], "clean": [2]}', "line 1: expected each key once"),
    "too many cells": ("csv", "clean,corrupted\n\n[1,2],[1,3]\n", r"line 3: expected 2 cells .* got 4.*double quotes"),
    "quote left open": ("csv", 'clean,corrupted\n"[1],[1]\n', "line 2: expected a CSV row.*unexpected end of data"),
    "text without tokenizer": ("csv", "clean,corrupted\nHello,[1]\n", "line 2: clean: .* 'Hello'; pass a tokenizer"),
    "text without tokenizer, jsonl": (
        "jsonl",
        '{"clean": "a", "corrupted": "b"}',
        "pairs.jsonl: clean: expected token ids where there is no tokenizer, got strings",
    ),
    "answer of another kind": ("csv", "clean,corrupted,answers\n[1],[1],Mary\n", "line 2: answers: .* got 'Mary'"),
    "position of another kind": ("csv", "clean,corrupted,position\n[1],[1],end\n", "line 2: position: .* got 'end'"),
    "position as a list": ("csv", "clean,corrupted,position\n[1],[1],[0]\n", r"line 2: position: expected an integer"),
    "line after a cell of several lines": (
        "csv",
        'clean,corrupted\n"[1,\n2]","[1,\n2]"\n[1],x\n',
        "line 5: corrupted: expected token ids",
    ),
    "position out of range": ("csv", "clean,corrupted,position\n[1],[1],4\n", "line 2: row 0: position: .* got 4"),
    "empty prompt": ("csv", "clean,corrupted\n[1],[1]\n,[2]\n", "line 3: row 1: clean: expected a list .* got None"),
    "answers on some rows": (
        "csv",
        "clean,corrupted,answers\n[1],[1],2\n\n[1],[1],\n",
        "line 4: row 1: answers: expected at least one for every pair",
    ),
    "wrong answers on some rows": (
        "jsonl",
        '{"clean": [1], "corrupted": [1], "wrong_answers": 3}\n{"clean": [1], "corrupted": [1]}',
        "line 2: row 1: wrong_answers: expected at least one for every pair",
    ),
    "lengths differ": (
        "jsonl",
        '\n{"clean": [1, 2], "corrupted": [1]}',
        r"line 2: row 0: corrupted: expected 2 tokens as clean has, got 1(.|\n)*clean: ids \[1, 2\]",
    ),
    "torn line": ("jsonl", '{"clean": [1], "corr', "line 1: expected a JSON object, got"),
    "no object": ("jsonl", "[1, 2]", "line 1: expected a JSON object with clean and corrupted"),
    "boolean id": ("jsonl", '{"clean": [true], "corrupted": [1]}', "line 1: row 0: clean: .* got True"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    kind, content, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        READERS[kind](written(tmp_path, kind, content))


def test_ids_with_a_tokenizer_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "csv", 'clean,corrupted\n"[1, 2]","[1, 3]"\n')
    with pytest.raises(ValueError, match="every clean prompt is a list of token ids, but a tokenizer was given"):
        PromptPairs.from_csv(path, LetterTokenizer())


def test_text_that_looks_like_ids_beside_other_text(tmp_path: Path) -> None:
    path = written(tmp_path, "csv", "clean,corrupted\n[1],[2]\nab,cd\n")
    assert PromptPairs.from_csv(path, LetterTokenizer()).lengths.tolist() == [3, 2]


@pytest.mark.parametrize("kind", READERS)
def test_other_bytes_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"pairs.{kind}"
    path.write_bytes(b"clean,corrupted\n\xff\xfe,a\n")
    with pytest.raises(ValueError, match="expected UTF-8 text"):
        READERS[kind](path)


@pytest.mark.parametrize("kind", READERS)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / f"pairs.{kind}"
    path.write_text("old")

    def disk_full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", disk_full)
    with pytest.raises(OSError, match="disk full"):
        getattr(random_pairs(0, answers=True), f"to_{kind}")(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
