"""What a task is: text pairs from its own generator, made into `PromptPairs` with a tokenizer.

1. A task's file draws `TextPair`s: clean and corrupted text, answers, and where its named words begin.
2. `Task.pairs` encodes them with the tokenizer in use and checks answers; `Task.positions` reports named tokens.
3. `Task.word_pairs` does the same with the task's own small vocabulary (`edge_circuits.benchmarks.tasks.words`).

Train and test are kept apart by content, not by order: `in_split` hashes what makes a prompt this prompt (for IOI the
two names, place and object, in any order and template), and a quarter of all contents belongs to test. So no
content of test is ever in train, whatever the seeds, variants and numbers of prompts. "all" does not look at it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from edge_circuits.benchmarks.tasks.words import WordTokenizer
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import choice, refusal, whole_number
from edge_circuits.graphs.prompts.tokenization import encode_answer, encode_prompt, show_tokens

Split = Literal["train", "test", "all"]
N_TEST_BYTES = 64  # of 256 values of a byte: a quarter of all contents is test


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How one code base makes the task's prompts; a task's file adds settings of its own.

    Attributes:
        name: Its name in `Task.pairs(variant=...)`.
        origin: Whose prompts these are, and what is corrupted.
        metric: Name of the origin's metric in `edge_circuits.graphs.metrics`.
        prepend_bos: Whether the origin puts a BOS token in front.
        published_seed: Seed at which split="all" gives the origin's own prompts (GPT-2's tokenizer for IOI and
            Greater-Than, that of attn-only-4l for Docstring); None: the same distribution, other prompts.
        published_n: How many prompts the origin draws with it.
    """

    name: str
    origin: str
    metric: str
    prepend_bos: bool
    published_seed: int | None = None
    published_n: int | None = None


AVariant = TypeVar("AVariant", bound=Variant)


@dataclass(frozen=True)
class TextPair:
    """A pair as text.

    Attributes:
        clean: The prompt; the answer comes next.
        corrupted: The other prompt.
        answers: Texts of the right answers, each one token, with a leading space if it begins a word.
        wrong_answers: The same for the wrong answers.
        starts: Role -> index of the first character (a leading space included) of the token in `clean`.
        content: What makes this prompt this prompt; decides between train and test.
    """

    clean: str
    corrupted: str
    answers: tuple[str, ...]
    wrong_answers: tuple[str, ...]
    starts: Mapping[str, int]
    content: str


