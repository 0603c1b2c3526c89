"""Prompts that are read at several positions: continued by answers of several tokens, or at named places.

An answer of T tokens is read under teacher forcing: both prompts of a pair are continued by its first T - 1 tokens, and the logits
at the last T positions say how likely each token is, given those before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.prompts.tokenization import encode_continuation
from edge_circuits.graphs.prompts.validation import (
    Choices,
    PairRows,
    Positions,
    RowError,
    as_list,
    encoded_answer,
    position_rows,
    token_id,
)

NO_ROW = -1


class ReadRows(NamedTuple):
    """Pairs, and the positions at which each is read, -1 after the last."""

    pairs: PairRows
    rows: list[list[int]]


def continued(pairs: PairRows, answers: Choices, wrong_answers: Choices, tokenizer: Any) -> ReadRows:
    """Pairs continued by their answers, one a pair, of any number of tokens.

    Args:
        pairs: Without answers.
        answers: For each pair a string, a token id or a list of ids.
        wrong_answers: The same, or None. Of each the tokens up to the first that differs from the answer's are kept.

    Raises:
        ValueError: No answers, or other numbers of them than pairs.
        RowError: An answer that cannot be used, one that its wrong answer does not differ from, or a position before the last token.
    """
    if answers is None:
        raise refusal("several_tokens", "answers to continue the prompts by", "none", "leave it out")
    for row, (position, prompt) in enumerate(zip(pairs.positions, pairs.clean)):
        if position != len(prompt) - 1:
            raise RowError(
                row, f"positions: expected the last token before an answer of several tokens, got {position}"
            )
    right = _answers("answers", answers, len(pairs.clean), tokenizer)
    n_most = max(map(len, right))
    rows = [[len(prompt) - 1 + at for at in range(len(answer))] for prompt, answer in zip(pairs.clean, right)]
    wrong = None
    if wrong_answers is not None:
        others = _answers("wrong_answers", wrong_answers, len(pairs.clean), tokenizer)
        wrong = [_until_it_differs(row, *both) for row, both in enumerate(zip(right, others))]
        wrong = [_filled(each, n_most) for each in wrong]
    clean, corrupted = (
        [prompt + answer[:-1] for prompt, answer in zip(prompts, right)] for prompts in (pairs.clean, pairs.corrupted)
    )
    ends = [each[-1] for each in rows]
    made = PairRows(clean, corrupted, [_filled(each, n_most) for each in right], wrong, ends)
    return ReadRows(made, [_filled(each, n_most) for each in rows])


def read_at(pairs: PairRows, positions: Mapping[str, Positions]) -> ReadRows:
    """Pairs read at named positions, in the order of the names."""
    if pairs.answers is not None or pairs.wrong_answers is not None:
        remedy = "a metric of one's own says what it reads of which prompt, by pairs.indices"
        raise refusal("answers", "None where positions are named", "answers", remedy)
    if not positions:
        raise refusal("positions", "one name or more", "none")
    lengths = [len(prompt) for prompt in pairs.clean]
    columns = [position_rows(given, lengths) for given in positions.values()]
    rows = [list(row) for row in zip(*columns)]
    return ReadRows(pairs._replace(positions=[max(row) for row in rows]), rows)


def _answers(name: str, answers: Choices, n_pairs: int, tokenizer: Any) -> list[list[int]]:
    given = as_list(name, answers, "one answer for each pair")
    if len(given) != n_pairs:
        raise refusal(name, f"one for each of the {n_pairs} pairs", f"{len(given)}")
    return [_answer(name, row, value, tokenizer) for row, value in enumerate(given)]


def _answer(name: str, row: int, value: Any, tokenizer: Any) -> list[int]:
    if isinstance(value, str):
        return encoded_answer(name, row, value, tokenizer, encode_continuation)
    value = value.tolist() if hasattr(value, "tolist") else value
    tokens = list(value) if isinstance(value, (list, tuple)) else [value]
    if not tokens or any(isinstance(token, (str, list, tuple)) for token in tokens):
        raise RowError(row, f"{name}: expected one answer, a string or a list of token ids, got {value!r}")
    return [token_id(name, row, token, shown=value) for token in tokens]


def _until_it_differs(row: int, answer: Sequence[int], wrong: Sequence[int]) -> list[int]:
    for at, (token, other) in enumerate(zip(answer, wrong)):
        if token != other:
            return list(wrong[: at + 1])
    raise RowError(row, f"wrong_answers: expected a token in which it differs from {list(answer)}, got {list(wrong)}")


def _filled(tokens: Sequence[int], width: int) -> list[int]:
    return [*tokens, *[NO_ROW] * (width - len(tokens))]
