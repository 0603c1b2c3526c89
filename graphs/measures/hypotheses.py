"""Hypothesis tests of a circuit: is it equivalent to the model, is the rest independent of it, is every edge needed.

A small p-value speaks against the circuit: the null hypotheses say that it is as it should be.

- Equivalence. Circuit C and model M have even chances of doing better: P(s(C) > s(M)) is within a margin of 1/2. Exact binomial.
- Independence. What the complement does on a prompt says nothing about what the model does. Permutations of an HSIC.
- Minimality. Each edge changes more than most edges that do not belong: P(change by e > change by a stray edge) is at least a
  quantile. Exact binomial, edge by edge, with Bonferroni's correction.

s is the metric on a prompt. The first two ask for a p-value above the level (nothing speaks against); none of them proves that a
circuit is right, least of all with few prompts.

    found = hypothesis_tests(model, circuit, pairs, metric)
    found.equivalence.p_value, found.independence.p_value, found.minimality.superfluous

Reference: Shi et al. 2024, Hypothesis Testing the Circuit Hypothesis in LLMs, section 3 (the three idealized tests). Where their
published code differs from the paper (equivalence there compares mean differences of the score with 1/2), the paper is followed.
Gretton et al. 2007, A Kernel Statistical Test of Independence (HSIC).
"""

from __future__ import annotations

import math
import random
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import binom
from torch import Tensor, nn

from edge_circuits.graphs import Circuit, PromptPairs
from edge_circuits.graphs.checks import between_0_and_1, number, refusal, whole_number
from edge_circuits.graphs.measures.values import values_of
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.running.patching import Intervention
from edge_circuits.graphs.surroundings import in_plain_surroundings

MARGIN = 0.1
QUANTILE = 0.9
N_PERMUTATIONS = 1000
N_STRAY = 100
TRIES = 100


@dataclass(frozen=True)
class Equivalence:
    """Whether circuit and model do better equally often.

    Attributes:
        share_better: Share of the prompts without ties on which the circuit's metric is above the model's.
        n_ties: Prompts on which both are equal; they are left out.
        p_value: Largest chance, over all P within the margin of 1/2, of a share as far from 1/2; 1 if there are only ties.
    """

    share_better: float
    n_ties: int
    p_value: float


@dataclass(frozen=True)
class Independence:
    """Whether the complement's metric says something of the model's, prompt by prompt.

    Attributes:
        hsic: Hilbert-Schmidt independence criterion of the two, Gaussian kernels; 0: independent.
        p_value: Share of the permutations, the observed order among them, with an HSIC at least as large.
    """

    hsic: float
    p_value: float


@dataclass(frozen=True, eq=False)
class MinimalityTest:
    """Whether each edge changes more than stray edges do.

    Attributes:
        circuit: The circuit; its `edges` are in the order of what follows.
        changes: Mean over prompts of |s(C) - s(C without the edge)|, in the metric's unit. [edge]
        stray_changes: The same of random edges of random larger circuits. [stray]
        p_values: Chance of so few stray edges below, were the edge above the share `quantile` of them. [edge]
        level: An edge is superfluous where its p-value times the number of edges is below this.
    """

    circuit: Circuit
    changes: Float[Tensor, "edge"]
    stray_changes: Float[Tensor, "stray"]
    p_values: Float[Tensor, "edge"]
    level: float

    @property
    def p_value(self) -> float:
        """Of the hypothesis that every edge is needed: the smallest, times the number of edges (Bonferroni)."""
        return min(1.0, self.p_values.min().item() * len(self.p_values))

    @property
    def superfluous(self) -> tuple[str, ...]:
        """The edges that matter no more than stray ones do."""
        found = (self.p_values * len(self.p_values) < self.level).tolist()
        return tuple(edge for edge, is_superfluous in zip(self.circuit.edges, found) if is_superfluous)


@dataclass(frozen=True, eq=False)
class CircuitTests:
    """The three tests of one circuit.

    Attributes:
        equivalence: Whether circuit and model do better equally often.
        independence: Whether what is left out says something of the model.
        minimality: Whether each edge changes more than stray edges do.
        cannot_tell: What so few prompts, or stray edges, cannot show whatever the values are, a line each.
    """

    equivalence: Equivalence
    independence: Independence
    minimality: MinimalityTest
    cannot_tell: tuple[str, ...] = ()


