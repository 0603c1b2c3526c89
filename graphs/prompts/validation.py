"""What a caller gives as prompts, answers and positions, checked row by row and made into lists of token ids.

Every refusal is a `RowError` (a ValueError) that names the row, shows it, and says what was expected and what to do.
Rows count from 0. Padding is stripped here, so that left-padded, right-padded and ragged input become the same lists.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.prompts.tokenization import check_ending, encode_answer, encode_prompt, show_tokens

Prompts: TypeAlias = Sequence | Tensor  # strings, lists of ids, or Int[Tensor, "pair pos"]
Choices: TypeAlias = Sequence | Tensor | None  # per pair an id, a string or a list; or Int[Tensor, "pair choice"]
Positions: TypeAlias = Sequence | Tensor | int | None
Masks: TypeAlias = Sequence | Tensor | tuple | None  # one for both sides, or a tuple (clean, corrupted)


MOST_ID = 2**31 - 1  # no vocabulary is near it


class RowError(ValueError):
    """A row that was refused; `row` counts from 0 and `reason` is the message without it."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row, self.reason = row, reason


class PairRows(NamedTuple):
    """Checked pairs as lists of ids without padding; positions count from 0 in each prompt's own tokens."""

    clean: list[list[int]]
    corrupted: list[list[int]]
    answers: list[list[int]] | None
    wrong_answers: list[list[int]] | None
    positions: list[int]


def pair_rows(
    clean: Prompts,
    corrupted: Prompts,
    answers: Choices,
    wrong_answers: Choices,
    positions: Positions,
    attention_mask: Masks,
    tokenizer: Any,
    prepend_bos: bool | None,
) -> PairRows:
    """Checks all that `PromptPairs` was given; the arguments are documented there.

    Raises:
        ValueError: Input that is not a list of rows, or lists of different size.
        RowError: The first row that is refused.
    """
    masks = attention_mask if isinstance(attention_mask, tuple) else (attention_mask, attention_mask)
    if len(masks) != 2:
        raise ValueError(f"attention_mask: expected one mask or a tuple (clean, corrupted), got {len(masks)} in one")
    clean_ids = _prompts("clean", clean, masks[0], tokenizer, prepend_bos)
    corrupted_ids = _prompts("corrupted", corrupted, masks[1], tokenizer, prepend_bos)
    _check_lengths(clean_ids, corrupted_ids, (clean, corrupted), tokenizer)
    try:
        return PairRows(
            clean_ids,
            corrupted_ids,
            _choice_rows("answers", answers, len(clean_ids), tokenizer),
            _choice_rows("wrong_answers", wrong_answers, len(clean_ids), tokenizer),
            position_rows(positions, [len(ids) for ids in clean_ids]),
        )
    except RowError as error:
        prompt = _shown(clean[error.row], clean_ids[error.row], tokenizer)
        raise RowError(error.row, f"{error.reason}\n  clean: {prompt}") from None


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows as one int64 tensor [row column], filled up on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=torch.int64, device="cpu")


def _prompts(
    name: str, prompts: Prompts, attention_mask: Prompts | None, tokenizer: Any, prepend_bos: bool | None
) -> list[list[int]]:
    rows = as_list(name, prompts, "strings or lists of token ids")
    if not rows:
        raise ValueError(f"{name}: expected at least one prompt, got none; give one or more pairs")
    if isinstance(rows[0], str):
        if attention_mask is not None:
            raise refusal(
                "attention_mask", f"None where {name} holds strings", "a mask", "it goes with padded token ids"
            )
        return _encoded(name, rows, tokenizer, prepend_bos)
    if prepend_bos is not None:
        expected = f"None where {name} holds token ids, which are used as they are"
        raise refusal("prepend_bos", expected, prepend_bos, "put the BOS id in the rows if you want one")
    rows = [_id_row(name, row, value) for row, value in enumerate(rows)]
    if attention_mask is not None:
        rows = _stripped(name, rows, as_list("attention_mask", attention_mask, "rows of 0 and 1"))
    ids = [[token_id(name, row, token, shown=value) for token in value] for row, value in enumerate(rows)]
    return [_not_empty(name, row, prompt, shown=prompt) for row, prompt in enumerate(ids)]


