"""Train a small language model: `python -m edge_circuits.benchmarks.trained.train grammar [--out DIR] [--steps N] [--seed S]`.

Next tokens by cross-entropy, on sequences drawn anew for each step; nothing is told of circuits. At the end the model is asked
its tasks' held-out prompts, and the share of right answers is printed and written beside the weights.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import trange

from edge_circuits.benchmarks.study import Study
from edge_circuits.benchmarks.trained import NAMES, bridged, language_of
from edge_circuits.benchmarks.trained.language import Language, Training
from edge_circuits.benchmarks.trained.weights import SHIPPED, save
from edge_circuits.graphs import Circuit, Graph, metrics, run

WARM_UP = 0.05  # share of the steps in which the rate rises
N_ASKED = 512


def train(of: Language, training: Training, quiet: bool = False) -> nn.Module:
    """Train the Hugging Face model from random weights."""
    module = of.new_module(training.seed).train()
    rate = training.learning_rate
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=training.steps + 1, pct_start=WARM_UP)
    rng = random.Random(f"sequences {training.seed}")
    bar = trange(training.steps, desc=f"training {of.name}", unit="step", disable=quiet)
    for step in bar:
        loss = next_token_loss(module, of, rng, training.batch_size)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {loss.item():.3f}")
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


def _add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", choices=NAMES)
    add("--out", type=Path, default=SHIPPED, help="folder for the weights; by default those shipped are replaced")
    add("--steps", type=int, help="number of steps; by default as many as the shipped weights had")
    add("--seed", type=int, help="of weights and sequences")


def _work(given: argparse.Namespace) -> None:
    of = language_of(given.name)
    asked = {name: getattr(given, name) for name in ("steps", "seed") if getattr(given, name) is not None}
    training = replace(of.training, **asked)
    torch.set_num_threads(1)  # the model is small, and sums keep their order
    module = round_to_half(train(of, training, given.quiet))
    found = accuracies(of, bridged(of, module))
    path = save(of, module, training, found, given.out)
    print(f"wrote {path}; right answers: {found}")


STUDY = Study("trained.train", "Train a small language model.", ("quiet",), _add, _work)
main, parser = STUDY.main, STUDY.parser

if __name__ == "__main__":
    raise SystemExit(main())
