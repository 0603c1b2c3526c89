"""Two processes that differ in one argument at a time, and one that is lost; started by torchrun, it writes what each was told."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from counting import IDENTIFIED, TRIED
from models import build, logit_difference, prompt_pairs

from edge_circuits import acdc, eap
from edge_circuits.graphs import Circuit, Graph, PromptPairs

PAIRS = prompt_pairs([6, 5, 6, 4, 6], seed=5)
LOST = 3  # the status of the process that ends


def louder(logits: torch.Tensor, pairs: PromptPairs) -> torch.Tensor:
    """A metric of the same name with other values."""
    return 2 * logit_difference(logits, pairs)


louder.__name__ = logit_difference.__name__


def cases(odd: bool, folder: Path) -> dict[str, Callable[[], Any]]:
    """Calls in which one argument is another in the odd process: the argument's name and a number to the call."""
    model = build("llama", torch.float64).model
    graph = Graph.from_model(model)
    other = build("llama", torch.float64).model
    if odd:
        with torch.no_grad():
            next(other.parameters())[0, 0] += 1e-6

    def score(**changed: Any) -> Any:
        given = dict(model=model, pairs=PAIRS, metric=logit_difference, method="eap", batch_size=2) | changed
        return lambda: eap.score(**given, process_group=dist.group.WORLD, quiet=True)

    def discover(**changed: Any) -> Any:
        given = dict(model=model, pairs=PAIRS, metric="kl", threshold=0.5, batch_size=2) | changed
        return lambda: acdc.discover(**given, process_group=dist.group.WORLD, quiet=True)

    def refine(**changed: Any) -> Any:
        given = dict(model=model, circuit=Circuit.full(graph), pairs=PAIRS, metric="kl", threshold=0.5) | changed
        return lambda: acdc.refine(**given, process_group=dist.group.WORLD, quiet=True)

    def groups(**changed: Any) -> Any:
        given = dict(model=model, pairs=PAIRS, metric=logit_difference, method="eap", batch_size=1) | changed
        return lambda: eap.score_groups(**given, process_group=dist.group.WORLD, quiet=True)

    def nodes(**changed: Any) -> Any:
        given = dict(model=model, pairs=PAIRS, metric=logit_difference, batch_size=2) | changed
        return lambda: eap.score_nodes(**given, process_group=dist.group.WORLD, quiet=True)

    some = Circuit.full(graph) - Circuit.from_edges(graph, [graph.edges[0]] if odd else [graph.edges[1]])
    return {
        "weights": score(model=other),
        "weights, acdc": discover(model=other),
        "weights, nodes": nodes(model=other),
        "prompts": score(pairs=prompt_pairs([6, 5, 6, 4, 6], seed=6 if odd else 5)),
        "metric's values": score(metric=louder if odd else logit_difference),
        "metric's values, acdc": discover(metric=louder if odd else logit_difference),
        "metric's values, nodes": nodes(metric=louder if odd else logit_difference),
        "method": score(method=eap.RelP(attention="ah") if odd else eap.RelP()),
        "method, nodes": nodes(method="eap" if odd else "relp"),
        "intervention": score(intervention="zero" if odd else "mean"),
        "intervention, acdc": discover(intervention="zero" if odd else "mean"),
        "batches": score(batch_size=1 if odd else 2),
        "token_chunk": score(token_chunk=7 if odd else 8),
        "graph": score(kv_destinations="kv-head" if odd else "query-head"),
        "checkpoint": score(checkpoint=folder / "scores" if odd else None),
        "checkpoint, acdc": discover(checkpoint=None if odd else folder / "traces"),
        "threshold": discover(threshold=0.25 if odd else 0.5),
        "threshold, refine": refine(threshold=0.25 if odd else 0.5),
        "circuit": refine(circuit=some),
        "stacked_tokens": discover(stacked_tokens=99 if odd else 100),
        "refused, 'relpp'": score(method="relpp" if odd else "relp"),
        "refused, threshold: expected": discover(threshold=-0.5 if odd else 0.5),
        "refused, threshold: expected a number": refine(threshold="low" if odd else 0.5),
        "refused, change: expected": discover(change="signd" if odd else "signed"),
        "refused, stacked_tokens: expected": discover(stacked_tokens=0 if odd else 100),
        "refused, argument 'treshold'": discover(**({"treshold": 1} if odd else {})),
        "refused, n_groups: expected": groups(n_groups=0 if odd else 2),
        "n_groups": groups(n_groups=3 if odd else 2),
    }


def told(call: Callable[[], Any]) -> str:
    """What a call is refused with."""
    try:
        call()
    except (ValueError, TypeError) as error:
        return str(error)
    return "not refused"


def lost(rank: int) -> str:
    """What is reported of a process that ends in the second of its batches."""
    n_calls = 0

    def metric(logits: torch.Tensor, pairs: PromptPairs) -> torch.Tensor:
        nonlocal n_calls
        n_calls += torch.is_grad_enabled()
        if rank == 1 and n_calls == IDENTIFIED - TRIED + 2:  # those that try it are without gradients
            os._exit(LOST)
        return logit_difference(logits, pairs)

    model = build("llama", torch.float64).model
    try:
        eap.score(model, PAIRS, metric, "eap", batch_size=1, process_group=dist.group.WORLD, quiet=True)
    except RuntimeError as error:
        return str(error)
    return "not reported"


def main() -> None:
    """Make all calls, and write what this process was told."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder, rank = Path(sys.argv[1]), dist.get_rank()
    answers = {name: told(call) for name, call in cases(rank == 1, folder).items()}
    (folder / f"rank-{rank}.json").write_text(json.dumps(answers))
    dist.barrier()
    (folder / f"lost-{rank}.txt").write_text(lost(rank))


if __name__ == "__main__":
    main()
