"""Train a small language model: `python -m edge_circuits.benchmarks.trained.train grammar [--out DIR] [--steps N] [--seed S]`.

Next tokens by cross-entropy, on sequences drawn anew for each step; nothing is told of circuits. At the end the model is asked
its tasks' held-out prompts, and the share of right answers is printed and written beside the weights.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import trange

from edge_circuits.benchmarks.trained import NAMES, bridged, language_of
from edge_circuits.benchmarks.trained.language import Language, Training
from edge_circuits.benchmarks.training import Descent, training_study
from edge_circuits.graphs import Circuit, Graph, metrics, run

N_ASKED = 512


def train(of: Language, training: Training, quiet: bool = False) -> nn.Module:
    """Train the Hugging Face model from random weights."""
    module = of.new_module(training.seed).train()
    descent = Descent(module.parameters(), training, (0.9, 0.98))
    rng = random.Random(f"sequences {training.seed}")
    bar = trange(training.steps, desc=f"training {of.name}", unit="step", disable=quiet)
    for step in bar:
        loss = descent.step(next_token_loss(module, of, rng, training.batch_size))
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {loss:.3f}")
    return module.eval()


def next_token_loss(module: nn.Module, of: Language, rng: random.Random, n: int) -> torch.Tensor:
    """Mean cross-entropy over the tokens that are told, in nats."""
    drawn = [of.sequence(rng) for _ in range(n)]
    width = max(len(one.tokens) for one in drawn)
    tokens = torch.tensor([one.tokens + [0] * (width - len(one.tokens)) for one in drawn])
    first, length = (
        torch.tensor([each(one) for one in drawn]) for each in (lambda o: o.first_told, lambda o: len(o.tokens))
    )
    at = torch.arange(1, width)
    told = (at >= first[:, None]) & (at < length[:, None])
    logits = module(tokens, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits[told], tokens[:, 1:][told])


@torch.no_grad()
def round_to_half(module: nn.Module) -> nn.Module:
    """The model with the weights that are written."""
    for parameter in module.parameters():
        parameter.copy_(parameter.half())
    return module


@torch.no_grad()
def accuracies(of: Language, model: nn.Module) -> dict[str, float]:
    """By task, the share of held-out prompts on which an answer has a larger logit than all wrong ones."""
    found = {}
    whole = Circuit.full(Graph.from_model(model))
    for task in of.tasks:
        pairs = task.pairs(N_ASKED, 7, "test")
        found[task.name] = metrics.accuracy(run(model, whole, pairs), pairs).mean().item()
    return found


def _work(name: str, training: Training, folder: Path, quiet: bool) -> str:
    of = language_of(name)
    module = round_to_half(train(of, training, quiet))
    found = accuracies(of, bridged(of, module))
    path = of.weights(training.seed, folder).save(module, training, half=True, accuracy=found)
    return f"wrote {path}; right answers: {found}"


def _training_of(name: str) -> Training:
    return language_of(name).training


STUDY = training_study("trained", "Train a small language model.", NAMES, _training_of, _work)
main, parser = STUDY.main, STUDY.parser

if __name__ == "__main__":
    raise SystemExit(main())
