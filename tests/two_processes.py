"""What `tests/test_two_processes.py` asks of several processes; started by torchrun, it writes what each of them found.

A question is a function of a process group (None: this process alone) and a folder, and gives tensors or text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from counting import IDENTIFIED, Counting, Stopped
from models import curved, logit_difference, prompt_pairs, tiny

from edge_circuits import acdc, eap
from edge_circuits.eap import checkpoint
from edge_circuits.eap.intervals import score_groups
from edge_circuits.graphs import prune
from edge_circuits.graphs.graph import Graph

PAIRS = prompt_pairs([8, 5, 6, 6, 3, 8, 7, 4, 6], positions=[-1, 2, -1, -2, 0, -1, -1, -1, -1], seed=5)
SOME_EDGES = torch.zeros_like(Graph.from_model(tiny("llama").model).edge_mask)
SOME_EDGES[::3, ::5] = True
METHODS = ("eap", "relp", "eap-ig", "clean-corrupted", "hisp", "information-flow-routes", "exact", "random")
Group = dist.ProcessGroup | None


def scores(group: Group, method: str, kind: str = "llama", **settings: Any) -> torch.Tensor:
    """Edge scores; five batches of two or one."""
    settings = dict(batch_size=2, quiet=True) | settings
    asked = eap.Exact(SOME_EDGES) if method == "exact" else method
    return eap.score(tiny(kind).model, PAIRS, logit_difference, asked, process_group=group, **settings).scores


def found(group: Group, metric: Any, kind: str = "attention-only", **settings: Any) -> list[Any]:
    """ACDC's decisions, edge by edge with every value."""
    settings = dict(batch_size=2, quiet=True, threshold=0.02) | settings
    circuit = acdc.discover(tiny(kind).model, PAIRS, metric, process_group=group, **settings)
    return [tuple(decision) for decision in circuit.trace.decisions] + [circuit.trace.near_ties]


def refined(group: Group) -> list[Any]:
    """ACDC's decisions on a pruned graph."""
    model = tiny("gpt2").model
    circuit = prune(eap.score(model, PAIRS, logit_difference, "relp", quiet=True), k=60)
    refined = acdc.refine(model, circuit, PAIRS, logit_difference, 0.02, batch_size=3, process_group=group, quiet=True)
    return list(refined.trace.decisions)


def swept(group: Group, folder: Path) -> list[Any]:
    """ACDC at several thresholds."""
    thresholds = [0.01, 0.05, 0.2]
    settings = dict(batch_size=4, checkpoint=folder / "sweep", process_group=group, quiet=True)
    return acdc.sweep(tiny("attention-only").model, PAIRS, "kl", thresholds, **settings).scored.scores


def grouped(group: Group) -> torch.Tensor:
    """Scores of groups of prompts."""
    settings = dict(n_groups=3, batch_size=1, process_group=group, quiet=True)
    return score_groups(tiny("llama").model, PAIRS, logit_difference, "eap", **settings).per_group


def nodes(group: Group, dtype: torch.dtype = torch.float64, **budget: float) -> torch.Tensor:
    """Node scores of every prompt."""
    settings = dict(batch_size=2, process_group=group, quiet=True)
    found = eap.score_nodes(tiny("gpt2", dtype).model, PAIRS, logit_difference, "relp", **settings, **budget).per_prompt
    return torch.cat([values.nan_to_num().flatten(1) for values in found.values()], dim=1)


def begun_scores(group: Group, folder: Path, most: float = float("inf")) -> tuple[torch.Tensor, int]:
    """Scores from a checkpoint, and how often the metric was called for them."""
    metric = Counting(most)
    settings = dict(batch_size=2, checkpoint=folder / "begun", process_group=group, quiet=True)
    return eap.score(tiny("llama").model, PAIRS, metric, "eap", **settings).scores, metric.n_calls


def begun_sweep(group: Group, folder: Path, most: float = float("inf")) -> tuple[list[Any], int]:
    """ACDC from a checkpoint, and how often the metric was called for it."""
    metric = Counting(most)
    settings = dict(batch_size=2, checkpoint=folder / "begun traces", process_group=group, quiet=True)
    circuit = acdc.discover(tiny("attention-only").model, PAIRS, metric, 0.02, **settings)
    return list(circuit.trace.decisions), metric.n_calls


