"""Train a planted model: `python -m edge_circuits.benchmarks.planted.train ioi [--out DIR] [--steps N] [--seed S]`.

First the circuit is planted alone: heads and MLPs outside it write nothing, and the loss of a step is

1. interchange in the circuit: all edges outside the circuit are cut and some of its own as well; the distance from the answer
   of the causal model that has the same edges cut (see `distance`);
2. attention: where the circuit's heads look in the corrupted prompts, with a weight that falls to zero (`attention`).

Then the rest of the model is given random output weights, and the loss is the sum of 1 and

3. whole model: the distance from the causal model's answer;
4. in turn, by lot, interchange in the whole model, where the edges drawn for 1 are cut and they alone, or the circuit as it
   is, with nothing cut but what is outside it;
5. next word: the whole model's cross-entropy at all positions before the answer, so that what is outside the circuit has
   work of its own.

Where the circuit is to be true under other interventions too, its answer with everything else cut by one of them is a part of
all steps. The edges drawn are none, one edge, all out-edges of one node, or a random half of the circuit; what a backup does is learned in steps
that cut the node which it backs up as well (`Training.taken_out`).

Reference: Geiger et al. 2022, Inducing Causal Structure for Interpretable Neural Networks; Gupta et al. 2024, InterpBench.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from operator import or_
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import trange

from edge_circuits.benchmarks.planted import MODELS, tasks_of
from edge_circuits.benchmarks.planted.attention import attention_loss
from edge_circuits.benchmarks.planted.model import PlantedTask, Training, weights_of
from edge_circuits.benchmarks.training import Descent, training_study
from edge_circuits.graphs import Circuit, PromptPairs
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.running.execution import run_batch
from edge_circuits.graphs.running.patching import Intervention, cut_values, trimmed
from edge_circuits.graphs.running.plan import Plan, make_plan

POOL = 12_800  # prompt pairs drawn at a time
EMBEDDING_SPREAD = 0.3  # standard deviation


def train(tasks: Sequence[PlantedTask], training: Training, quiet: bool = False) -> tuple[nn.Module, list[float]]:
    """Train a model of the tasks, which take turns, from random weights; returns it with the loss of every step."""
    model = tasks[0].new_model(training.seed).requires_grad_(True)
    spread_embeddings(model, training.seed)
    descent = Descent(model.parameters(), training, (0.95, 0.98))
    turns = [(Losses(task, training), batches(task, training)) for task in tasks]
    rest = Rest(model, reduce(or_, (task.circuit for task in tasks)))
    rest.silence()
    history = []
    bar = trange(training.steps, desc=f"planting {tasks[0].model}", unit="step", disable=quiet)
    for step in bar:
        if step == training.alone:
            rest.wake(training.rest, training.seed)
        losses, drawn = turns[step % len(turns)]
        parts = losses(model, next(drawn), step)
        history.append(descent.step(sum(parts.values()), rest.hold if step < training.alone else None))
        if len(history) % 50 == 0:
            bar.set_postfix_str(" ".join(f"{name} {value.item():.3f}" for name, value in parts.items()))
    return model, history


def spread_embeddings(model: nn.Module, seed: int) -> None:
    """Start with words and positions that heads can tell apart; from the usual small embeddings circuits form slowly."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.original_model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_SPREAD, generator=generator)


