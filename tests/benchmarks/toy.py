"""Problems of a few dozen edges with random weights, on which the benchmarks run in moments: in memory, and as a user's files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from models import hugging_face, native, prompt_pairs

from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.roc.finding import Search, Settings
from edge_circuits.eap.checkpoint import Checkpoint
from edge_circuits.graphs import Circuit, Graph
from edge_circuits.graphs.metrics import logit_difference

EDGES = ("input->a0.h1<v>", "a0.h1->a1.h0<q>", "input->a1.h0<k>", "a1.h0->m1", "m1->logits", "a1.h0->logits")
LENGTHS = (7, 5, 6)


def toy_problem(n_prompts: int = 6, seed: int = 0) -> Problem:
    """A native model of two layers and two heads; its "known" circuit is arbitrary."""
    model = native(
        n_layers=2, n_heads=2, d_model=12, d_head=6, d_mlp=16, normalization_type="LN", act_fn="gelu", seed=0
    )
    return Problem(
        model_name="planted",
        task="toy",
        model=model,
        pairs=prompt_pairs(_lengths(n_prompts, seed), seed=seed),
        prompts="random prompts",
        metric_name="logit_difference",
        known=Circuit.from_edges(Graph.from_model(model), EDGES),
        origin="made up",
        roles={"a0.h1": "sender", "a1.h0": "reader"},
    )


def toy_search(problem: Problem | None = None, **settings: object) -> Search:
    """A search of the toy problem's circuit with the logit difference, in three groups."""
    chosen = Settings(**{"n_groups": 3, "n_resamples": 50, "n_random": 20, **settings})
    return Search(problem or toy_problem(), "logit_difference", logit_difference, chosen)


def toy_files(folder: Path, n_prompts: int = 6) -> list[str]:
    """A directory with a GPT-2 of two layers and two heads without tokenizer, a file of prompts, and a circuit: words to ask for it."""
    model = hugging_face("gpt2", n_layer=2, n_head=2, n_embd=12, n_positions=16, vocab_size=50)
    with redirect_stderr(StringIO()):  # a progress bar
        model.save_pretrained(folder / "toy")
    prompt_pairs(_lengths(n_prompts, 0), seed=0).to_jsonl(folder / "mine.jsonl")
    Circuit.from_edges(Graph(2, 2), EDGES).save(folder / "known.json")
    given = {"--model": "toy", "--prompts": "mine.jsonl", "--circuit": "known.json"}
    return [word for option, name in given.items() for word in (option, str(folder / name))]


def _lengths(n_prompts: int, seed: int) -> Sequence[int]:
    return [*LENGTHS[seed % 3 :], *LENGTHS * n_prompts][:n_prompts]


def spoil(folder: Path) -> int:
    """Negate all scores that are kept in a folder, so that a run that reads them shows it; returns how many files there are."""
    files = [path for path in folder.rglob("*.npz") if "batch" not in path.name]
    for path in files:
        with np.load(path) as held:
            shapes = [torch.from_numpy(held[name]) for name in ("scores", "done")]
        kept = Checkpoint(path, *shapes)
        kept.scores = -kept.scores
        kept.save()
    return len(files)