@in_plain_surroundings
def hypothesis_tests(
    model: nn.Module,
    circuit: Circuit,
    pairs: PromptPairs,
    metric: Metric | str,
    intervention: Intervention = "patching",
    *,
    margin: float = MARGIN,
    quantile: float = QUANTILE,
    level: float = 0.05,
    n_permutations: int = N_PERMUTATIONS,
    n_stray: int = N_STRAY,
    seed: int = 0,
    batch_size: int | None = None,
) -> CircuitTests:
    """All three tests, every circuit run in one go (`edge_circuits.graphs.measures.values`).

    Args:
        model: A TransformerLens model; left unchanged.
        circuit: Of the model's graph, with edges and not all.
        pairs: Prompts that the circuit was not found with.
        metric: `metric(logits, pairs)`, one value a prompt; or a metric's name.
        intervention: What a cut edge reads.
        margin: How far from even the chances may be under the null hypothesis of equivalence.
        quantile: Above which share of stray edges each edge is to be.
        level: Of the tests edge by edge, for all edges together.
        n_permutations: For independence.
        n_stray: Random larger circuits for minimality, one stray edge each.
        seed: Of permutations and stray edges.
        batch_size: Prompts in a batch.

    Warns:
        UserWarning: So few prompts, or stray edges, that a test cannot reject its hypothesis whatever the values are.

    Raises:
        ValueError: The circuit has no edges or all, no path can be added to it, there are fewer than 3 prompts, or a number is out
            of range.
    """
    _check(circuit, pairs, margin, quantile, level, n_permutations, n_stray)
    strays = _strays(circuit, n_stray, seed)
    without = [circuit - Circuit.from_edges(circuit.graph, [edge]) for edge in circuit.edges]
    asked = [circuit, ~circuit, *without, *(one for stray in strays for one in stray)]
    found = values_of(model, asked, pairs, metric, intervention, batch_size=batch_size)
    own, complement, others = found.metric[0], found.metric[1], found.metric[2:]
    inflated = others[len(without) :].unflatten(0, (n_stray, 2))
    changes = (others[: len(without)] - own).abs().mean(1)
    stray_changes = (inflated[:, 0] - inflated[:, 1]).abs().mean(1)
    even = equivalence(own, found.ends.clean, margin)
    n = len(pairs) - even.n_ties
    smallest = {
        f"equivalence: {n} prompts without ties": _smallest_of_equivalence(n, margin),
        f"independence: {len(pairs)} prompts": max(1 / (n_permutations + 1), 1 / math.factorial(min(len(pairs), 20))),
        f"minimality: {n_stray} stray edges for {circuit.n_edges} edges": (1 - quantile) ** n_stray * circuit.n_edges,
    }
    cannot_tell = tuple(
        f"{what} cannot reject it at level {level:g}: no values give a p-value below {min(1, p):.2g}"
        for what, p in smallest.items()
        if p >= level
    )
    for line in cannot_tell:
        warnings.warn(line, stacklevel=2)
    return CircuitTests(
        even,
        independence(complement, found.ends.clean, n_permutations, seed),
        MinimalityTest(circuit, changes, stray_changes, minimality_p_values(changes, stray_changes, quantile), level),
        cannot_tell,
    )


def _smallest_of_equivalence(n: int, margin: float) -> float:
    """The p-value of `equivalence` when one of the two is above the other on all n prompts."""
    return (0.5 + margin) ** n + (0.5 - margin) ** n if n else 1.0


def equivalence(circuit: Float[Tensor, "pair"], model: Float[Tensor, "pair"], margin: float = MARGIN) -> Equivalence:
    """Test whether two metrics have even chances of being above the other, prompt by prompt.

    With n prompts without ties, t = |share - 1/2| and K ~ Binomial(n, 1/2 + margin): p = P(|K / n - 1/2| >= t), which is the
    largest over the null hypothesis.
    """
    better, worse = int((circuit > model).sum()), int((circuit < model).sum())
    n = better + worse
    if not n:
        return Equivalence(0.5, len(circuit), 1.0)
    high = max(better, worse)
    p_value = binom.sf(high - 1, n, 0.5 + margin) + binom.cdf(n - high, n, 0.5 + margin)
    return Equivalence(better / n, len(circuit) - n, min(1.0, float(p_value)))  # above 1 where the shares are even


