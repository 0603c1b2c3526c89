"""A directory with a model of GPT-2 small's shape, very narrow, and a tokenizer with the words of a task."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from models import hugging_face
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edge_circuits.benchmarks.tasks.task import word_lists


def word_level_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are words and marks."""
    vocabulary = {word: token for token, word in enumerate(dict.fromkeys(["<unk>", *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def save_real_directory(folder: Path, n_layer: int = 12, n_head: int = 12) -> Path:
    """Write model and tokenizer; the tokenizer serves IOI."""
    lists = word_lists("ioi")
    text = " ".join(re.sub(r"\[\w+\]", " ", template) for template in lists["templates"])
    words = [*re.findall(r"\w+|[^\w\s]", text), *lists["names"], *lists["places"], *lists["objects"]]
    tokenizer = word_level_tokenizer(words)
    tokenizer.save_pretrained(folder)
    shape = dict(n_layer=n_layer, n_head=n_head, n_embd=24, n_positions=32, vocab_size=len(tokenizer))
    hugging_face("gpt2", **shape).save_pretrained(folder)
    return folder