def _check_lengths(
    clean: Sequence[list[int]], corrupted: Sequence[list[int]], sources: tuple[Prompts, Prompts], tokenizer: Any
) -> None:
    if len(clean) != len(corrupted):
        given = f"{len(clean)} clean and {len(corrupted)} corrupted"
        raise refusal("corrupted", "one prompt for each clean one", given, "give both lists the same length")
    differing = [row for row, (one, other) in enumerate(zip(clean, corrupted)) if len(one) != len(other)]
    if not differing:
        return
    row = differing[0]
    shown = [_shown(source[row], rows[row], tokenizer) for source, rows in zip(sources, (clean, corrupted))]
    others = f" ({len(differing) - 1} more rows differ, from row {differing[1]} on)" if len(differing) > 1 else ""
    raise RowError(
        row,
        f"corrupted: expected {len(clean[row])} tokens as clean has, got {len(corrupted[row])}; they are patched position "
        f"by position, so change a word or leave the pair out{others}\n"
        f"  clean: {shown[0]}\n  corrupted: {shown[1]}",
    )


def _choice_rows(name: str, choices: Choices, n_pairs: int, tokenizer: Any) -> list[list[int]] | None:
    if choices is None:
        return None
    padded_rows = getattr(choices, "ndim", 1) == 2
    rows = as_list(name, choices, "one answer, or list of answers, for each pair")
    if len(rows) != n_pairs:
        raise ValueError(
            f"{name}: expected one entry for each of the {n_pairs} pairs, got {len(rows)}; "
            "for several answers to a pair give a list of lists"
        )
    return [_choices(name, row, value, tokenizer, padded_rows) for row, value in enumerate(rows)]


def position_rows(positions: Positions, lengths: Sequence[int]) -> list[int]:
    """A position for each prompt, counted from its start."""
    if positions is None or isinstance(positions, int):
        rows = [positions] * len(lengths)
    else:
        rows = as_list("positions", positions, "positions, one for each pair")
    if len(rows) != len(lengths):
        raise ValueError(f"positions: expected one for each of the {len(lengths)} pairs, got {len(rows)}")
    return [_position(row, value, length) for row, (value, length) in enumerate(zip(rows, lengths))]


def as_list(name: str, values: Any, expected: str) -> list:
    """What was given for each pair."""
    if isinstance(values, str):
        raise ValueError(f"{name}: expected a list of {expected}, got one string {values!r}; write [{values!r}]")
    if isinstance(values, Tensor) and (values.is_floating_point() or values.is_complex()):
        raise ValueError(f"{name}: expected integers, got a tensor of {values.dtype}; convert it with .long()")
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence):
        raise ValueError(f"{name}: expected a list of {expected}, got {values!r}")
    return list(values)


def _encoded(name: str, rows: Sequence[Any], tokenizer: Any, prepend_bos: bool | None) -> list[list[int]]:
    if tokenizer is None:
        raise refusal(name, "token ids where there is no tokenizer", "strings", "pass tokenizer=..., or token ids")
    if prepend_bos is None:
        check_ending(tokenizer, rows[0])
    encoded = []
    for row, text in enumerate(rows):
        if not isinstance(text, str):
            raise RowError(row, f"{name}: expected a string as in row 0, got {text!r}; give all rows in one form")
        try:
            ids = encode_prompt(tokenizer, text, prepend_bos)
        except ValueError as error:
            raise RowError(row, f"{name}: {error}") from None
        encoded.append(_not_empty(name, row, ids if text else [], shown=text))  # not a BOS alone
    return encoded


def _id_row(name: str, row: int, value: Any) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple)):
        raise RowError(row, f"{name}: expected a list of token ids, got {value!r}; one prompt is written [[1, 2, 3]]")
    return list(value)


