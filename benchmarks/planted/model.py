"""What a planted task is: a task, the shape of a small model, and the circuit it is to be solved through."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from edge_circuits.benchmarks.planted.causal import CausalModel
from edge_circuits.benchmarks.tasks.task import Split, Task
from edge_circuits.benchmarks.tasks.words import WordTokenizer
from edge_circuits.benchmarks.weights import Weights
from edge_circuits.graphs import Circuit, Graph, PromptPairs
from edge_circuits.graphs.running.patching import Intervention

FOUR: tuple[Intervention, ...] = ("patching", "zero", "mean", "mean-positional")
CORRUPTION = "random"  # the corrupted prompt is another random one of the same template


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a planted model is trained.

    Attributes:
        steps: Number of steps.
        alone: How many of them, at the start, plant the circuit alone.
        rest: Standard deviation of the output weights with which the rest of the model then begins.
        batch_size: Prompt pairs in a step.
        learning_rate: Peak of AdamW's rate, after a short rise and before a cosine's fall to zero.
        next_word: Weight of the next-word loss of the whole model at all positions before the answer.
        seed: Of weights, prompts and cuts.
        squares_alone: Weight of squared differences against KL (`distance`) while the circuit is planted alone.
        squares: The same at the end of training.
        weight_decay: AdamW's.
        taken_out: Nodes all of whose out-edges are cut in half of the steps, beside the edges drawn.
    """

    steps: int = 1200
    alone: int = 300
    rest: float = 0.1
    batch_size: int = 64
    learning_rate: float = 3e-3
    next_word: float = 0.2
    seed: int = 0
    squares_alone: float = 0.0
    squares: float = 2.0
    weight_decay: float = 0.01
    taken_out: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WordTask:
    """Prompts of a small vocabulary that are no task of `edge_circuits.benchmarks.tasks`.

    Attributes:
        words: The vocabulary behind padding and BOS.
        metric: Name of its metric.
        draw: `draw(n, seed, split)` gives prompts, corrupted to others of the same template.
    """

    words: Sequence[str]
    metric: str
    draw: Callable[[int, int, Split], PromptPairs]

    def word_tokenizer(self) -> WordTokenizer:
        """The tokenizer of the small vocabulary."""
        return WordTokenizer(self.words)

    def vocabulary(self) -> tuple[str, ...]:
        """The small vocabulary in the order of its token ids, special tokens included."""
        return self.word_tokenizer().vocabulary

    def word_pairs(self, n: int, seed: int = 0, split: Split = "train", variant: str = CORRUPTION) -> PromptPairs:
        """n pairs."""
        return self.draw(n, seed, split)


@dataclass(frozen=True, kw_only=True)
class PlantedTask:
    """A task, and the circuit that solves it in a model made for it.

    Attributes:
        name: Its name, which is its file's; "FILE.NAME" where several tasks are planted in one model.
        task: Prompts and vocabulary.
        settings: What `TransformerBridgeConfig` is given, beside the size of the vocabulary.
        causal: What each node of the circuit computes; its edges are the circuit.
        read: Prompts to the value of `input` in the causal model.
        attends: Prompts and answer positions to, for each head of the circuit, the keys that each query is to look at; queries
            without keys are free.
        roles: Name of a class of nodes -> its nodes.
        interventions: Under which the circuit is trained to be true; it is interchanged edge by edge under the first.
        training: How the weights shipped were trained.
    """

    name: str
    task: Task | WordTask
    settings: Mapping[str, Any]
    causal: CausalModel
    read: Callable[[Int[Tensor, "batch pos"]], Tensor]
    attends: Callable[[Int[Tensor, "batch pos"], Int[Tensor, "batch"]], Mapping[str, Bool[Tensor, "batch pos pos"]]]
    roles: Mapping[str, tuple[str, ...]]
    interventions: tuple[Intervention, ...] = ("patching",)
    training: Training = field(default_factory=Training)

    @property
    def model(self) -> str:
        """Name of the model, which other tasks may share."""
        return self.name.partition(".")[0]

    @property
    def graph(self) -> Graph:
        """The model's graph."""
        settings = self.settings
        return Graph(settings["n_layers"], settings["n_heads"], mlps=not settings.get("attn_only", False))

    @property
    def circuit(self) -> Circuit:
        """The edges through which the task is solved."""
        return Circuit.from_edges(self.graph, self.causal.edges, metadata={"task": self.name, "origin": "planted"})

    def pairs(self, n: int, seed: int = 0, split: Split = "test") -> PromptPairs:
        """Prompt pairs with the corruption under which the circuit is true: another prompt of the same template."""
        return self.task.word_pairs(n, seed=seed, split=split, variant=CORRUPTION)

    def target(self, pairs: PromptPairs, cut: Collection[str] = ()) -> Float[Tensor, "pair d_vocab"]:
        """Logits of the causal model at the answer positions when the given edges are cut."""
        return self.causal.logits(self.read(pairs.clean), self.read(pairs.corrupted), cut)

    def new_model(self, seed: int) -> nn.Module:
        """The model with random weights: a native `TransformerBridge` in evaluation mode."""
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

        vocabulary = len(self.task.vocabulary())
        config = TransformerBridgeConfig(
            d_vocab=vocabulary, model_name=f"planted-{self.model}", seed=seed, **self.settings
        )
        torch.manual_seed(seed)
        return TransformerBridge.boot_native(config).eval()


def weights_of(tasks: Sequence[PlantedTask], seed: int, folder: Path | None = None) -> Weights:
    """Where the weights of a model are that was trained for these tasks; they are of no other circuits.

    Args:
        tasks: All tasks of the model.
        seed: Of the training.
        folder: None: those shipped.
    """
    identity = {
        "settings": dict(tasks[0].settings),
        "vocabulary": list(tasks[0].task.vocabulary()),
        "edges": list(dict.fromkeys(edge for task in tasks for edge in task.causal.edges)),
    }
    return Weights("planted", tasks[0].model, seed, identity, folder)
