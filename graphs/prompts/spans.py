"""Spans: named stretches of tokens, a stretch a prompt, so that one name means one role in prompts of any lengths.

    pairs = PromptPairs(clean, corrupted, answers, spans={"S1": [(2, 3), (4, 6)], "end": [(-1, None), (-1, None)]})
    pairs.spans.names                    # ("S1", "end", "rest")
    pairs.by_token()                     # a span for each position, for prompts of one length

Every token belongs to one span; tokens in none of those given are in "rest". A span may be empty in a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.prompts.validation import RowError

SpansGiven: TypeAlias = Mapping[str, Sequence[tuple[int, int | None] | int]]
"""For each name and prompt (start, stop) as in a slice, None for the end; or the position of a single token."""

REST = "rest"
PADDING = -1


@dataclass(frozen=True, eq=False)
class Spans:
    """The span of every token of a prompt set.

    Attributes:
        names: The spans.
        of_token: The span of each token, as an index into `names`; -1 at padding. [pair pos]
    """

    names: tuple[str, ...]
    of_token: Int[Tensor, "pair pos"]

    @classmethod
    def given(cls, spans: SpansGiven, lengths: Sequence[int]) -> Spans:
        """Spans from what a caller says, for prompts of these lengths.

        Raises:
            ValueError: Not one stretch a prompt, one outside of its prompt, two that share a token, or a name that is
                empty or "rest".
        """
        of_token = torch.full((len(lengths), max(lengths)), PADDING, device="cpu")
        names = (*spans, REST)
        for row, length in enumerate(lengths):
            of_token[row, :length] = len(spans)
        for number, (name, stretches) in enumerate(spans.items()):
            if not isinstance(name, str) or not name or name == REST:
                raise refusal("spans", f"names other than {REST!r}", repr(name), "give the span another name")
            if len(stretches) != len(lengths):
                raise refusal(f"spans[{name!r}]", f"a stretch for each of {len(lengths)} prompts", len(stretches))
            for row, stretch in enumerate(stretches):
                start, stop = _within(name, row, stretch, lengths[row])
                taken = of_token[row, start:stop]
                if (shared := (taken != len(spans)).nonzero()).numel():
                    other = f"token {start + int(shared[0, 0])} of {names[int(taken[shared[0, 0]])]!r}"
                    raise _refused(name, row, "tokens of no other span", other)
                taken.fill_(number)
        return cls(names if (of_token == len(spans)).any() else names[:-1], of_token)

    @staticmethod
    def of_rows(rows: Sequence[Mapping[str, Any] | None]) -> SpansGiven:
        """What `given` takes, from an object of names and stretches for each prompt.

        Raises:
            RowError: Rows of other names than the first.
        """
        names = list(rows[0]) if isinstance(rows[0], Mapping) else []
        for row, stretches in enumerate(rows):
            if not isinstance(stretches, Mapping) or sorted(stretches) != sorted(names):
                got = list(stretches) if isinstance(stretches, Mapping) else repr(stretches)
                raise RowError(row, str(refusal("spans", f"an object with the names of row 0, {names}", got)))
        found = {name: [row[name] for row in rows] for name in names}
        return {name: [tuple(each) if isinstance(each, list) else each for each in found[name]] for name in names}

    @classmethod
    def by_token(cls, n_pairs: int, n_tokens: int) -> Spans:
        """A span for each position, named by its number."""
        return cls(tuple(map(str, range(n_tokens))), torch.arange(n_tokens, device="cpu").repeat(n_pairs, 1))

    @classmethod
    def concat(cls, parts: Sequence[Spans]) -> Spans:
        """Those of several sets one after the other; all have the same names.

        Raises:
            ValueError: Other names.
        """
        for number, part in enumerate(parts):
            if part.names != parts[0].names:
                raise refusal(f"sets[{number}].spans", f"those of the first set, {parts[0].names}", part.names)
        width = max(part.of_token.shape[1] for part in parts)
        device = parts[0].of_token.device
        rows = [pad(part.of_token, (0, width - part.of_token.shape[1]), value=PADDING) for part in parts]
        return cls(parts[0].names, torch.cat([each.to(device) for each in rows]))

    def __len__(self) -> int:
        return len(self.names)

    def select(self, chosen: Int[Tensor, "chosen"], width: int) -> Spans:
        """Those of some pairs, padded to a width."""
        return Spans(self.names, self.of_token[chosen][:, :width])

    def to(self, device: torch.device | str) -> Spans:
        """The same on a device."""
        return Spans(self.names, self.of_token.to(device))

    def repeated(self, n: int) -> Spans:
        """n copies one after the other, each with spans of its own."""
        shifts = torch.arange(n, device=self.of_token.device).repeat_interleave(len(self.of_token))[:, None]
        moved = self.of_token.repeat(n, 1) + len(self) * shifts
        return Spans(self.names * n, moved.where(self.of_token.repeat(n, 1) != PADDING, PADDING))

    def where(self, number: int) -> Bool[Tensor, "pair pos"]:
        """True at the tokens of a span."""
        return self.of_token == number

    def stretches(self, row: int) -> dict[str, list[int]]:
        """The positions of each span in a prompt."""
        return {name: self.where(number)[row].nonzero()[:, 0].tolist() for number, name in enumerate(self.names)}

    def written(self, row: int) -> dict[str, list[int]]:
        """The named stretches of a prompt, [start, stop], as `of_rows` takes them."""
        found = {name: at for name, at in self.stretches(row).items() if name != REST}
        return {name: [at[0], at[-1] + 1] if at else [0, 0] for name, at in found.items()}


def _within(name: str, row: int, stretch: tuple[int, int | None] | int, length: int) -> tuple[int, int]:
    """Start and stop, counted from the start of a prompt of `length` tokens."""
    ends = (stretch, stretch + 1 or None) if type(stretch) is int else stretch
    is_stretch = isinstance(ends, Sequence) and [type(each) for each in ends] in ([int, int], [int, type(None)])
    if is_stretch:
        start, stop = (end + length if end < 0 else end for end in (ends[0], length if ends[1] is None else ends[1]))
    if not is_stretch or not 0 <= start <= stop <= length:
        raise _refused(name, row, f"a stretch within {length} tokens, start before stop", repr(stretch))
    return start, stop


def _refused(name: str, row: int, expected: str, got: str) -> RowError:
    return RowError(row, str(refusal(f"spans[{name!r}][{row}]", expected, got)))
