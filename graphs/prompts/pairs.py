"""Prompt pairs: what a circuit is scored and run on.

A pair is a clean and a corrupted prompt with as many tokens each, the position at which the answer is read, and,
where a metric needs them, answers and wrong answers as token ids. Inside, prompts are padded on the right: under
causal attention padding never influences a real token, so a pair gives the same numbers in any batch.

    pairs = PromptPairs(["John and Mary ..."], ["Anna and Paul ..."], [" Mary"], [" John"], tokenizer=tokenizer)
    batches = pairs.batches(batch_size=8)                             # similar lengths together
    values = in_order(batches, [measure(batch) for batch in batches])  # back in the order of `pairs`

`edge_circuits.graphs.prompts.validation` checks what comes in, `edge_circuits.graphs.prompts.tokenization` encodes strings, `edge_circuits.graphs.prompts.batching` divides by
length, `edge_circuits.graphs.prompts.csv_jsonl` knows the files.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad

from edge_circuits.graphs.checks import flag, number, refusal, whole_number
from edge_circuits.graphs.files.digest import digest_of_tensors
from edge_circuits.graphs.prompts.batching import equal_bounds, padding_bounds, token_bounds
from edge_circuits.graphs.prompts.continuations import continued, read_at
from edge_circuits.graphs.prompts.csv_jsonl import SPANS, PairColumns, read_csv, read_jsonl, write_csv, write_jsonl
from edge_circuits.graphs.prompts.spans import Spans, SpansGiven
from edge_circuits.graphs.prompts.validation import Choices, Masks, Positions, Prompts, RowError, pad_rows, pair_rows

PAD_ID = 0  # an id that every embedding has; what stands at padding is never read
NO_ANSWER = -1


@dataclass(frozen=True, init=False, eq=False, repr=False)
class PromptPairs:
    """Pairs of prompts, immutable: attributes are frozen, and the tensors (int64) are not to be edited.

    Attributes:
        clean: Token ids, padded on the right with 0 to the longest prompt of this set.
        corrupted: Token ids, as long as `clean` row by row.
        lengths: Number of real tokens of each prompt.
        positions: Where the answer is read, counted from 0 in the prompt.
        answers: Token ids of the right answers, padded with -1; None when none were given.
        wrong_answers: Token ids of the wrong answers, padded with -1; None when none were given.
        rows: Where logits are read if not at `positions` alone, which then are the last of them; padded with -1. With
            `several_tokens`, `answers` has the token at each row, and `wrong_answers` its tokens up to the first that differs.
        spans: The named stretches of tokens, or None.
        indices: Position of each pair in the set that this one was taken from (0, 1, ... for a set of its own).
    """

    clean: Int[Tensor, "pair pos"]
    corrupted: Int[Tensor, "pair pos"]
    lengths: Int[Tensor, "pair"]
    positions: Int[Tensor, "pair"]
    answers: Int[Tensor, "pair choice"] | None
    wrong_answers: Int[Tensor, "pair wrong_choice"] | None
    rows: Int[Tensor, "pair row"] | None
    spans: Spans | None
    indices: Int[Tensor, "pair"]

    def __init__(
        self,
        clean: Prompts,
        corrupted: Prompts,
        answers: Choices = None,
        wrong_answers: Choices = None,
        *,
        tokenizer: Any = None,
        positions: Positions | Mapping[str, Positions] = None,
        prepend_bos: bool | None = None,
        attention_mask: Masks = None,
        spans: SpansGiven | None = None,
        several_tokens: bool = False,
    ) -> None:
        """Pairs from strings and a tokenizer, or from token ids.

        Args:
            clean: Strings, lists of token ids of any lengths, or an integer tensor [pair pos]; on its device if so.
            corrupted: The same for the other prompt of each pair; a pair has as many tokens in both.
            answers: For each pair a token id, a string of exactly one token (mind the leading space), or a list of
                them; counts may differ. Strings are encoded without special tokens. A tensor [pair choice] may
                be padded with -1.
            wrong_answers: The same for wrong answers.
            tokenizer: Needed for strings; anything with `encode`, see `edge_circuits.graphs.prompts.tokenization`.
            positions: Where the answer is read: one for each pair, or one for all. Counted in the prompt's own
                tokens, BOS included and padding not; negative counts from the end; None is the last token. Or several
                under names, {"subject": 3, "end": -1}: then a metric of one's own gets [batch row d_vocab], a row a name.
            prepend_bos: For strings. None: what the tokenizer does by itself; True: exactly one BOS; False: none.
            attention_mask: For padded ids: 1 at real tokens, 0 at padding, left or right, which is stripped. One
                for both prompts, or a tuple (clean, corrupted).
            spans: For each name a stretch of tokens in each prompt, (start, stop) as in a slice or a single position,
                counted like `positions`; the same stretch in clean and corrupted prompt.
            several_tokens: Answers have any number of tokens, one answer a pair (a string, or a list of its ids). Both prompts
                are continued by the answer without its last token, and its tokens are read one after the other.

        Raises:
            ValueError: Empty or unequal sets, or a row that cannot be used; the message shows the row.
        """
        named = positions if isinstance(positions, Mapping) else None
        given = (None, None) if several_tokens else (answers, wrong_answers)
        at = None if named is not None else positions
        rows, read = pair_rows(clean, corrupted, *given, at, attention_mask, tokenizer, prepend_bos), None
        if flag("several_tokens", several_tokens):
            if spans is not None or named is not None:
                raise refusal("several_tokens", "neither spans nor named positions beside it", "one of them")
            rows, read = continued(rows, answers, wrong_answers, tokenizer)
        elif named is not None:
            rows, read = read_at(rows, named)
        device = clean.device if isinstance(clean, Tensor) else torch.device("cpu")
        _fill(
            self,
            clean=pad_rows(rows.clean, PAD_ID).to(device),
            corrupted=pad_rows(rows.corrupted, PAD_ID).to(device),
            lengths=torch.tensor([len(ids) for ids in rows.clean], device=device),
            positions=torch.tensor(rows.positions, device=device),
            answers=None if rows.answers is None else pad_rows(rows.answers, NO_ANSWER).to(device),
            wrong_answers=None if rows.wrong_answers is None else pad_rows(rows.wrong_answers, NO_ANSWER).to(device),
            rows=None if read is None else pad_rows(read, NO_ANSWER).to(device),
            spans=None if spans is None else Spans.given(spans, [len(ids) for ids in rows.clean]).to(device),
            indices=torch.arange(len(rows.clean), device=device),
        )

    @classmethod
    def from_csv(
        cls, path: str | os.PathLike[str], tokenizer: Any = None, *, prepend_bos: bool | None = None
    ) -> PromptPairs:
        """Pairs from a CSV file with the columns of `edge_circuits.graphs.prompts.csv_jsonl`; without a tokenizer it holds token ids."""
        return _from_columns(cls, read_csv(path, texts=tokenizer is not None), tokenizer, prepend_bos)

    @classmethod
    def from_jsonl(
        cls, path: str | os.PathLike[str], tokenizer: Any = None, *, prepend_bos: bool | None = None
    ) -> PromptPairs:
        """Pairs from a JSON Lines file, an object a line with the columns of `edge_circuits.graphs.prompts.csv_jsonl`."""
        return _from_columns(cls, read_jsonl(path), tokenizer, prepend_bos)

    @classmethod
    def concat(cls, sets: Sequence[PromptPairs]) -> PromptPairs:
        """The pairs of several sets one after the other, on the device of the first; `indices` count anew."""
        if not sets:
            raise ValueError("sets: expected at least one, got none")
        for name in ("answers", "wrong_answers", "rows", "spans"):
            if len({getattr(pairs, name) is None for pairs in sets}) > 1:
                missing = next(i for i, pairs in enumerate(sets) if getattr(pairs, name) is None)
                raise ValueError(
                    f"PromptPairs.concat: set {missing} has no {name} and others have; give them to all sets or to none"
                )
        device = sets[0].device
        columns = {f.name: [getattr(pairs, f.name) for pairs in sets] for f in fields(cls)}
        joined = {name: _joined(name, parts, device) for name, parts in columns.items()}
        joined["indices"] = torch.arange(len(joined["clean"]), device=device)
        return _fill(object.__new__(cls), **joined)

    @property
    def device(self) -> torch.device:
        return self.clean.device

    @property
    def mask(self) -> Bool[Tensor, "pair pos"]:
        """True at real tokens, False at padding."""
        return torch.arange(self.clean.shape[1], device=self.device) < self.lengths[:, None]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell other prompts, answers, positions or another order apart."""
        return digest_of_tensors({name: column for name, column in self._content().items() if column is not None})

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        tokens = f"{shortest}-{longest} tokens" if shortest < longest else f"{longest} token{'s'[: longest > 1]}"
        where = "" if self.device.type == "cpu" else f", {self.device}"
        return f"PromptPairs({len(self)} pair{'s'[: len(self) > 1]}, {tokens}{where})"

    def __eq__(self, other: object) -> bool:
        """The same pairs in the same order, whatever the device and `indices`."""
        if not isinstance(other, PromptPairs):
            return NotImplemented
        mine, theirs = self._content(), other._content()
        return mine.keys() == theirs.keys() and all(_same(mine[name], theirs[name]) for name in mine)

    def _content(self) -> dict[str, Tensor | None]:
        """What makes two sets the same: every column but `indices`, spans under their names."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("indices", "spans")}
        if self.spans is not None:
            columns[f"spans {self.spans.names}"] = self.spans.of_token
        return columns

    def __getitem__(self, index: int | slice | Sequence | Tensor) -> PromptPairs:
        """The pairs at an index, slice, list or tensor of indices, or boolean mask, padded to their own longest.

        Raises:
            ValueError: Nothing is selected, or the index is of another kind.
            IndexError: An index out of range.
        """
        chosen = self._chosen(range(len(self))[index] if isinstance(index, slice) else index)
        if not len(chosen):
            raise ValueError(f"pairs[{index!r}] selects none of the {len(self)} pairs; an empty set is not allowed")
        return self._select(chosen)

    def __iter__(self) -> Iterator[PromptPairs]:
        return (self[row] for row in range(len(self)))

    def batches(self, batch_size: int | None = None, max_tokens: int | None = None) -> list[PromptPairs]:
        """Batches of similar length, shortest first; `batch.indices` are the positions in this set.

        The order is deterministic (stable by length). With `batch_size` alone every batch has that size but one, and
        no division into batches of these sizes has less padding.

        Args:
            batch_size: Most pairs in a batch; None: any number.
            max_tokens: Most tokens in a batch, padding included, of the clean prompts; a prompt that is longer is
                a batch of its own. None: any number.
        """
        for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
            if value is not None:
                whole_number(name, value, 1, remedy="or leave it None")
        order = torch.argsort(self.lengths, stable=True)
        lengths = self.lengths[order].tolist()
        if max_tokens is None:
            bounds = equal_bounds(lengths, batch_size or len(self))
        else:
            bounds = token_bounds(lengths, batch_size or len(self), max_tokens)
        return [self._select(order[start:stop]) for start, stop in pairwise(bounds)]

    def by_size(self, sizes: Int[Tensor, " pair"], max_padding: float) -> list[PromptPairs]:
        """Batches of similar sizes, smallest first, padded by at most that share of their real sizes; `indices` stay."""
        order = torch.argsort(sizes, stable=True)
        bounds = padding_bounds(sizes[order].tolist(), number("max_padding", max_padding, least=0))
        return [self._with_indices(order[start:stop]) for start, stop in pairwise(bounds)]

    def split(self, n_train: int, seed: int = 0) -> tuple[PromptPairs, PromptPairs]:
        """A random division into train and test, each in the order of this set; the same for the same seed."""
        whole_number("n_train", n_train, 1, len(self) - 1, "train and test both need a pair")
        train = set(random.Random(seed).sample(range(len(self)), n_train))
        return self[sorted(train)], self[[row for row in range(len(self)) if row not in train]]

    def groups(self, n_groups: int) -> list[PromptPairs]:
        """Sets of nearly equal size, group i with every n-th pair from the i-th on; one pair each if there are fewer pairs."""
        n_groups = min(whole_number("n_groups", n_groups, 1), len(self))
        return [self[start::n_groups] for start in range(n_groups)]

    def with_spans(self, spans: SpansGiven) -> PromptPairs:
        """The same pairs with these spans, given as to `PromptPairs`.

        Raises:
            ValueError: Stretches that do not fit the prompts.
        """
        return self._replaced(spans=Spans.given(spans, self.lengths.tolist()).to(self.device))

    def by_token(self) -> PromptPairs:
        """The same pairs with a span for each position.

        Raises:
            ValueError: Prompts of several lengths.
        """
        if len(set(self.lengths.tolist())) > 1:
            got = f"{int(self.lengths.min())} to {int(self.lengths.max())} tokens"
            remedy = "name the stretches that play one role in all of them: PromptPairs(spans={...})"
            raise refusal("pairs", "prompts of one length", got, remedy)
        return self._replaced(spans=Spans.by_token(len(self), self.clean.shape[1]).to(self.device))

    def repeated(self, n: int) -> PromptPairs:
        """n copies one after the other; the spans of each are its own, and numbered on from those of the copy before."""
        copies = self._with_indices(torch.arange(len(self), device=self.device).repeat(n))
        return copies if self.spans is None else copies._replaced(spans=self.spans.repeated(n))

    def swapped(self) -> PromptPairs:
        """Clean and corrupted exchanged; answers and positions stay as they are."""
        return self._replaced(clean=self.corrupted, corrupted=self.clean)

    def check_answers(self, d_vocab: int) -> None:
        """Refuse answers that a model has no logit for.

        Raises:
            ValueError: An answer's id is not below d_vocab; the message names the row.
        """
        for name in ("answers", "wrong_answers"):
            choices = getattr(self, name)
            if choices is not None and (bad := choices >= d_vocab).any():
                row, column = bad.nonzero()[0].tolist()
                given = f"{choices[row, column].item()} in row {self.indices[row].item()}"
                raise refusal(name, f"ids below the model's {d_vocab} logits", given, "take this model's tokenizer")

    @property
    def n_identical(self) -> int:
        """How many pairs have the clean prompt as the corrupted one, so that patching changes nothing."""
        return int((self.clean == self.corrupted).all(1).sum())

    def identical(self) -> PromptPairs:
        """The clean prompt in the corrupted one's place, so that cutting changes nothing."""
        return self._replaced(corrupted=self.clean)

    def read_at_the_end(self) -> PromptPairs:
        """The answer position at the last token of each prompt."""
        return self._replaced(positions=self.lengths - 1, rows=None)

    def to(self, device: torch.device | str) -> PromptPairs:
        """The same pairs on a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return self._replaced(**{name: value.to(device) for name, value in moved.items() if value is not None})

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes token ids, whole or not at all; read again by `PromptPairs.from_csv(path)` without a tokenizer."""
        write_csv(path, self._records())

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Writes token ids, whole or not at all; read again by `PromptPairs.from_jsonl(path)`."""
        write_jsonl(path, self._records())

    def _records(self) -> Iterator[dict[str, Any]]:
        if self.rows is not None:
            raise refusal("pairs", "pairs read at one position, to write them to a file", "pairs read at several")
        for row, length in enumerate(self.lengths.tolist()):
            record = {"clean": self.clean[row, :length].tolist(), "corrupted": self.corrupted[row, :length].tolist()}
            for name in ("answers", "wrong_answers"):
                if (choices := getattr(self, name)) is not None:
                    record[name] = [token for token in choices[row].tolist() if token != NO_ANSWER]
            spans = {} if self.spans is None else {SPANS: self.spans.written(row)}
            yield {**record, "position": int(self.positions[row]), **spans}

    def _chosen(self, index: int | Sequence | Tensor) -> Int[Tensor, "chosen"]:
        chosen = torch.as_tensor(index, device=self.device).reshape(-1)
        if not chosen.numel():
            return chosen.long()
        if chosen.dtype == torch.bool and len(chosen) == len(self):
            return chosen.nonzero()[:, 0]
        if chosen.dtype == torch.bool or chosen.is_floating_point():
            raise ValueError(
                f"pairs[...]: expected integers, a slice or {len(self)} booleans, got {len(chosen)} of {chosen.dtype}"
            )
        if int(chosen.max()) >= len(self) or int(chosen.min()) < -len(self):
            raise IndexError(f"pairs[...]: expected {-len(self)} to {len(self) - 1}, got {index!r}")
        return chosen.long() % len(self)

    def _select(self, chosen: Int[Tensor, "chosen"]) -> PromptPairs:
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("indices", "spans")}
        taken = {name: None if value is None else value[chosen] for name, value in columns.items()}
        longest = int(taken["lengths"].max())
        taken["spans"] = None if self.spans is None else self.spans.select(chosen, longest)
        for name in ("clean", "corrupted"):
            taken[name] = taken[name][:, :longest]
        for name in ("answers", "wrong_answers"):
            if taken[name] is not None and self.rows is None:  # with rows, all batches keep as many
                taken[name] = taken[name][:, (taken[name] != NO_ANSWER).any(0)]
        return _fill(object.__new__(type(self)), **taken, indices=chosen)

    def _with_indices(self, chosen: Int[Tensor, "chosen"]) -> PromptPairs:
        """These pairs under the indices that they have here."""
        return self._select(chosen)._replaced(indices=self.indices[chosen])

    def _replaced(self, **changed: Tensor | Spans | None) -> PromptPairs:
        return _fill(object.__new__(type(self)), **{f.name: getattr(self, f.name) for f in fields(self)} | changed)


def check_pairs(pairs: object) -> None:
    """Refuse what are no pairs, such as a tuple of prompts."""
    if not isinstance(pairs, PromptPairs):
        raise refusal("pairs", "PromptPairs", type(pairs).__name__, "PromptPairs(clean=..., corrupted=...) makes them")


def in_order(batches: Sequence[PromptPairs], values: Sequence[Shaped[Tensor, "_ ..."]]) -> Shaped[Tensor, "pair ..."]:
    """Values computed batch by batch, put back into the order of the set that was batched; differentiable.

    Args:
        batches: What `pairs.batches` returned.
        values: For each batch a tensor whose first axis is the batch.
    """
    sizes, given = [len(batch) for batch in batches], [len(value) for value in values]
    if sizes != given:
        raise refusal("values", f"one for each pair, batches of {sizes}", given)
    indices = torch.cat([batch.indices for batch in batches])
    back = torch.argsort(indices)
    if not torch.equal(indices[back], torch.arange(len(indices), device=indices.device)):
        raise refusal("batches", "every pair of a set exactly once", "others", "pass all that pairs.batches() returned")
    joined = torch.cat(list(values))
    return joined[back.to(joined.device)]


def _fill(pairs: PromptPairs, **columns: Tensor | Spans | None) -> PromptPairs:
    for name, value in columns.items():
        object.__setattr__(pairs, name, value)
    return pairs


def _from_columns(
    cls: type[PromptPairs], columns: PairColumns, tokenizer: Any, prepend_bos: bool | None
) -> PromptPairs:
    given = (columns.clean, columns.corrupted, columns.answers, columns.wrong_answers)
    try:
        spans = None if columns.spans is None else Spans.of_rows(columns.spans)
        pairs = cls(*given, positions=columns.positions, tokenizer=tokenizer, prepend_bos=prepend_bos, spans=spans)
        for row, (told, length) in enumerate(zip(columns.lengths or (), pairs.lengths.tolist())):
            if told != length:
                raise RowError(row, str(refusal("length", f"the prompt's {length} tokens, BOS counted", told)))
        return pairs
    except RowError as error:
        raise ValueError(f"{columns.path}, line {columns.lines[error.row]}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{columns.path}: {error}") from None


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one.cpu(), other.cpu())


def _joined(name: str, parts: Sequence[Tensor | Spans | None], device: torch.device) -> Tensor | Spans | None:
    if parts[0] is None:
        return None
    if name == "spans":
        return Spans.concat(parts).to(device)
    if parts[0].ndim == 2:
        fill = PAD_ID if name in ("clean", "corrupted") else NO_ANSWER
        width = max(part.shape[1] for part in parts)
        parts = [pad(part, (0, width - part.shape[1]), value=fill) for part in parts]
    return torch.cat([part.to(device) for part in parts])
