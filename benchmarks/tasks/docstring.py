'''Docstring: a function signature, then a docstring that names its arguments in order; the next name is asked for.

    def port(self, load, size, files, last, page, row):
        """tree egg film

        :param files: match bird
        :param last: heat gate
        :param

-> " page". In the signature stand two names before the three that match and one after them.

Word level: the same text with one to three names before and none to two after the matching ones, two nouns in the
first line and one or two for each argument, so that no position is fixed; 30 identifiers, 15 nouns.

Reference: Heimersheim and Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer
(Alignment Forum); the variants name their origins.
'''

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple, TypeAlias

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
)

PUBLISHED_SHAPE = (2, 1)  # names in the signature before and after the matching ones
SEEDS_APART = 1_000_000  # prompt i of seed s has the generator s * SEEDS_APART + i; seed 0 is ACDC's


class Names(NamedTuple):
    """The distinct identifiers drawn for one prompt, in the order in which they are drawn."""

    method: str
    answer: str  # takes C's place when only the answer is corrupted
    signature: tuple[str, ...]  # take the places of A, B, C in the signature
    doc: tuple[str, ...]  # take the places of A, B in the docstring
    unmatched: tuple[str, ...]  # take the places of A, B in one of the two
    matching: tuple[str, ...]  # A, B, C
    before: tuple[str, ...]
    after: tuple[str, ...]


class Nouns(NamedTuple):
    """The words of the three docstring lines."""

    first: tuple[str, ...]
    a: tuple[str, ...]
    b: tuple[str, ...]


Places: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]  # the three of the signature, the two of the docstring

CORRUPTIONS: Mapping[str, Callable[[Names], Places]] = {
    "random-random": lambda names: (names.signature, names.doc),
    "random-doc": lambda names: (names.matching, names.unmatched),
    "random-def": lambda names: ((*names.unmatched, names.matching[2]), names.matching[:2]),
    "random-answer": lambda names: ((*names.matching[:2], names.answer), names.matching[:2]),
}


@dataclass(frozen=True, kw_only=True)
class DocstringVariant(Variant):
    """Adds the corruption, a key of `CORRUPTIONS`, and whether one generator goes through all prompts."""

    corruption: str = "random-random"
    one_generator: bool = False


def texts(tokenizer: Any, variant: DocstringVariant, n: int, seed: int, split: Split) -> list[TextPair]:
    """Text pairs of a variant; identifiers that are not one token are left out of the list."""
    lists = word_lists("docstring")
    needed = 12 + sum(PUBLISHED_SHAPE)
    identifiers = single_token_words(tokenizer, lists["identifiers"], TASK.anchor, needed, TASK.name)
    rngs = _one_generator(seed) if variant.one_generator else _generators(seed)
    return take(_stream(identifiers, lists["nouns"], CORRUPTIONS[variant.corruption], rngs), n, split)


def word_texts(variant: str, n: int, seed: int, split: Split) -> list[TextPair]:
    """Word-level text pairs of changing shape."""
    return take(_word_stream(variant, random.Random(f"docstring words {seed}")), n, split)


def _generators(seed: int) -> Iterator[random.Random]:
    """ACDC: a new generator for each prompt, seeded with its number."""
    return (random.Random(number) for number in count(seed * SEEDS_APART))


def _one_generator(seed: int) -> Iterator[random.Random]:
    """AutoCircuit: one generator, which after each prompt is used twice more, for a corruption that is not taken."""
    rng = random.Random(seed)
    while True:
        yield rng
        rng.randint(0, 1), rng.randint(0, 1)


def _stream(
    identifiers: Sequence[str], nouns: Sequence[str], corrupt: Callable[[Names], Places], rngs: Iterator[random.Random]
) -> Iterator[TextPair]:
    """Prompts drawn call by call as ACDC's generator does: all identifiers at once, then the nouns of each line."""
    for rng in rngs:
        names = _names(identifiers, PUBLISHED_SHAPE, rng)
        words = Nouns(*(tuple(rng.sample(nouns, size)) for size in (3, 2, 2)))
        yield _text_pair(names, words, _text(names, corrupt(names), words)[0])