def independence(
    complement: Float[Tensor, "pair"], model: Float[Tensor, "pair"], n_permutations: int = N_PERMUTATIONS, seed: int = 0
) -> Independence:
    """Test whether two metrics are independent over prompts.

    HSIC = trace(K H L H) / (n - 1)^2 with H = I - 1/n and Gaussian kernels K, L, each as wide as the median distance of its own
    values. The paper gives both one width; widths of their own do not depend on the scales.
    """
    n = len(model)
    first, second = _centred_kernel(complement), _centred_kernel(model)
    observed = (first * second).sum().item()
    generator, as_large = torch.Generator().manual_seed(seed), 1
    for _ in range(n_permutations):
        order = torch.randperm(n, generator=generator)
        as_large += (first * second[order][:, order]).sum().item() >= observed * (1 - 1e-12)
    return Independence(observed / (n - 1) ** 2, as_large / (n_permutations + 1))


def minimality_p_values(
    changes: Float[Tensor, "edge"], stray_changes: Float[Tensor, "stray"], quantile: float = QUANTILE
) -> Float[Tensor, "edge"]:
    """For each edge P(K <= number of stray changes below its own), K ~ Binomial(number of strays, quantile)."""
    below = (stray_changes[None] < changes[:, None]).sum(1)
    return torch.tensor(
        [float(binom.cdf(int(count), len(stray_changes), quantile)) for count in below], dtype=torch.double
    )


def _centred_kernel(values: Float[Tensor, "pair"]) -> Float[Tensor, "pair pair"]:
    """H K H of a Gaussian kernel as wide as the median distance between different prompts; 0 where all are equal."""
    distances = (values[:, None] - values[None]).abs().double()
    width = distances[~torch.eye(len(values), dtype=torch.bool)].median()
    width = width if width > 0 else distances.mean()
    kernel = (-(distances**2) / (2 * width**2)).exp() if width > 0 else torch.ones_like(distances)
    kernel = kernel - kernel.mean(0, keepdim=True)
    return kernel - kernel.mean(1, keepdim=True)


def _strays(circuit: Circuit, n: int, seed: int) -> list[tuple[Circuit, Circuit]]:
    """Larger circuits, each the circuit and a random path from `input` to `logits` that adds something, without and with cut.

    Of each pair the second lacks one random edge of those added.
    """
    generator, found = random.Random(seed), []
    for _ in range(n * TRIES):
        path = Circuit.from_edges(circuit.graph, _random_path(circuit, generator))
        if added := (path - circuit).edges:
            larger = circuit | path
            found.append((larger, larger - Circuit.from_edges(circuit.graph, [generator.choice(added)])))
            if len(found) == n:
                return found
    raise refusal("circuit", "one to which paths can be added", repr(circuit), "test a smaller one")


def _random_path(circuit: Circuit, generator: random.Random) -> list[str]:
    """Edges from `logits` back to `input`, each step a random source of a random destination of the node."""
    graph = circuit.graph
    visible, edges = graph.n_visible.tolist(), []
    destination = graph.n_destinations - 1
    while True:
        source = generator.randrange(visible[destination])
        edges.append(graph.edge_name(source, destination))
        if not source:
            return edges
        destination = generator.choice(graph.destinations_of(source))


def _check(
    circuit: Circuit,
    pairs: PromptPairs,
    margin: float,
    quantile: float,
    level: float,
    n_permutations: int,
    n_stray: int,
) -> None:
    if not 0 < circuit.n_edges < circuit.graph.n_edges:
        raise refusal("circuit", "some edges and not all", f"{circuit.n_edges} of {circuit.graph.n_edges}")
    if len(pairs) < 3:
        raise refusal("pairs", "3 or more to test with", len(pairs))
    number("margin", margin, least=0, below=0.5)
    between_0_and_1("quantile", quantile)
    between_0_and_1("level", level)
    whole_number("n_permutations", n_permutations, 1)
    whole_number("n_stray", n_stray, 1)
