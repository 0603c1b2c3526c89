"""Greater-Than: "The war lasted from the year 1732 to 17" -> a year above 32.

The model should put its probability on the two-digit tokens above YY of the start year CCYY; the corrupted prompt
begins in CC01, which allows nearly all years. Years are those that the tokenizer writes as " CC" and "YY", and per
century the first and the last of them are left out.

Word level: ten nouns, centuries 11 to 17, years 02 to 98, two endings of different lengths.

Reference: Hanna, Liu and Variengien 2023, How does GPT-2 compute greater-than? (arXiv 2305.00586); the variants name
their origins.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from edge_circuits.benchmarks.tasks.task import (
    Split,
    Task,
    TextPair,
    Variant,
    in_split,
    single_token_words,
    stored_variants,
    take,
    word_lists,
    word_token,
)
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.prompts.tokenization import encode_prompt, show_tokens

CENTURIES = range(11, 18)
TO, TO_THE_YEAR = "to", "to the year"
CORRUPTED_YEAR = 1
ALL_YEARS = tuple(f"{year:02d}" for year in range(100))


class Prompt(NamedTuple):
    """What a prompt says."""

    to: str
    noun: str
    century: int
    year: int  # in the century

    @property
    def text(self) -> str:
        return f"The {self.noun} lasted from the year {self.century}{self.year:02d} {self.to} {self.century}"

    @property
    def content(self) -> str:
        return f"{self.noun} {self.century}{self.year:02d}"


@dataclass(frozen=True, kw_only=True)
class GreaterThanVariant(Variant):
    """Adds the words before the second year, the noun list, the range of years before the ends are left out, and how they are drawn.

    Years are drawn "uniform" over all centuries' years, or "balanced": first the two digits, then the century.
    """

    to: str = TO
    nouns: str = "nouns"
    years: tuple[int, int] = (2, 99)
    draw: str = "uniform"


def texts(tokenizer: Any, variant: GreaterThanVariant, n: int, seed: int, split: Split) -> list[TextPair]:
    """Text pairs of a variant; nouns that are not one token are left out of its list.

    Raises:
        ValueError: The tokenizer does not write years as a century and two digits.
    """
    nouns = single_token_words(tokenizer, word_lists("greater_than")[variant.nouns], TASK.anchor, 1, TASK.name)
    years = years_of(tokenizer, range(*variant.years))
    if variant.draw == "uniform":
        prompts = _uniform(variant.to, nouns, years, n, seed)
    else:
        prompts = _balanced((variant.to,), nouns, years, random.Random(f"greater_than {seed}"))
    return take((_text_pair(prompt, _start_in_01(prompt)) for prompt in prompts), n, split)


def word_texts(variant: str, n: int, seed: int, split: Split) -> list[TextPair]:
    """Word-level text pairs with both endings."""
    others = random.Random(f"greater_than corruption {seed}")
    prompts = _balanced((TO, TO_THE_YEAR), WORD_NOUNS, WORD_YEARS, random.Random(f"greater_than words {seed}"))
    if variant == "random":
        pairs = (_text_pair(prompt, _other_prompt(prompt, others)) for prompt in prompts)
    else:
        pairs = (_text_pair(prompt, _start_in_01(prompt)) for prompt in prompts)
    return take(pairs, n, split)


def years_of(tokenizer: Any, allowed: range) -> list[tuple[int, int]]:
    """The years (century, two digits) that can be used, in order.

    A century counts when its year 01, that of the corrupted prompt, can be written too.

    Raises:
        ValueError: There is none, or one of "00" to "99" is not one token.
    """
    digits = [encode_prompt(tokenizer, year, False) for year in ALL_YEARS]
    if long := [year for year, ids in enumerate(digits) if len(ids) != 1]:
        raise _refusal(tokenizer, ALL_YEARS[long[0]], "each of '00' to '99' as one token", digits[long[0]])
    years = []
    for century in CENTURIES:
        split = _split_years(tokenizer, century, [ids[0] for ids in digits])
        if CORRUPTED_YEAR in split:
            years += [(century, year) for year in [year for year in split if year in allowed][1:-1]]
    if not years:
        ids = encode_prompt(tokenizer, "year 1732", False)
        raise _refusal(tokenizer, "year 1732", "years such as ' 1732' as ' 17' and '32'", ids)
    return years


def _split_years(tokenizer: Any, century: int, digits: Sequence[int]) -> list[int]:
    """The years of a century that are the token of " CC" and the token of "YY"."""
    before = [*encode_prompt(tokenizer, TASK.anchor, False), word_token(tokenizer, str(century), TASK.anchor)]
    texts = [f"{TASK.anchor} {century}{year:02d}" for year in range(100)]
    return [year for year in range(100) if encode_prompt(tokenizer, texts[year], False) == [*before, digits[year]]]


def _refusal(tokenizer: Any, text: str, expected: str, ids: Sequence[int]) -> ValueError:
    got = f"one that makes {show_tokens(tokenizer, ids)} of {text!r}"
    remedy = "use a model whose tokenizer has two-digit tokens, e.g. GPT-2"
    return refusal(f"task {TASK.name!r}", f"a tokenizer that writes {expected}", got, remedy)


def _uniform(to: str, nouns: Sequence[str], years: Sequence[tuple[int, int]], n: int, seed: int) -> Iterator[Prompt]:
    """As ACDC's loader: n nouns are drawn with torch, then n years; further rounds of n when a split needs more."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        drawn_nouns = torch.randint(0, len(nouns), (n,), generator=generator).tolist()
        drawn_years = torch.randint(0, len(years), (n,), generator=generator).tolist()
        for noun, year in zip(drawn_nouns, drawn_years):
            yield Prompt(to, nouns[noun], *years[year])