def _word_stream(variant: str, rng: random.Random) -> Iterator[TextPair]:
    while True:
        shape = rng.choice((1, 2, 3)), rng.choice((0, 1, 2))
        sizes = 2, rng.choice((1, 2)), rng.choice((1, 2))
        names = _names(WORD_IDENTIFIERS, shape, rng)
        words = _words(sizes, rng)
        if variant == "random":
            corrupted = _other_prompt(names, shape, sizes, rng)
        else:
            corrupted = _text(names, CORRUPTIONS[WORD_CORRUPTIONS[variant]](names), words)[0]
        yield _text_pair(names, words, corrupted)


def _other_prompt(clean: Names, shape: tuple[int, int], sizes: tuple[int, int, int], rng: random.Random) -> str:
    """A random prompt of the same shape and split without any identifier of the clean one."""
    shown = {clean.method, *clean.before, *clean.matching, *clean.after}
    left = [name for name in WORD_IDENTIFIERS if name not in shown]
    other = _names(left, shape, rng)
    while in_split(_content(other), "test") != in_split(_content(clean), "test"):
        other = _names(left, shape, rng)
    return _text(other, (other.matching, other.matching[:2]), _words(sizes, rng))[0]


def _names(identifiers: Sequence[str], shape: tuple[int, int], rng: random.Random) -> Names:
    sizes = (1, 1, 3, 2, 2, 3, *shape)
    drawn = iter(rng.sample(identifiers, sum(sizes)))
    method, answer, *groups = [tuple(next(drawn) for _ in range(size)) for size in sizes]
    return Names(method[0], answer[0], *groups)


def _words(sizes: tuple[int, int, int], rng: random.Random) -> Nouns:
    return Nouns(*(tuple(rng.sample(WORD_NOUNS, size)) for size in sizes))


def _text(names: Names, places: Places, words: Nouns) -> tuple[str, dict[str, int]]:
    """The prompt with these names in the changing places, and where its named tokens start."""
    (a_def, b_def, c_def), (a_doc, b_doc) = places
    pieces = [
        (None, f"\ndef {names.method}(self,"),
        *((None, f" {name},") for name in names.before),
        ("A_def", f" {a_def}"),
        (None, ","),
        ("B_def", f" {b_def}"),
        ("comma_B", ","),
        ("C_def", f" {c_def}"),
        *((None, f", {name}") for name in names.after),
        (None, f'):\n    """{" ".join(words.first)}\n\n    :param'),
        ("A_doc", f" {a_doc}"),
        (None, f": {' '.join(words.a)}\n    :param"),
        ("B_doc", f" {b_doc}"),
        (None, f": {' '.join(words.b)}\n    :param"),
    ]
    text, starts = "", {}
    for role, piece in pieces:
        if role:
            starts[role] = len(text)
        text += piece
    return text, starts


def _text_pair(names: Names, words: Nouns, corrupted: str) -> TextPair:
    clean, starts = _text(names, (names.matching, names.matching[:2]), words)
    *others, answer = names.matching
    wrong = (names.answer, *names.signature, *names.doc, *names.unmatched, *others, *names.before, *names.after)
    return TextPair(clean, corrupted, (f" {answer}",), tuple(f" {name}" for name in wrong), starts, _content(names))


def _content(names: Names) -> str:
    """The three matching names, in any order."""
    return " ".join(sorted(names.matching))


VARIANTS = stored_variants("docstring", DocstringVariant)
WORD_IDENTIFIERS = tuple(word_lists("docstring")["identifiers"][:30])
WORD_NOUNS = tuple([noun for noun in word_lists("docstring")["nouns"] if noun not in WORD_IDENTIFIERS][:15])
WORD_CORRUPTIONS = {variant.name: variant.corruption for variant in VARIANTS}

TASK = Task(
    name="docstring",
    anchor="param",
    variants=VARIANTS,
    word_variants=(*WORD_CORRUPTIONS, "random"),
    words=("def", "(", "self", ",", ")", ":", '"""', "param", *WORD_IDENTIFIERS, *WORD_NOUNS),
    texts=texts,
    word_texts=word_texts,
)