def token_id(name: str, row: int, token: Any, shown: Any) -> int:
    """A token id as a plain number."""
    try:
        number = operator.index(token)
    except TypeError:
        number = None
    if number is None or isinstance(token, bool):
        raise RowError(row, f"{name}: expected token ids (integers from 0), got {token!r} in {shown!r}; correct it")
    if number > MOST_ID:
        raise RowError(row, f"{name}: expected token ids up to {MOST_ID}, got {number}; correct it")
    if number < 0:
        prompt = name in ("clean", "corrupted")
        remedy = "take padding off or pass attention_mask" if prompt else "give a list of lists where counts differ"
        raise RowError(row, f"{name}: expected token ids from 0, got {number} in {shown!r}; {remedy}")
    return number


def _not_empty(name: str, row: int, ids: list[int], shown: Any) -> list[int]:
    if not ids:
        raise RowError(row, f"{name}: expected at least one token, got none ({shown!r}); leave the pair out")
    return ids


def _stripped(name: str, ids: Sequence[list[Any]], masks: Sequence[Any]) -> list[list[Any]]:
    if len(masks) != len(ids):
        raise ValueError(f"attention_mask: expected {len(ids)} rows, one for each {name} prompt, got {len(masks)}")
    return [_real(name, row, prompt, mask) for row, (prompt, mask) in enumerate(zip(ids, masks))]


def _real(name: str, row: int, ids: list[Any], mask: Any) -> list[Any]:
    mask = mask.tolist() if hasattr(mask, "tolist") else mask
    if not isinstance(mask, (list, tuple)) or len(mask) != len(ids) or any(value not in (0, 1) for value in mask):
        raise RowError(
            row, f"attention_mask: expected {len(ids)} values 0 or 1, one for each id of {name}, got {mask!r}"
        )
    real = [pos for pos, value in enumerate(mask) if value]
    if not real:
        raise RowError(row, f"attention_mask: expected a real token, got all 0 for {name} {ids!r}; leave the pair out")
    if real[-1] - real[0] + 1 != len(real):
        raise RowError(
            row,
            f"attention_mask: expected one run of 1 with padding only at the left or right, got {mask!r} for {name} "
            f"{ids!r}; take the masked tokens out of the prompt",
        )
    return ids[real[0] : real[-1] + 1]


def _shown(source: Any, ids: Sequence[int], tokenizer: Any) -> str:
    text = f"{source!r} = " if isinstance(source, str) else ""
    return text + (show_tokens(tokenizer, ids) if tokenizer is not None else f"ids {list(ids)}")


def _choices(name: str, row: int, value: Any, tokenizer: Any, padded_rows: bool) -> list[int]:
    value = value.tolist() if hasattr(value, "tolist") else value
    entries = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    while padded_rows and entries and entries[-1] == -1:
        entries.pop()
    if not entries:
        raise RowError(row, f"{name}: expected at least one for every pair, got {value!r}; or give none for any pair")
    return [_choice(name, row, entry, tokenizer, value) for entry in entries]


def _choice(name: str, row: int, entry: Any, tokenizer: Any, value: Any) -> int:
    if not isinstance(entry, str):
        return token_id(name, row, entry, shown=value)
    return encoded_answer(name, row, entry, tokenizer, encode_answer)


def encoded_answer(
    name: str, row: int, text: str, tokenizer: Any, encode: Callable[[Any, str], int | list[int]]
) -> int | list[int]:
    """What a tokenizer makes of an answer; a refusal names the row."""
    if tokenizer is None:
        raise RowError(
            row, f"{name}: expected an id where there is no tokenizer, got {text!r}; pass tokenizer=..., or the id"
        )
    try:
        return encode(tokenizer, text)
    except ValueError as error:
        raise RowError(row, f"{name}: {error}") from None


def _position(row: int, value: Any, length: int) -> int:
    value = -1 if value is None else value
    try:
        position = operator.index(value)
    except TypeError:
        position = None
    if position is None or isinstance(value, bool) or not -length <= position < length:
        raise RowError(
            row,
            f"position: expected an integer from {-length} to {length - 1} (the prompt has {length} tokens without "
            f"padding), got {value!r}; negative counts from the end, None is the last token",
        )
    return position % length