class Rest:
    """What the heads and MLPs outside the circuit write with: silent while the circuit is planted."""

    def __init__(self, model: nn.Module, circuit: Circuit) -> None:
        self.weights: list[Tensor] = []  # output weights of each layer's heads, and of each layer's MLP
        self.outside: list[Tensor] = []  # which of their columns are outside the circuit
        graph, nodes = circuit.graph, set(circuit.nodes)
        for layer, block in enumerate(model.blocks):
            heads = torch.tensor([f"a{layer}.h{head}" not in nodes for head in range(graph.n_heads)])
            weight = block.attn.o.weight
            self._add(weight, heads.repeat_interleave(weight.shape[1] // graph.n_heads))
            if graph.mlps:
                self._add(block.mlp.out.weight, torch.tensor([f"m{layer}" not in nodes]))

    def _add(self, weight: Tensor, outside: Tensor) -> None:
        self.weights.append(weight)
        self.outside.append(outside.expand(weight.shape))

    @torch.no_grad()
    def silence(self) -> None:
        """Write nothing."""
        for weight, outside in zip(self.weights, self.outside):
            weight[outside] = 0.0

    def hold(self) -> None:
        """Learn nothing in this step."""
        for weight, outside in zip(self.weights, self.outside):
            weight.grad[outside] = 0.0

    @torch.no_grad()
    def wake(self, spread: float, seed: int) -> None:
        """Write something at random, with output weights of that standard deviation."""
        generator = torch.Generator().manual_seed(seed)
        for weight, outside in zip(self.weights, self.outside):
            weight[outside] = spread * torch.randn(int(outside.sum()), generator=generator)


def batches(task: PlantedTask, training: Training) -> Iterator[PromptPairs]:
    """One batch a step, of prompts of similar length, in random order; new prompts throughout."""
    rng = random.Random(f"batches {training.seed}")
    left = training.steps
    pool = 0
    while left > 0:
        pairs = task.pairs(POOL, seed=1000 * (training.seed + 1) + pool, split="train")
        drawn = [batch for batch in pairs.batches(training.batch_size) if len(batch) == training.batch_size]
        rng.shuffle(drawn)
        yield from drawn[:left]
        left -= len(drawn)
        pool += 1


class Losses:
    """The parts of the loss, by name, for one batch after the other."""

    def __init__(self, task: PlantedTask, training: Training) -> None:
        self.task, self.training = task, training
        self.rng = random.Random(f"cuts {training.seed}")
        self.circuit, self.whole = task.circuit, Circuit.full(task.graph)
        self._plan = lru_cache(maxsize=1024)(self._make_plan)

    def __call__(self, model: nn.Module, batch: PromptPairs, step: int) -> dict[str, Float[Tensor, ""]]:
        """Draw a cut and compute all parts of that step's loss."""
        transformer = adapt(model, trainable=True)
        corrupted = cut_values(transformer, [batch], "patching")(batch)
        cut, alone = self.draw_cut(), self.training.alone
        squares = self.squares(step)

        def part(
            circuit: Circuit, cut: frozenset[str], to: Any = corrupted, intervention: Intervention = "patching"
        ) -> Float[Tensor, ""]:
            logits = run_batch(transformer, self._plan(circuit, cut, intervention), batch, to)
            return distance(self.task.target(batch, cut), logits, squares)

        parts = {"circuit, cut": part(self.circuit, cut)}
        if len(self.task.interventions) > 1:
            other = self.rng.choice(self.task.interventions[1:])
            values = cut_values(transformer, [batch], other)(batch)
            parts["circuit, other"] = part(self.circuit, frozenset(), values, other)
        if step < alone:
            attends = self.task.attends(trimmed(batch.corrupted, batch), batch.positions)
            parts["attention"] = (1 - step / alone) * attention_loss(transformer, corrupted, batch.positions, attends)
            return parts
        parts |= self._whole_model(transformer, batch, squares)
        if self.rng.random() < 0.5:
            return parts | {"whole, cut": part(self.whole, cut)}
        return parts | {"circuit": part(self.circuit, frozenset())}

    def squares(self, step: int) -> float:
        """The weight of squared differences: it grows from zero, first to that of the circuit alone, then to that of the end."""
        alone, first, last = self.training.alone, self.training.squares_alone, self.training.squares
        if step < alone:
            return first * step / alone
        return first + (last - first) * (step - alone) / (self.training.steps - alone)

    def draw_cut(self) -> frozenset[str]:
        """No edge, one edge of the circuit, all out-edges of a node, or a random half; in turn beside those of `taken_out`."""
        taken_out, drawn = self.training.taken_out, self._drawn()
        if not taken_out or self.rng.random() < 0.5:
            return drawn
        return drawn.union(*map(self.task.causal.out_edges, taken_out))

    def _drawn(self) -> frozenset[str]:
        edges, kind = self.task.causal.edges, self.rng.choice(("none", "edge", "edge", "node", "half"))
        if kind == "edge":
            return frozenset((self.rng.choice(edges),))
        if kind == "node":
            return frozenset(self.task.causal.out_edges(self.rng.choice(self.task.causal.sources)))
        return frozenset(edge for edge in edges if kind == "half" and self.rng.random() < 0.5)

    def _make_plan(self, circuit: Circuit, cut: frozenset[str], intervention: Intervention) -> Plan:
        return make_plan(circuit.graph, (circuit - Circuit.from_edges(circuit.graph, cut)).mask, intervention)

    def _whole_model(self, transformer: Transformer, batch: PromptPairs, squares: float) -> dict[str, Tensor]:
        tokens = trimmed(batch.clean, batch)
        logits = transformer.unembed(transformer.forward(transformer.embed(tokens)).final)
        each = torch.arange(len(batch))
        before = torch.arange(tokens.shape[1] - 1) < batch.positions[:, None]
        next_word = F.cross_entropy(logits[:, :-1][before], tokens[:, 1:][before])
        return {
            "whole": distance(self.task.target(batch), logits[each, batch.positions], squares),
            "next word": self.training.next_word * next_word,
        }


def distance(
    target: Float[Tensor, "batch d_vocab"], logits: Float[Tensor, "batch d_vocab"], squares: float
) -> Float[Tensor, ""]:
    """KL(target || model) in nats, plus `squares` times the squared difference of log-probabilities.

    KL alone hardly feels words of small probability, on which a metric may depend. Means over prompts, and over the
    vocabulary.
    """
    wanted, given = target.log_softmax(-1), logits.log_softmax(-1)
    return F.kl_div(given, wanted, log_target=True, reduction="batchmean") + squares * F.mse_loss(given, wanted)


def _work(name: str, training: Training, folder: Path, quiet: bool) -> str:
    tasks = tasks_of(name)
    model, _ = train(tasks, training, quiet)
    return f"wrote {weights_of(tasks, training.seed, folder).save(model.original_model, training)}"


def _training_of(name: str) -> Training:
    return tasks_of(name)[0].training


STUDY = training_study("planted", "Train a planted model.", MODELS, _training_of, _work)
main, parser = STUDY.main, STUDY.parser

if __name__ == "__main__":
    raise SystemExit(main())
