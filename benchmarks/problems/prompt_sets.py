"""Prompt sets for any model: digits to sort for one without a tokenizer, the next token of text for one with it.

- `sort`: random digits, then the first few of them in order; the answer is the next one in order, every other digit is
  wrong. The corrupted prompt is such a prompt of other digits, with another answer.
- `text`: windows of a text, of one of the user's or else one that the model writes itself; half of the tokens of the
  corrupted prompt are replaced by others of the text. The answer is the text's next token, the wrong answer
  what the model finds likeliest on the corrupted prompt, the answer apart.
- A user's own pairs, from a CSV or JSON Lines file.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from edge_circuits.graphs import Circuit, Graph, PromptPairs, run
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.model.adapter import adapt

N_TEXT_TOKENS = 16  # of a prompt
REPLACED = 0.5  # share of the tokens
TEMPERATURE = 1.0  # of text that the model writes


def file_pairs(path: Path, tokenizer: Any) -> PromptPairs:
    """A user's pairs: CSV, or JSON Lines where the name says so; token ids where there is no tokenizer.

    Raises:
        ValueError: The file is missing or does not fit; the message names the line.
    """
    if not path.is_file():
        raise refusal("--prompts", "a CSV or JSON Lines file", f"{str(path)!r}, which is none")
    read = PromptPairs.from_jsonl if path.suffix in (".jsonl", ".ndjson") else PromptPairs.from_csv
    return read(path, tokenizer)


def sort_pairs(n: int, seed: int = 0, *, n_digits: int = 6, n_values: int = 3) -> PromptPairs:
    """Pairs for a model that reads random digits and writes them in order.

    Args:
        n_digits: Digits to be sorted; a prompt shows 0 to n_digits - 1 of them in order.
        n_values: Different digits, whose token ids are themselves.

    Raises:
        ValueError: Fewer than 1 digit or 2 values.
    """
    if n_digits < 1 or n_values < 2:
        raise refusal("sort", "at least 1 digit and 2 values", f"{n_digits} and {n_values}")
    generator = random.Random(seed)

    def prompt(n_shown: int) -> tuple[list[int], int]:
        digits = [generator.randrange(n_values) for _ in range(n_digits)]
        return digits + sorted(digits)[:n_shown], sorted(digits)[n_shown]

    clean, corrupted, answers = [], [], []
    while len(clean) < n:
        n_shown = generator.randrange(n_digits)
        (one, answer), (other, other_answer) = prompt(n_shown), prompt(n_shown)
        if answer != other_answer:
            clean.append(one)
            corrupted.append(other)
            answers.append(answer)
    wrong = [[value for value in range(n_values) if value != answer] for answer in answers]
    return PromptPairs(clean, corrupted, answers, wrong)


def text_pairs(
    model: nn.Module, ids: Sequence[Sequence[int]], n: int, seed: int = 0, *, n_tokens: int = N_TEXT_TOKENS
) -> PromptPairs:
    """Pairs from texts: windows of them, and the same with half of the tokens replaced.

    The first token of a window is kept, for it may be a mark of the beginning.

    Args:
        model: Says what is likeliest on the corrupted prompts.
        ids: Token ids of one or more texts; windows are drawn from them at random.

    Raises:
        ValueError: No text has more than `n_tokens` tokens, or too few different ones.
    """
    generator = random.Random(seed)
    long = [text for text in ids if len(text) > n_tokens]
    pool = sorted({token for text in long for token in text})
    if len(pool) < 2:
        expected = f"one of more than {n_tokens} tokens, two of them different"
        raise refusal("text", expected, "none", "give more text")
    clean, corrupted, answers = [], [], []
    for number in range(n):
        text = long[number % len(long)]
        start = generator.randrange(len(text) - n_tokens)
        window = list(text[start : start + n_tokens])
        places = generator.sample(range(1, n_tokens), max(1, round(REPLACED * (n_tokens - 1))))
        clean.append(window)
        corrupted.append([_other(pool, token, generator) if at in places else token for at, token in enumerate(window)])
        answers.append(text[start + n_tokens])
    logits = _last_logits(model, PromptPairs(corrupted, corrupted))
    logits[torch.arange(n), torch.tensor(answers)] = -torch.inf
    return PromptPairs(clean, corrupted, answers, logits.argmax(1).tolist())


def written_texts(model: nn.Module, first: int, n: int, n_tokens: int, seed: int = 0) -> list[list[int]]:
    """Texts that the model writes from one first token, drawn token by token."""
    generator = torch.Generator().manual_seed(seed)
    texts: Int[Tensor, "text pos"] = torch.full((n, 1), first)
    for _ in range(n_tokens - 1):
        probabilities = (_last_logits(model, PromptPairs(texts, texts)) / TEMPERATURE).softmax(1)
        texts = torch.cat((texts, torch.multinomial(probabilities, 1, generator=generator)), dim=1)
    return texts.tolist()


def sort_prompts(model: nn.Module, n: int, seed: int) -> tuple[PromptPairs, str]:
    """Digits to sort that fill the model's context exactly when all but the last are in order; and what these are, in words.

    Raises:
        ValueError: The model has no such context, or more than 10 tokens.
    """
    transformer = adapt(model)
    n_ctx, n_values = transformer.n_ctx, transformer.W_U.shape[1]
    if n_ctx is None or n_ctx % 2 == 0 or n_values > 10:
        expected = "a model of at most 10 tokens with room for all digits twice but one"
        raise refusal("task 'sort'", expected, f"{n_values} tokens and a context of {n_ctx}")
    n_digits = (n_ctx + 1) // 2
    return sort_pairs(n, seed, n_digits=n_digits, n_values=n_values), f"prompts of {n_digits} digits to sort"


def text_prompts(model: nn.Module, tokenizer: Any, n: int, seed: int, text: Path | None) -> tuple[PromptPairs, str]:
    """Windows of a file's text, or of text that the model writes; and what these are, in words."""
    if text is not None:
        return text_pairs(model, [tokenizer.encode(_read(text))], n, seed), f"prompts of {text.name}"
    written = written_texts(model, _first_token(tokenizer), n, N_TEXT_TOKENS + 1, seed)
    return text_pairs(model, written, n, seed), "prompts that the model wrote"


def _first_token(tokenizer: Any) -> int:
    """What a text begins with."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    return tokenizer.encode("The")[0]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise refusal("--text", "a file of text", f"{str(path)!r}: {error.strerror}") from error


def _other(pool: Sequence[int], token: int, generator: random.Random) -> int:
    """Another token of the pool, each equally likely."""
    chosen = generator.choice(pool)
    return chosen if chosen != token else pool[(pool.index(token) + generator.randrange(1, len(pool))) % len(pool)]


@torch.no_grad()
def _last_logits(model: nn.Module, pairs: PromptPairs) -> Float[Tensor, "pair d_vocab"]:
    """The model's own logits at the answer positions, on the CPU."""
    with warnings.catch_warnings(action="ignore"):  # clean and corrupted prompts are the same: nothing is cut
        return run(model, Circuit.full(Graph.from_model(model)), pairs).cpu()
