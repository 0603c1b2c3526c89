"""Check that a planted circuit is the circuit: `python -m edge_circuits.benchmarks.planted.verify ioi`.

On held-out prompts, with cut edges reading another random prompt of the same template (or what `--intervention` says):

1. the circuit alone answers: its accuracy is at least 95 % of the whole model's;
2. each edge matters: cutting it costs the metric, in the circuit and in the whole model alike, at least 5 % of the whole
   model's metric, on average over the prompts where the causal model says that it should; cutting an edge of a head that hurts
   gains as much instead;
3. everything else does not: with all other edges cut, the mean metric stays within 5 %, 95 % of the prompts stay right or
   stay wrong, and the whole model's distribution is at most 0.05 nats away (KL).

Accuracy is the share of prompts on which an answer has the largest logit of the vocabulary.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from edge_circuits.benchmarks.planted import NAMES, Planted, load
from edge_circuits.benchmarks.planted.model import PlantedTask
from edge_circuits.benchmarks.study import DIFFERS, DONE, Study
from edge_circuits.graphs import Circuit, PromptPairs, metrics, run
from edge_circuits.graphs.running.patching import Intervention

N_PROMPTS = 512
SEED = 7
ACCURACY_KEPT = 0.95
LEAST_COST = 0.05
METRIC_SHIFT = 0.05
SAME_ANSWERS = 0.95
MOST_DIVERGENCE = 0.05  # nats
TOLD = 0.02  # change of the causal model's metric, as a share, from which a prompt tells of an edge


@dataclass(frozen=True)
class EdgeCost:
    """What cutting one edge of the circuit costs, over the prompts that tell of it; of an edge that hurts, what it gains.

    Attributes:
        hurts: Whether the causal model's metric rises when it is cut.
        n_prompts: How many these are.
        expected: Fall of the metric in the causal model.
        in_circuit: Fall of the metric when it is cut beside all edges outside the circuit.
        in_model: Fall of the metric when it alone is cut.
    """

    edge: str
    hurts: bool
    n_prompts: int
    expected: float
    in_circuit: float
    in_model: float


@dataclass(frozen=True)
class Verification:
    """The numbers of the three checks; accuracies and `same_answers` are shares, metrics are means over prompts.

    Attributes:
        divergence: KL(whole model || circuit) at the answer position, in nats.
    """

    task: PlantedTask
    n_prompts: int
    accuracy: float
    circuit_accuracy: float
    corrupted_accuracy: float
    metric: float
    circuit_metric: float
    corrupted_metric: float
    same_answers: float
    divergence: float
    edges: tuple[EdgeCost, ...]

    @property
    def circuit_answers(self) -> bool:
        """Check 1."""
        return self.circuit_accuracy >= ACCURACY_KEPT * self.accuracy

    @property
    def each_edge_matters(self) -> bool:
        """Check 2."""
        least = LEAST_COST * abs(self.metric)
        return all(cost.n_prompts > 0 and min(cost.in_circuit, cost.in_model) >= least for cost in self.edges)

    @property
    def nothing_else_matters(self) -> bool:
        """Check 3."""
        shift = abs(self.circuit_metric - self.metric)
        unmoved = shift <= METRIC_SHIFT * abs(self.metric) and self.divergence <= MOST_DIVERGENCE
        return unmoved and self.same_answers >= SAME_ANSWERS

    @property
    def passed(self) -> bool:
        """All three."""
        return self.circuit_answers and self.each_edge_matters and self.nothing_else_matters


@torch.no_grad()
def verify(
    planted: Planted,
    n_prompts: int = N_PROMPTS,
    seed: int = SEED,
    intervention: Intervention = "patching",
    quiet: bool = False,
) -> Verification:
    """Run the three checks on held-out prompts; the circuit is trained to be true under "patching", see `PlantedTask`."""
    model, circuit, task = planted
    pairs = task.pairs(n_prompts, seed=seed, split="test")
    whole, empty = Circuit.full(task.graph), Circuit.empty(task.graph)
    metric, accuracy = metrics.load(task.task.metric), metrics.top_accuracy
    logits = {
        name: run(model, edges, pairs, intervention=intervention)
        for name, edges in (("whole", whole), ("circuit", circuit), ("empty", empty))
    }
    measured = {name: metric(values, pairs).mean().item() for name, values in logits.items()}
    right = {name: accuracy(values, pairs).mean().item() for name, values in logits.items()}
    same = accuracy(logits["whole"], pairs) == accuracy(logits["circuit"], pairs)
    return Verification(
        task=task,
        n_prompts=n_prompts,
        accuracy=right["whole"],
        circuit_accuracy=right["circuit"],
        corrupted_accuracy=right["empty"],
        metric=measured["whole"],
        circuit_metric=measured["circuit"],
        corrupted_metric=measured["empty"],
        same_answers=same.float().mean().item(),
        divergence=-metrics.KLDivergence(pairs, logits["whole"])(logits["circuit"], pairs).mean().item(),
        edges=tuple(
            edge_cost(
                edge, planted, pairs, {name: metric(logits[name], pairs) for name in ("whole", "circuit")}, intervention
            )
            for edge in tqdm(task.causal.edges, desc="edges", disable=quiet, leave=False)
        ),
    )


def edge_cost(
    edge: str,
    planted: Planted,
    pairs: PromptPairs,
    before: Mapping[str, Float[Tensor, "pair"]],
    intervention: Intervention = "patching",
) -> EdgeCost:
    """What cutting an edge costs, given the metric of the "whole" model and of the "circuit" prompt by prompt."""
    model, circuit, task = planted
    metric = metrics.load(task.task.metric)
    right = metric(task.target(pairs), pairs)
    expected = right - metric(task.target(pairs, (edge,)), pairs)
    hurts = bool(expected.mean() < 0)
    expected = -expected if hurts else expected
    tells = expected > TOLD * right.mean()
    one = Circuit.from_edges(task.graph, (edge,))

    def fall(name: str, kept: Circuit) -> float:
        after = metric(run(model, kept - one, pairs, intervention=intervention), pairs)
        return _mean(after - before[name] if hurts else before[name] - after, tells)

    return EdgeCost(
        edge=edge,
        hurts=hurts,
        n_prompts=int(tells.sum()),
        expected=_mean(expected, tells),
        in_circuit=fall("circuit", circuit),
        in_model=fall("whole", Circuit.full(task.graph)),
    )


def _mean(values: Float[Tensor, "pair"], chosen: Bool[Tensor, "pair"]) -> float:
    return values[chosen].mean().item()


def report(result: Verification) -> str:
    """The numbers as text."""
    metric, n_edges = result.task.task.metric, len(result.edges)
    lines = [
        f"{result.task.name}: {n_edges} of {result.task.graph.n_edges} edges, {result.n_prompts} held-out prompts, {metric}",
        f"1. the circuit alone answers: {_verdict(result.circuit_answers)}",
        f"   accuracy  whole model {result.accuracy:.1%}, circuit {result.circuit_accuracy:.1%}, "
        f"everything cut {result.corrupted_accuracy:.1%}",
        f"2. each of its edges matters, by {LEAST_COST * abs(result.metric):.3f} or more: {_edges_verdict(result)}",
        f"   {'fall of the metric when cut':30} {'causal model':>12} {'circuit':>9} {'whole':>9} {'prompts':>8}",
        *(
            f"   {cost.edge:30} {cost.expected:12.3f} {cost.in_circuit:9.3f} {cost.in_model:9.3f} {cost.n_prompts:8}"
            + ("  hurts" if cost.hurts else "")
            for cost in result.edges
        ),
        f"3. everything else does not: {_verdict(result.nothing_else_matters)}",
        f"   metric    whole model {result.metric:.3f}, circuit {result.circuit_metric:.3f}, "
        f"everything cut {result.corrupted_metric:.3f}",
        f"   as right or wrong as before on {result.same_answers:.1%} of the prompts, KL(whole || circuit) {result.divergence:.4f} nats",
    ]
    return "\n".join(lines)


def _edges_verdict(result: Verification) -> str:
    """Check 2 in words: prompts that tell nothing of an edge are no proof against it."""
    silent = [cost.edge for cost in result.edges if not cost.n_prompts]
    if not silent:
        return _verdict(result.each_edge_matters)
    return f"NOT TOLD, no prompt shows the work of {', '.join(silent)}; take more than {result.n_prompts} prompts"


def _verdict(passed: bool) -> str:
    return "yes" if passed else "NO"


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seed", type=int, default=0, help="of the training (0)")
    parser.add_argument("--prompts", type=int, default=N_PROMPTS, help=f"how many held-out prompts ({N_PROMPTS})")


def _work(given: argparse.Namespace) -> int:
    planted = load(given.name, given.weights, given.seed)
    result = verify(planted, given.prompts, intervention=given.intervention, quiet=given.quiet)
    print(report(result))
    return DONE if result.passed else DIFFERS


STUDY = Study(
    "planted.verify", "Check that a planted circuit is the circuit.", ("weights", "intervention", "quiet"), _add, _work
)
main, parser = STUDY.main, STUDY.parser

if __name__ == "__main__":
    raise SystemExit(main())