@dataclass(frozen=True)
class Task:
    """A task: prompts in its published variants and in a small vocabulary.

    Attributes:
        name: Its name, which is its file's, and its reference circuits' in `edge_circuits.benchmarks.reference.circuits`.
        anchor: A word of the prompts after which single words are encoded, to see how they look inside a sentence.
        variants: The published variants, the default first.
        word_variants: Corruptions of the word-level prompts, the default first; the names are those of `variants`
            that corrupt so, and "random" for another random prompt of the same template.
        words: The words of the small vocabulary, without special tokens.
        texts: `texts(tokenizer, variant, n, seed, split)` draws text pairs.
        word_texts: `word_texts(variant, n, seed, split)` draws word-level text pairs.
    """

    name: str
    anchor: str
    variants: tuple[Variant, ...]
    word_variants: tuple[str, ...]
    words: tuple[str, ...]
    texts: Callable[[Any, Any, int, int, Split], list[TextPair]]
    word_texts: Callable[[str, int, int, Split], list[TextPair]]

    @property
    def metric(self) -> str:
        """Name of the default variant's metric in `edge_circuits.graphs.metrics`."""
        return self.variants[0].metric

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name; None: the default one."""
        found = {variant.name: variant for variant in self.variants}
        return found[_chosen("variant", name, tuple(found))]

    def pairs(
        self,
        tokenizer: Any,
        n: int,
        *,
        seed: int = 0,
        split: Split = "train",
        variant: str | None = None,
        prepend_bos: bool | None = None,
    ) -> PromptPairs:
        """n prompt pairs, drawn independently (so a prompt can come twice).

        Args:
            tokenizer: Of the model in use; anything with `encode`.
            n: How many.
            seed: Of the task's own generators; no global state is read or changed.
            split: "train" or "test" (disjoint, for all seeds), or "all".
            variant: One of `variants`; None: the first.
            prepend_bos: None: as the variant's origin does.

        Raises:
            ValueError: A bad argument, or a tokenizer that cannot serve the task, with the reason.
        """
        texts, bos = self._drawn(tokenizer, n, seed, split, variant, prepend_bos)
        return _prompt_pairs(
            texts,
            encode=lambda text: encode_prompt(tokenizer, text, bos),
            token=lambda text: answer_token(tokenizer, text, self.anchor),
            tokenizer=tokenizer,
        )

    def positions(self, tokenizer: Any, n: int, **asked: Any) -> dict[str, Int[Tensor, "pair"]]:
        """Positions of named tokens in the clean prompts of `pairs` with the same arguments; "end" is the last."""
        return role_positions(tokenizer, *self._drawn(tokenizer, n, **asked))

    def word_pairs(self, n: int, seed: int = 0, split: Split = "train", variant: str | None = None) -> PromptPairs:
        """n pairs in the small vocabulary, BOS in front; see `pairs`.

        Args:
            variant: One of `word_variants`, the corruption; None: the first.
        """
        tokenizer = self.word_tokenizer()
        return _prompt_pairs(
            self._drawn_words(n, seed, split, variant),
            encode=tokenizer.encode,
            token=lambda text: tokenizer.encode(text, add_special_tokens=False)[0],
            tokenizer=tokenizer,
        )

    def word_positions(
        self, n: int, seed: int = 0, split: Split = "train", variant: str | None = None
    ) -> dict[str, Int[Tensor, "pair"]]:
        """Positions of named tokens in the clean prompts of `word_pairs` with the same arguments."""
        return role_positions(self.word_tokenizer(), self._drawn_words(n, seed, split, variant), True)

    def word_tokenizer(self) -> WordTokenizer:
        """The tokenizer of the small vocabulary."""
        return WordTokenizer(self.words)

    def vocabulary(self) -> tuple[str, ...]:
        """The small vocabulary in the order of its token ids, special tokens included."""
        return self.word_tokenizer().vocabulary

    def _drawn(
        self,
        tokenizer: Any,
        n: int,
        seed: int = 0,
        split: Split = "train",
        variant: str | None = None,
        prepend_bos: bool | None = None,
    ) -> tuple[list[TextPair], bool]:
        _check_draw(n, seed, split)
        chosen = self.variant(variant)
        bos = chosen.prepend_bos if prepend_bos is None else prepend_bos
        return self.texts(tokenizer, chosen, n, seed, split), bos

    def _drawn_words(self, n: int, seed: int, split: Split, variant: str | None) -> list[TextPair]:
        _check_draw(n, seed, split)
        return self.word_texts(_chosen("variant", variant, self.word_variants), n, seed, split)


def in_split(content: str, split: Split) -> bool:
    """Whether prompts of this content belong to the split; every content belongs to "all"."""
    is_test = hashlib.sha256(content.encode()).digest()[0] < N_TEST_BYTES
    return split == "all" or is_test == (split == "test")


def take(texts: Iterable[TextPair], n: int, split: Split) -> list[TextPair]:
    """The first n text pairs of a stream that belong to the split."""
    return list(islice((text for text in texts if in_split(text.content, split)), n))


def role_positions(tokenizer: Any, texts: Sequence[TextPair], prepend_bos: bool) -> dict[str, Int[Tensor, "pair"]]:
    """Role -> its token's position in each clean prompt, BOS counted if there is one, and "end", the last token.

    Raises:
        ValueError: The tokenizer joins a named word with what stands before it.
    """
    rows: dict[str, list[int]] = {role: [] for role in (*texts[0].starts, "end")}
    for text in texts:
        ids = encode_prompt(tokenizer, text.clean, prepend_bos)
        for role, start in text.starts.items():
            before = encode_prompt(tokenizer, text.clean[:start], prepend_bos)
            if ids[: len(before)] != before:
                expected = f"a token that begins at character {start} of {text.clean!r}"
                remedy = "this tokenizer joins it with the text before, take another one"
                raise refusal(role, expected, show_tokens(tokenizer, ids), remedy)
            rows[role].append(len(before))
        rows["end"].append(len(ids) - 1)
    return {role: torch.tensor(positions) for role, positions in rows.items()}


def word_token(tokenizer: Any, word: str, anchor: str) -> int | None:
    """The one token of a word inside a sentence (after the anchor and a space); None: it is not one token."""
    before = encode_prompt(tokenizer, anchor, False)
    ids = encode_prompt(tokenizer, f"{anchor} {word}", False)
    return ids[-1] if len(ids) == len(before) + 1 and ids[:-1] == before else None


def single_token_words(tokenizer: Any, words: Sequence[str], anchor: str, needed: int, task: str) -> tuple[str, ...]:
    """The words that are one token inside a sentence, in order.

    Raises:
        ValueError: Fewer than `needed`: the tokenizer cannot serve the task.
    """
    single = tuple(word for word in words if word_token(tokenizer, word, anchor) is not None)
    if len(single) < needed:
        word = next(word for word in words if word not in single)
        tokens = show_tokens(tokenizer, encode_prompt(tokenizer, f"{anchor} {word}", False))
        expected = f"a tokenizer with at least {needed} of {len(words)} words such as {' ' + word!r} as one token"
        got = f"one with {len(single)} ({anchor + ' ' + word!r} becomes {tokens})"
        raise refusal(f"task {task!r}", expected, got, "use a model whose tokenizer has whole words, e.g. GPT-2")
    return single


def answer_token(tokenizer: Any, text: str, anchor: str) -> int:
    """The token of an answer: a word after a space as inside a sentence, a continuation (such as "32") as it is."""
    token = word_token(tokenizer, text[1:], anchor) if text.startswith(" ") else None
    return encode_answer(tokenizer, text) if token is None else token


def _prompt_pairs(
    texts: Sequence[TextPair], encode: Callable[[str], list[int]], token: Callable[[str], int], tokenizer: Any
) -> PromptPairs:
    token = cache(token)
    return PromptPairs(
        [encode(text.clean) for text in texts],
        [encode(text.corrupted) for text in texts],
        [[token(answer) for answer in text.answers] for text in texts],
        [[token(answer) for answer in text.wrong_answers] for text in texts],
        tokenizer=tokenizer,
    )


def word_lists(task: str) -> Mapping[str, Any]:
    """The lists of a task in wordlists.json, with their sources and licences."""
    return _stored("wordlists")[task]


def stored_variants(task: str, kind: type[AVariant]) -> tuple[AVariant, ...]:
    """The published variants of a task in variants.json, the default first."""
    rows = (
        {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()} for row in _stored("variants")[task]
    )
    return tuple(kind(**row) for row in rows)


@cache
def _stored(name: str) -> Mapping[str, Any]:
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))


def _chosen(name: str, value: str | None, choices: Sequence[str]) -> str:
    return choices[0] if value is None else choice(name, value, choices)


def _check_draw(n: int, seed: int, split: str) -> None:
    whole_number("n", n, 1)
    whole_number("seed", seed)
    choice("split", split, get_args(Split))
