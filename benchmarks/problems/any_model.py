"""Models and prompts on which methods are held against exact patching; no known circuit is needed.

    subjects("planted", ["ioi"], n_prompts=100, seed=0)       # a planted model
    subjects("gpt2", ["ioi"], n_prompts=100, seed=0)          # a task of `edge_circuits.benchmarks.tasks` with any model that has its words
    subjects("DIRECTORY", ["sort"], n_prompts=16, seed=0)     # a model that sorts digits, without a tokenizer
    subjects("DIRECTORY", ["text"], n_prompts=16, seed=0)     # the next token of plain text, with any tokenizer

- `sort`: random digits, then the first few of them in order; the answer is the next one in order, every other digit is
  wrong. The corrupted prompt is such a prompt of other digits, with another answer.
- `text`: windows of a text, of one of the user's or else one that the model writes itself; half of the tokens of the
  corrupted prompt are replaced by others of the text. The answer is the text's next token, the wrong answer
  what the model finds likeliest on the corrupted prompt, the answer apart.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from edge_circuits.benchmarks import tasks as known_tasks
from edge_circuits.benchmarks.problems.known_circuits import PLANTED, Named, planted_problems
from edge_circuits.benchmarks.problems.opening import open_model
from edge_circuits.graphs import Circuit, Graph, PromptPairs, metrics, run
from edge_circuits.graphs.model.adapter import adapt

SORT, TEXT = "sort", "text"
N_TEXT_TOKENS = 16  # of a prompt
REPLACED = 0.5  # share of the tokens
TEMPERATURE = 1.0  # of text that the model writes


@dataclass(frozen=True, eq=False)
class Subject(Named):
    """A model and prompts.

    Attributes:
        model_name: "planted", or the name or directory that was opened.
        task: Name of the task.
        model: The model, frozen.
        pairs: The prompts.
        prompts: Which prompts these are, in words.
        metric_name: Name of the metric that is used.
    """

    model_name: str
    task: str
    model: nn.Module
    pairs: PromptPairs
    prompts: str
    metric_name: str

    @property
    def graph(self) -> Graph:
        """The model's edges."""
        return adapt(self.model).graph

    @property
    def metric(self) -> metrics.Metric:
        """The metric itself."""
        return metrics.load(self.metric_name)