def _balanced(
    endings: Sequence[str], nouns: Sequence[str], years: Sequence[tuple[int, int]], rng: random.Random
) -> Iterator[Prompt]:
    centuries: dict[int, list[int]] = {}
    for century, year in years:
        centuries.setdefault(year, []).append(century)
    all_digits = sorted(centuries)
    while True:
        year = rng.choice(all_digits)
        yield Prompt(rng.choice(endings), rng.choice(nouns), rng.choice(centuries[year]), year)


def _start_in_01(prompt: Prompt) -> Prompt:
    return prompt._replace(year=CORRUPTED_YEAR)


def _other_prompt(clean: Prompt, rng: random.Random) -> Prompt:
    """A random word-level prompt of the same ending and split with another noun, century and year."""
    other = Prompt(clean.to, rng.choice(WORD_NOUNS), *rng.choice(WORD_YEARS))
    differs = all(one != another for one, another in zip(other[1:], clean[1:]))
    same_side = in_split(other.content, "test") == in_split(clean.content, "test")
    return other if differs and same_side else _other_prompt(clean, rng)


def _text_pair(clean: Prompt, corrupted: Prompt) -> TextPair:
    text = clean.text
    century = text.index(f" {clean.century}")
    starts = {"noun": len("The"), "century": century, "year": century + 3}
    later, earlier = ALL_YEARS[clean.year + 1 :], ALL_YEARS[: clean.year + 1]
    return TextPair(text, corrupted.text, later, earlier, starts, clean.content)


VARIANTS = stored_variants("greater_than", GreaterThanVariant)
WORD_NOUNS = tuple(word_lists("greater_than")["nouns_eap_ig"][:10])
WORD_YEARS = tuple((century, year) for century in CENTURIES for year in range(2, 99))

TASK = Task(
    name="greater_than",
    anchor="year",
    variants=VARIANTS,
    word_variants=(*(variant.name for variant in VARIANTS), "random"),
    words=(
        *("The", "lasted", "from", "the", "year", "to"),
        *WORD_NOUNS,
        *(f" {century}" for century in CENTURIES),
        *ALL_YEARS,
    ),
    texts=texts,
    word_texts=word_texts,
)
