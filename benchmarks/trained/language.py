"""What a trained model is: an architecture, sequences to learn, and prompts on which it is asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from edge_circuits.benchmarks.tasks.task import Split
from edge_circuits.benchmarks.tasks.token_pairs import TokenPair, token_pairs
from edge_circuits.benchmarks.tasks.words import WordTokenizer
from edge_circuits.benchmarks.weights import Weights
from edge_circuits.graphs import PromptPairs

BOS = 1  # id, as of `WordTokenizer`


class Example(NamedTuple):
    """Tokens to learn, and from which of them on the next ones are to be told."""

    tokens: list[int]
    first_told: int = 1


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained: next tokens, AdamW, a rate that rises shortly to `learning_rate` and falls to zero."""

    steps: int
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompts on which a model is asked.

    Attributes:
        words: The language's vocabulary.
        draw: Draws a pair; None where it is not of the split, or not wanted.
        metric: Name of its metric in `edge_circuits.graphs.metrics`.
    """

    name: str
    words: Sequence[str]
    draw: Callable[[random.Random, Split], TokenPair | None]
    metric: str = "logit_difference"

    def pairs(self, n: int, seed: int = 0, split: Split = "test") -> PromptPairs:
        """n pairs of a split."""
        return token_pairs(lambda rng: self.draw(rng, split), n, f"{self.name} {seed}", WordTokenizer(self.words))


@dataclass(frozen=True, kw_only=True)
class Language:
    """A model to train.

    Attributes:
        name: Its name, which is its file's and its weights'.
        architecture: "gpt2" or "llama".
        settings: Of the Hugging Face configuration, beside the size of the vocabulary.
        words: The vocabulary behind padding and BOS.
        sequence: Draws a sequence to learn.
        tasks: Prompts on which the model is asked.
        training: How the weights shipped were trained.
    """

    name: str
    architecture: Literal["gpt2", "llama"]
    settings: Mapping[str, Any]
    words: Sequence[str]
    sequence: Callable[[random.Random], Example]
    tasks: tuple[Task, ...]
    training: Training = field(default_factory=lambda: Training(steps=2000))

    @property
    def tokenizer(self) -> WordTokenizer:
        """Of the small vocabulary."""
        return WordTokenizer(self.words)

    def weights(self, seed: int, folder: Path | None = None) -> Weights:
        """Where the weights of a training with that seed are; None: those shipped."""
        identity = dict(architecture=self.architecture, settings=dict(self.settings), words=list(self.words))
        return Weights("trained", self.name, seed, identity, folder)

    def new_module(self, seed: int) -> nn.Module:
        """The Hugging Face model with random weights."""
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

        kinds = {"gpt2": (GPT2Config, GPT2LMHeadModel), "llama": (LlamaConfig, LlamaForCausalLM)}
        config, model = kinds[self.architecture]
        torch.manual_seed(seed)
        return model(config(vocab_size=len(self.tokenizer), bos_token_id=BOS, eos_token_id=BOS, **self.settings))


def gpt2_settings(n_layer: int, n_positions: int) -> dict[str, Any]:
    """Of a GPT-2 with 4 heads of 16 numbers, without dropout."""
    sizes = dict(n_layer=n_layer, n_head=4, n_embd=64, n_positions=n_positions)
    return sizes | dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def llama_settings(n_layers: int, n_kv_heads: int) -> dict[str, Any]:
    """Of a Llama with 4 query heads of 12 numbers and 32 positions."""
    heads = dict(num_hidden_layers=n_layers, num_attention_heads=4, num_key_value_heads=n_kv_heads)
    return heads | dict(hidden_size=48, intermediate_size=96, max_position_embeddings=32)
