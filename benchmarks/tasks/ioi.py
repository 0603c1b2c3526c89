"""Indirect object identification: "Then, Mary and John went to the store. John gave a ring to" -> " Mary".

Two names stand in the first clause and one of them, the subject S, again in the second; the answer is the other one,
the indirect object IO. In ABBA order IO comes first, in BABA order S. Fifteen templates, of which a variant takes
the first so many.

Word level: seven templates of different lengths in both orders, 24 names, 5 places, 5 objects.

Reference: Wang et al. 2023, Interpretability in the Wild (arXiv 2211.00593); the variants name their origins.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

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

Order = Literal["ABBA", "BABA"]
ORDERS: tuple[Order, ...] = ("BABA", "ABBA")
N_NAMES_NEEDED = 5  # two of the clean prompt and three that replace them


@dataclass(frozen=True)
class Template:
    """The text around the three names, and who is who: parts[i] stands before name i, parts[3] after all."""

    parts: tuple[str, str, str, str]
    order: Order

    @property
    def roles(self) -> tuple[str, str, str]:
        return ("IO", "S1", "S2") if self.order == "ABBA" else ("S1", "IO", "S2")


@dataclass(frozen=True)
class Sentence:
    """A template filled in; names in the order of the text."""

    template: Template
    names: tuple[str, str, str]
    place: str
    thing: str

    def named(self, role: str) -> str:
        return self.names[self.template.roles.index(role)]

    @cached_property
    def filled(self) -> tuple[str, ...]:
        """The template's parts with place and object in them."""
        parts = (part.replace("[PLACE]", self.place) for part in self.template.parts)
        return tuple(part.replace("[OBJECT]", self.thing) for part in parts)

    @property
    def text(self) -> str:
        return "".join(part + name for part, name in zip(self.filled, (*self.names, "")))

    @property
    def starts(self) -> dict[str, int]:
        """Role -> index of the space before that name."""
        lengths = [len(part) + len(name) for part, name in zip(self.filled, self.names)]
        before = (0, lengths[0], lengths[0] + lengths[1])
        return {role: start + len(part) - 1 for role, start, part in zip(self.template.roles, before, self.filled)}

    @property
    def content(self) -> str:
        """The two names, and place and object where the template has them: equal in all orders and templates."""
        nouns = (self.place, self.thing) if "[PLACE]" in "".join(self.template.parts) else ()
        return " ".join((*sorted({self.named("IO"), self.named("S2")}), *nouns))


class Lists(NamedTuple):
    """What prompts are drawn from."""

    templates: Sequence[Template]
    names: Sequence[str]
    places: Sequence[str]
    things: Sequence[str]


Corruption: TypeAlias = Callable[[Sentence], Sentence]


@dataclass(frozen=True, kw_only=True)
class IOIVariant(Variant):
    """Adds the name list, how many templates in which orders, and the corruption, a key of `CORRUPTIONS`.

    The corruption draws from generators of its own, so that variants with the same lists share their clean prompts.
    """

    names: str = "names"
    n_templates: int = 15
    orders: tuple[Order, ...] = ORDERS
    corruption: str


def texts(tokenizer: Any, variant: IOIVariant, n: int, seed: int, split: Split) -> list[TextPair]:
    """Text pairs of a variant; names that are not one token are left out of its list."""
    lists = word_lists("ioi")
    names = single_token_words(tokenizer, lists[variant.names], TASK.anchor, N_NAMES_NEEDED, TASK.name)
    templates = both_orders(lists["templates"][: variant.n_templates], variant.orders)
    drawn_from = Lists(templates, names, lists["places"], lists["objects"])
    return take(_stream(drawn_from, CORRUPTIONS[variant.corruption], seed), n, split)


def word_texts(variant: str, n: int, seed: int, split: Split) -> list[TextPair]:
    """Word-level text pairs: all word-level templates in both orders, corrupted as the variant does."""
    return take(_stream(WORD_LISTS, CORRUPTIONS[WORD_CORRUPTIONS[variant]], seed), n, split)


def both_orders(templates: Sequence[str], orders: Sequence[Order]) -> tuple[Template, ...]:
    """The stored templates ("[B] and [A] ... [B] ... to [A]") in each of the orders, without the answer."""
    parts = [tuple(re.split(r"\[[AB]\]", template)[:4]) for template in templates]
    return tuple(Template((*three, after.rstrip()), order) for order in orders for *three, after in parts)


def _stream(lists: Lists, corruption: Callable[[Lists, int], Corruption], seed: int) -> Iterator[TextPair]:
    corrupt = corruption(lists, seed)
    for clean in _sentences(lists, random.Random((seed + 987654321) % 123456789)):
        io, subject = clean.named("IO"), clean.named("S2")
        yield TextPair(clean.text, corrupt(clean).text, (f" {io}",), (f" {subject}",), clean.starts, clean.content)