def subjects(
    model_name: str,
    tasks: Sequence[str] | None = None,
    *,
    n_prompts: int,
    seed: int,
    metric: str | None = None,
    text: Path | None = None,
    weights: Path | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> list[Subject]:
    """A model with each of some tasks.

    Args:
        model_name: "planted", a directory or a hub name.
        tasks: None: all planted ones; of another model `text` if it has a tokenizer, else `sort`.
        n_prompts: Prompts of each.
        seed: Of the prompts.
        metric: Name of a metric; None: each task's own.
        text: File that `text` takes its prompts from; None: the model writes them.
        weights: Folder of the planted models' weights; None: those shipped.
        device: As for `open_model`.
        quiet: No progress bar while the model is read.

    Raises:
        ValueError: The model cannot be opened, there is no such task or metric, or the task does not fit the model.
    """
    if n_prompts < 1:
        raise ValueError(f"n_prompts: expected 1 or more, came {n_prompts}")
    if metric is not None:
        metrics.load(metric)
    if model_name == PLANTED:
        problems = planted_problems(tasks, n_prompts=n_prompts, seed=seed, folder=weights)
        return [Subject(PLANTED, p.task, p.model, p.pairs, p.prompts, metric or p.metric) for p in problems]
    known = (SORT, TEXT, *known_tasks.names())
    if tasks is not None and (unknown := [task for task in tasks if task not in known]):
        raise ValueError(f"task: expected one of {', '.join(known)}, came {unknown[0]!r}")
    model, tokenizer = _opened(model_name, device, quiet)
    found = []
    for task in tasks or ([SORT] if tokenizer is None else [TEXT]):
        pairs, prompts, own = _prompts(task, model_name, model, tokenizer, n_prompts, seed, text)
        found.append(Subject(model_name, task, model, pairs, prompts, metric or own))
    return found


def sort_pairs(n: int, seed: int = 0, *, n_digits: int = 6, n_values: int = 3) -> PromptPairs:
    """Pairs for a model that reads random digits and writes them in order.

    Args:
        n_digits: Digits to be sorted; a prompt shows 0 to n_digits - 1 of them in order.
        n_values: Different digits, whose token ids are themselves.

    Raises:
        ValueError: Fewer than 1 digit or 2 values.
    """
    if n_digits < 1 or n_values < 2:
        raise ValueError(f"sort: expected at least 1 digit and 2 values, came {n_digits} and {n_values}")
    generator = random.Random(seed)

    def prompt(n_shown: int) -> tuple[list[int], int]:
        digits = [generator.randrange(n_values) for _ in range(n_digits)]
        return digits + sorted(digits)[:n_shown], sorted(digits)[n_shown]

    clean, corrupted, answers = [], [], []
    while len(clean) < n:
        n_shown = generator.randrange(n_digits)
        (one, answer), (other, other_answer) = prompt(n_shown), prompt(n_shown)
        if answer != other_answer:
            clean.append(one), corrupted.append(other), answers.append(answer)
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
        raise ValueError(
            f"text: expected one of more than {n_tokens} tokens, two of them different, came none; give more text"
        )
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


def _opened(name: str, device: str | None, quiet: bool) -> tuple[nn.Module, Any]:
    """A model and its tokenizer; a directory without tokenizer files has None."""
    path = Path(name).expanduser()
    has_tokenizer = any(path.glob("*token*")) or any(path.glob("vocab.*"))
    if not (path / "config.json").is_file() or has_tokenizer:
        return open_model(name, device, quiet)
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import AutoModelForCausalLM

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            module = AutoModelForCausalLM.from_pretrained(str(path), local_files_only=True, dtype=torch.float32)
        except OSError as error:
            raise ValueError(f"model: cannot read the directory {str(path)!r}: {error}") from error
        model = build_bridge_from_module(module, type(module).__name__, hf_config=module.config)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.to(device).eval().requires_grad_(False), None


def _prompts(
    task: str, model_name: str, model: nn.Module, tokenizer: Any, n: int, seed: int, text: Path | None
) -> tuple[PromptPairs, str, str]:
    """Pairs, what they are in words, and the task's metric."""
    transformer = adapt(model)
    if task == SORT:
        return _sort_prompts(n, seed, transformer.n_ctx, transformer.W_U.shape[1])
    if tokenizer is None:
        raise ValueError(
            f"task: expected a model with a tokenizer for {task!r}, came {model_name!r} without one; it can do {SORT!r}"
        )
    if task == TEXT:
        if text is None:
            pairs = text_pairs(
                model, written_texts(model, _first_token(tokenizer), n, N_TEXT_TOKENS + 1, seed), n, seed
            )
            return pairs, "prompts that the model wrote", "logit_difference"
        pairs = text_pairs(model, [tokenizer.encode(_read(text))], n, seed)
        return pairs, f"prompts of {text.name}", "logit_difference"
    loaded = known_tasks.load(task)
    variant = loaded.variant(None)
    return loaded.pairs(tokenizer, n, seed=seed, split="all"), f"{variant.name} prompts", variant.metric


def _sort_prompts(n: int, seed: int, n_ctx: int | None, n_values: int) -> tuple[PromptPairs, str, str]:
    """Prompts that fill the context exactly when all but the last digit are in order."""
    if n_ctx is None or n_ctx % 2 == 0 or n_values > 10:
        raise ValueError(
            f"task {SORT!r}: expected a model of at most 10 tokens with room for all digits twice but one, came {n_values} "
            f"tokens and a context of {n_ctx}"
        )
    n_digits = (n_ctx + 1) // 2
    pairs = sort_pairs(n, seed, n_digits=n_digits, n_values=n_values)
    return pairs, f"prompts of {n_digits} digits to sort", "logit_difference"


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
        raise ValueError(f"text: cannot read {str(path)!r}: {error.strerror}") from error


def _other(pool: Sequence[int], token: int, generator: random.Random) -> int:
    """Another token of the pool, each equally likely."""
    chosen = generator.choice(pool)
    return chosen if chosen != token else pool[(pool.index(token) + generator.randrange(1, len(pool))) % len(pool)]


@torch.no_grad()
def _last_logits(model: nn.Module, pairs: PromptPairs) -> Float[Tensor, "pair d_vocab"]:
    """The model's own logits at the answer positions, on the CPU."""
    return run(model, Circuit.full(adapt(model).graph), pairs).cpu()
