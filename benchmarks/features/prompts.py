"""Subject-verb agreement in four structures, from word lists of our own.

| structure | prompt | the verb agrees with |
| --- | --- | --- |
| simple | The doctors | doctors |
| across a phrase | The doctors near the car | doctors |
| across a clause | The doctors that the lawyer likes | doctors |
| within a clause | The lawyer that the doctors | doctors |

The corrupted prompt has the noun that counts in the other number; a second noun has any number, the same in both. The
answer is a verb in the right number, the wrong answer the same verb in the other. Words that the tokenizer does not have as
one token are left out, so that prompts of a structure are of one length.

Reference: the structures are those of Marks et al. 2024, section 4, after Finlayson et al. 2021 and Lakretz et al. 2019.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from edge_circuits.benchmarks.tasks.task import Split, in_split, word_token
from edge_circuits.benchmarks.tasks.words import forms
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import choice, refusal

STRUCTURES = ("simple", "across a phrase", "across a clause", "within a clause")
Forms = tuple[str, str]
"""A word in the singular and in the plural."""
NOUNS = "doctor lawyer teacher student author manager driver farmer guard officer singer writer friend player customer pilot"
NOUNS += " girl boy king queen"
ENOUGH = 3  # words of each list


@dataclass(frozen=True)
class Lexicon:
    """The words of the prompts."""

    determiners: tuple[str, str]  # at the start, and inside
    relative: str
    nouns: tuple[Forms, ...]
    prepositions: tuple[str, ...]
    verbs: tuple[Forms, ...]
    with_object: tuple[Forms, ...]

    def for_tokenizer(self, tokenizer: Any) -> Lexicon:
        """The words that are one token inside a sentence.

        Raises:
            ValueError: too few are.
        """

        def known(words: Sequence[Any]) -> tuple[Any, ...]:
            each = ((word,) if isinstance(word, str) else word for word in words)
            anchor = self.determiners[0]
            single = [all(_is_one_token(tokenizer, form, anchor) for form in word) for word in each]
            return tuple(word for word, is_single in zip(words, single) if is_single)

        lists = {name: known(getattr(self, name)) for name in ("nouns", "prepositions", "verbs", "with_object")}
        if few := next((name for name, words in lists.items() if len(words) < ENOUGH), None):
            expected = f"one that has at least {ENOUGH} {few} as one token"
            remedy = "take a model with whole words, e.g. GPT-2's"
            raise refusal("tokenizer", expected, f"one with {len(lists[few])}", remedy)
        return replace(self, **lists)


ENGLISH = Lexicon(
    determiners=("The", "the"),
    relative="that",
    nouns=tuple((noun, noun + "s") for noun in NOUNS.split()),
    prepositions=("near", "behind", "above", "under", "beside", "below"),
    verbs=forms("is are, was were, has have, does do, goes go, says say, likes like"),
    with_object=forms("likes like, knows know, sees see, loves love, helps help, hates hate"),
)


def _is_one_token(tokenizer: Any, word: str, anchor: str) -> bool:
    try:
        return word_token(tokenizer, word, anchor) is not None
    except ValueError:  # a word that the tokenizer does not know
        return False


class Sentence(NamedTuple):
    """One prompt as words, in both numbers of the noun that counts; `number` is 1 for a plural clean one."""

    clean: str
    corrupted: str
    answer: str
    wrong_answer: str
    number: int


class Agreement(NamedTuple):
    """Prompts of a structure, and of each whether the clean noun that counts is plural."""

    pairs: PromptPairs
    numbers: Int[Tensor, " pair"]


def sentence(rng: random.Random, structure: str, words: Lexicon) -> Sentence:
    """Draw one."""
    noun, other = rng.sample(words.nouns, 2)
    number, other_number = rng.randrange(2), rng.randrange(2)
    within = structure == "within a clause"
    verb = rng.choice(words.with_object if within else words.verbs)
    clause_verb, preposition = rng.choice(words.with_object)[other_number], rng.choice(words.prepositions)
    first, inside = words.determiners

    def prompt(of: int) -> str:
        about, beside = noun[of], f"{inside} {other[other_number]}"
        if within:
            return f"{first} {other[other_number]} {words.relative} {inside} {about}"
        after = {"simple": "", "across a phrase": f" {preposition} {beside}"}
        after["across a clause"] = f" {words.relative} {beside} {clause_verb}"
        return f"{first} {about}{after[structure]}"

    return Sentence(prompt(number), prompt(1 - number), f" {verb[number]}", f" {verb[1 - number]}", number)


def agreement(
    structure: str, n: int, tokenizer: Any, words: Lexicon, *, seed: int = 0, split: Split = "train"
) -> Agreement:
    """n prompts of a structure; what is in one split is never in the other, whatever the seeds.

    Raises:
        ValueError: no such structure, or a tokenizer that lacks the words.
    """
    choice("structure", structure, STRUCTURES)
    words = words.for_tokenizer(tokenizer)
    rng, drawn = random.Random(f"{structure} {seed}"), []
    while len(drawn) < n:
        one = sentence(rng, structure, words)
        if in_split(" ".join(sorted((one.clean, one.corrupted))), split):
            drawn.append(one)
    columns = list(zip(*drawn))
    pairs = PromptPairs(*map(list, columns[:4]), tokenizer=tokenizer)
    return Agreement(pairs, torch.tensor(columns[4]))