def _sentences(lists: Lists, rng: random.Random) -> Iterator[Sentence]:
    """Clean prompts, drawn call by call as ACDC's generator does: template, three names, place, object."""
    while True:
        template = rng.choice(lists.templates)
        names = [rng.choice(lists.names) for _ in range(3)]
        while len(set(names)) < 3:
            names = [rng.choice(lists.names) for _ in range(3)]
        place, thing = rng.choice(lists.places), rng.choice(lists.things)
        yield _sentence(template, names[0], names[1], place, thing)


def _sentence(template: Template, io: str, subject: str, place: str, thing: str) -> Sentence:
    names = (io, subject, subject) if template.order == "ABBA" else (subject, io, subject)
    return Sentence(template, names, place, thing)


def three_steps(lists: Lists, seed: int) -> Corruption:
    """ACDC: IO to a random name (neither IO nor S), then S at both places to any name, then the first S to any name.

    The last two names are not checked against anything, so coincidences happen.
    """
    first, second, third = (np.random.RandomState((step + 345467 + 3 * seed) % 5432) for step in (1, 2, 3))

    def drawn(rng: np.random.RandomState, unlike: tuple[str, ...] = ()) -> str:
        name = lists.names[rng.randint(len(lists.names))]
        return drawn(rng, unlike) if name in unlike else name

    def corrupt(clean: Sentence) -> Sentence:
        io, subject = clean.named("IO"), clean.named("S2")
        new_io = drawn(first, unlike=(io, subject))
        new_subject = drawn(second)
        names = [new_io if name == io else new_subject for name in clean.names]
        names[names.index(new_subject)] = drawn(third)
        return replace(clean, names=tuple(names))

    return corrupt


def three_new_names(lists: Lists, seed: int) -> Corruption:
    """ABB and BAB to XYZ in one step: three different names, none of them in the clean prompt.

    The origins draw X, Y and Z independently, so that two of them coincide in some 3 % of their prompts.
    """
    rng = _corruption_rng(seed)
    return lambda clean: replace(clean, names=tuple(rng.sample(_others(lists, clean), 3)))


def unrelated_second_subject(lists: Lists, seed: int) -> Corruption:
    """S2 becomes a name that is not in the clean prompt."""
    rng = _corruption_rng(seed)
    return lambda clean: replace(clean, names=(*clean.names[:2], rng.choice(_others(lists, clean))))


def flipped_second_subject(lists: Lists, seed: int) -> Corruption:
    """S2 becomes IO, so that IO and S exchange their parts."""
    return lambda clean: replace(clean, names=(*clean.names[:2], clean.named("IO")))


def other_prompt(lists: Lists, seed: int) -> Corruption:
    """Another random prompt of the same template and split: two other names, either order, any place and object."""
    rng = _corruption_rng(seed)

    def corrupt(clean: Sentence) -> Sentence:
        names = rng.sample(_others(lists, clean), 2)
        nouns = rng.choice(lists.places), rng.choice(lists.things)
        template = replace(clean.template, order=rng.choice(ORDERS))
        other = _sentence(template, *names, *nouns)
        same_side = in_split(other.content, "test") == in_split(clean.content, "test")
        return other if same_side else corrupt(clean)

    return corrupt


def _others(lists: Lists, clean: Sentence) -> list[str]:
    return [name for name in lists.names if name not in clean.names]


def _corruption_rng(seed: int) -> random.Random:
    return random.Random(f"ioi corruption {seed}")


CORRUPTIONS: Mapping[str, Callable[[Lists, int], Corruption]] = {
    corruption.__name__: corruption
    for corruption in (three_steps, three_new_names, unrelated_second_subject, flipped_second_subject, other_prompt)
}
VARIANTS = stored_variants("ioi", IOIVariant)

WORD_LISTS = Lists(
    both_orders([word_lists("ioi")["templates"][at] for at in (0, 4, 5, 6, 11, 13, 14)], ORDERS),
    tuple(word_lists("ioi")["names"][:24]),
    tuple(word_lists("ioi")["places"][:5]),
    tuple(word_lists("ioi")["objects"][:5]),
)
WORD_CORRUPTIONS = {variant.name: variant.corruption for variant in VARIANTS} | {"random": "other_prompt"}


def _template_words(templates: Sequence[Template]) -> list[str]:
    found = re.findall(r"\w+|[^\w\s]", re.sub(r"\[\w+\]", "", " ".join("  ".join(t.parts) for t in templates)))
    return list(dict.fromkeys(found))


TASK = Task(
    name="ioi",
    anchor="to",
    variants=VARIANTS,
    word_variants=tuple(WORD_CORRUPTIONS),
    words=(*_template_words(WORD_LISTS.templates), *WORD_LISTS.names, *WORD_LISTS.places, *WORD_LISTS.things),
    texts=texts,
    word_texts=word_texts,
)
