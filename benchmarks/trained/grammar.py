"""Sentences of a small English grammar: verbs agree with their subjects in number, pronouns refer back to subjects.

    the old kings near the dog see a boy . they smile .
    a girl that the boys like helps herself . she is happy .

- `number`: the prompt ends before the verb of a subject with another noun between, "the kings near the dog"; the corrupted
  subject has the other number. Answers are the verbs that fit, wrong answers the same verbs in the other number.
- `pronoun`: the prompt ends after a whole sentence; the answer is the pronoun of its subject, the wrong answer that of the
  corrupted subject, which differs in number or gender.

GPT-2's shape: 3 layers of 4 heads with MLPs, LayerNorm, learned positions; the embedding is the unembedding.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from edge_circuits.benchmarks.tasks.task import Split, in_split
from edge_circuits.benchmarks.tasks.token_pairs import TokenPair
from edge_circuits.benchmarks.tasks.words import forms
from edge_circuits.benchmarks.trained.language import BOS, Example, Language, Task, Training, gpt2_settings

SINGULAR, PLURAL = 0, 1


class Noun(NamedTuple):
    """Singular and plural, and the pronoun of the singular."""

    forms: tuple[str, str]
    pronoun: str

    def refers(self, number: int) -> str:
        """The pronoun for it."""
        return "they" if number == PLURAL else self.pronoun


NOUNS = (
    *(Noun(each, "he") for each in forms("boy boys, king kings, man men, father fathers")),
    *(Noun(each, "she") for each in forms("girl girls, queen queens, woman women, mother mothers")),
    *(Noun(each, "it") for each in forms("dog dogs, cat cats, horse horses, bird birds")),
)
WITH_OBJECT = forms("sees see, likes like, helps help, knows know, follows follow")
ALONE = forms("smiles smile, sleeps sleep, runs run, waits wait")
BE = ("is", "are")
ADJECTIVES = ("old", "young", "small", "happy", "tired", "hungry")
PREPOSITIONS = ("near", "behind", "beside", "above")
REFLEXIVE = {"he": "himself", "she": "herself", "it": "itself", "they": "themselves"}
DETERMINERS = (("the", "a", "this", "that"), ("the", "some", "these", "those"))

VERBS = (*WITH_OBJECT, *ALONE, BE)

INFLECTED = (*(noun.forms for noun in NOUNS), *VERBS, *DETERMINERS)
OTHERS = (*ADJECTIVES, *PREPOSITIONS, *REFLEXIVE, *REFLEXIVE.values(), "who", ".")
WORDS = tuple(dict.fromkeys((*(word for each in INFLECTED for word in each), *OTHERS)))
ID = {word: token + 2 for token, word in enumerate(WORDS)}  # behind padding and BOS


class Subject(NamedTuple):
    """A subject as words, with the noun and number that count."""

    words: list[str]
    noun: Noun
    number: int


def phrase(rng: random.Random, noun: Noun | None = None, number: int | None = None) -> Subject:
    """A noun with its determiner, and an adjective now and then."""
    noun = rng.choice(NOUNS) if noun is None else noun
    number = rng.randrange(2) if number is None else number
    adjective = [rng.choice(ADJECTIVES)] if rng.random() < 0.3 else []
    return Subject([rng.choice(DETERMINERS[number]), *adjective, noun.forms[number]], noun, number)


def subject(rng: random.Random, kind: str | None = None) -> Subject:
    """A subject: plain, with a preposition and a noun, or with a relative clause about its own verb or another's."""
    head = phrase(rng)
    kind = rng.choice(("plain", "plain", "preposition", "own verb", "other verb")) if kind is None else kind
    other = phrase(rng)
    if kind == "plain":
        return head
    if kind == "preposition":
        after = [rng.choice(PREPOSITIONS), *other.words]
    elif kind == "own verb":
        after = ["who", rng.choice(WITH_OBJECT)[head.number], *other.words]
    else:
        after = ["who", *other.words, rng.choice(WITH_OBJECT)[other.number]]
    return Subject([*head.words, *after], head.noun, head.number)


def predicate(rng: random.Random, noun: Noun, number: int) -> list[str]:
    """What a subject does or is."""
    kind = rng.random()
    if kind < 0.25:
        return [rng.choice(ALONE)[number]]
    if kind < 0.5:
        return [BE[number], rng.choice(ADJECTIVES)]
    thing = [REFLEXIVE[noun.refers(number)]] if kind < 0.65 else phrase(rng).words
    return [rng.choice(WITH_OBJECT)[number], *thing]


def sentences(rng: random.Random) -> list[str]:
    """A sentence, and one more about the pronoun of its subject."""
    about = subject(rng)
    pronoun = about.noun.refers(about.number)
    first = [*about.words, *predicate(rng, about.noun, about.number), "."]
    return [*first, pronoun, *predicate(rng, about.noun, about.number), "."]


def sequence(rng: random.Random) -> Example:
    """What the model learns: two sentences; those of test prompts' contents too, since any sentence may come."""
    return Example(_ids(sentences(rng)))


def number_pair(rng: random.Random, split: Split) -> TokenPair | None:
    """A prompt before a verb, and the same with the subject in the other number."""
    about = subject(rng, rng.choice(("preposition", "own verb", "other verb")))
    words, other = about.words, 1 - about.number
    if not in_split(" ".join(words), split):
        return None
    at = words.index(about.noun.forms[about.number])
    changed = list(words)
    changed[0], changed[at] = rng.choice(DETERMINERS[other]), about.noun.forms[other]
    if words[at + 1] == "who" and at + 2 < len(words):  # a verb of its own agrees too
        changed[at + 2 :] = [_agreeing(word, other) for word in words[at + 2 : at + 3]] + words[at + 3 :]
    right, wrong = ([ID[verb[number]] for verb in VERBS] for number in (about.number, other))
    return TokenPair(_ids(words), _ids(changed), right, wrong)


def _agreeing(word: str, number: int) -> str:
    """A verb in a number; another word as it is."""
    return next((verb[number] for verb in WITH_OBJECT if word in verb), word)


def pronoun_pair(rng: random.Random, split: Split) -> TokenPair | None:
    """A prompt after a sentence, and the same with a subject of another pronoun."""
    about, noun, number = subject(rng, rng.choice(("plain", "preposition"))), rng.choice(NOUNS), rng.randrange(2)
    right, wrong = about.noun.refers(about.number), noun.refers(number)
    does = rng.choice(ALONE)
    words = [*about.words, does[about.number], "."]
    if right == wrong or not in_split(" ".join(words), split):
        return None
    changed = [*about.words, does[number], "."]
    at = changed.index(about.noun.forms[about.number])
    changed[0], changed[at] = rng.choice(DETERMINERS[number]), noun.forms[number]
    return TokenPair(_ids(words), _ids(changed), [ID[right]], [ID[wrong]])


def _ids(words: list[str]) -> list[int]:
    return [BOS, *(ID[word] for word in words)]


LANGUAGE = Language(
    name="grammar",
    architecture="gpt2",
    settings=gpt2_settings(3, n_positions=32),
    words=WORDS,
    sequence=sequence,
    tasks=(Task(name="number", words=WORDS, draw=number_pair), Task(name="pronoun", words=WORDS, draw=pronoun_pair)),
    training=Training(steps=2500),
)