def begin(folder: Path) -> None:
    """Leave checkpoints of runs that were stopped."""
    with patch.object(checkpoint, "SECONDS_BETWEEN", -1.0):  # written after every batch
        for run, most in ((begun_scores, IDENTIFIED + 2 * 5 + 2), (begun_sweep, 150)):
            try:
                run(None, folder, most)
            except Stopped:
                continue
            raise AssertionError(f"{run.__name__} ended within {most} calls of the metric")


def refusal(call: Callable[[], Any]) -> str:
    """What a call is refused with."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return "not refused"


def other_prompts(group: Group) -> str:
    """What processes with prompts of their own are told."""
    mine = (
        PAIRS[1:5] if group is not None and dist.get_rank(group) else PAIRS
    )  # shorter too, so their means do not add up
    settings = dict(intervention="mean", batch_size=2, process_group=group, quiet=True)
    return refusal(lambda: eap.score(tiny("gpt2").model, mine, logit_difference, **settings))


def other_rules(group: Group) -> str:
    """What processes with rules of their own are told."""
    method = eap.RelP(attention="ah") if group is not None and dist.get_rank(group) else "relp"
    settings = dict(method=method, batch_size=2, process_group=group, quiet=True)
    return refusal(lambda: eap.score(tiny("gpt2").model, PAIRS, logit_difference, **settings))


QUESTIONS: dict[str, Callable[[Group, Path], Any]] = {
    **{f"score {method}": lambda group, folder, method=method: scores(group, method) for method in METHODS},
    "score eap, kv-head": lambda group, folder: scores(group, "eap", kv_destinations="kv-head"),
    "score relp, zero": lambda group, folder: scores(group, "relp", intervention="zero"),
    "score eap, checkpoint": lambda group, folder: scores(group, "eap", checkpoint=folder),
    "score exact, checkpoint": lambda group, folder: scores(group, "exact", checkpoint=folder),
    "score groups": lambda group, folder: grouped(group),
    "score nodes": lambda group, folder: nodes(group),
    "score nodes, some measured": lambda group, folder: nodes(group, budget=4),
    "score nodes, bfloat16": lambda group, folder: nodes(group, torch.bfloat16),
    "acdc kl": lambda group, folder: found(group, "kl", "gpt2"),
    "acdc metric": lambda group, folder: found(group, curved),
    "acdc zero": lambda group, folder: found(group, "kl", intervention="zero", threshold=0.1),
    "acdc, checkpoint": lambda group, folder: found(group, "kl", threshold=0.03, checkpoint=folder / "traces"),
    "acdc refine": lambda group, folder: refined(group),
    "acdc sweep": lambda group, folder: swept(group, folder),
    # means are added up in another order, and batches of another size are rounded otherwise
    "near: score relp, mean": lambda group, folder: scores(group, "relp", intervention="mean"),
    "near: score relp, mean-positional": lambda group, folder: scores(group, "relp", intervention="mean-positional"),
    "near: score exact, batches by themselves": lambda group, folder: scores(group, "exact", batch_size=None),
    "near: score gemma2, batches by themselves": lambda group, folder: scores(group, "relp", "gemma2", batch_size=None),
    "begun scores": lambda group, folder: begun_scores(group, folder),
    "begun sweep": lambda group, folder: begun_sweep(group, folder),
    "refused: prompts": lambda group, folder: other_prompts(group),
    "refused: rules": lambda group, folder: other_rules(group),
    "refused: too few batches": lambda group, folder: refusal(lambda: scores(group, "eap", batch_size=9)),
}


def answers(group: Group, folder: Path) -> dict[str, Any]:
    """All questions answered."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: ask(group, folder) for name, ask in QUESTIONS.items()}


def main() -> None:
    """Answer all questions in a group of processes; each writes its answers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder = Path(sys.argv[1])
    rank = dist.get_rank()
    given = answers(dist.group.WORLD, folder)
    torch.save(given, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
