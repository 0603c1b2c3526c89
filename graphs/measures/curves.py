"""Faithfulness over the size of the circuit, and the areas CPR and CMD with intervals.

1. For each share of all edges the best ones by score are chosen, and dead ends removed (`graphs.prune`).
2. All circuits of all curves run in one go, equal ones once (`edge_circuits.graphs.measures.values`).
3. CPR is the area under faithfulness over the share, CMD the area between faithfulness and 1, by trapezoids from the
   smallest share to the largest. With the shares of MIB (0.001 to 1) a circuit as good as the model at every size has CPR
   0.999 and CMD 0. Larger CPR and smaller CMD are better.

In MIB the two have rankings of their own: CPR asks for edges that help, so the most helpful come first (`by="negative"`: cutting
them lowers the metric most); CMD asks for all that matter (`by="absolute"`).

    curve = curves(model, {"eap": scored}, pairs, metric)["eap"]
    curve.area("cpr"), curve.area("cmd", clipped=True), curve.interval("cmd")

Reference: Mueller et al. 2025, MIB: A Mechanistic Interpretability Benchmark, section on circuit localization (CPR, CMD), and
the benchmark's own code for shares and trapezoids.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.graphs import PromptPairs, ScoredGraph, prune
from edge_circuits.graphs.bootstrap import drawn_counts
from edge_circuits.graphs.checks import between_0_and_1, choice, described, refusal, whole_number
from edge_circuits.graphs.measures.values import TINY, Ends, values_of
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.pruning import By, Strategy
from edge_circuits.graphs.running.patching import Intervention
from edge_circuits.graphs.surroundings import in_plain_surroundings

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
N_RESAMPLES = 1000
Area = Literal["cpr", "cmd"]
Over = Literal["share", "kept", "log-share", "points"]


class Interval(NamedTuple):
    """A figure with the percentile interval of its resamples.

    Attributes:
        value: Of all prompts.
        low: Lower end.
        high: Upper end.
        resamples: The figure of each draw. [resample]
    """

    value: float
    low: float
    high: float
    resamples: Float[Tensor, "resample"]


@dataclass(frozen=True, eq=False)
class Curve:
    """Circuits of growing size, cut from one set of scores, and what they do.

    Attributes:
        shares: Of all edges, asked for; ascending.
        k: Edges asked for: the share of the graph's, rounded down.
        n_edges: Edges left when dead ends are removed.
        n_all: Edges of the graph.
        ends: The metric of the whole model and with every edge cut.
        values: The metric of each circuit. [point pair]
        divergences: KL(model || circuit) in nats. [point pair]
    """

    shares: tuple[float, ...]
    k: tuple[int, ...]
    n_edges: tuple[int, ...]
    n_all: int
    ends: Ends
    values: Float[Tensor, "point pair"]
    divergences: Float[Tensor, "point pair"]

    @property
    def faithfulness(self) -> Float[Tensor, "point"]:
        """The share of the metric that each circuit recovers."""
        return self.ends.share(self.values)

    def area(self, name: Area, *, clipped: bool = False, over: Over = "share") -> float:
        """CPR or CMD; larger is better in the one, smaller in the other.

        Args:
            name: "cpr" or "cmd".
            clipped: Faithfulness above 1 counts as 1: a circuit is not praised for what it does beyond the model.
            over: "share" is MIB's. "kept" puts each circuit at the share of edges that are left without dead ends.
                "log-share" weighs sizes by the logarithm of the share, divided by the logarithm's range, so that 1 (CPR)
                and 0 (CMD) are perfect; MIB's code leaves the division out. "points" is the plain mean over the points.

        Raises:
            ValueError: An unknown word.
        """
        return self._areas(self.faithfulness, name, clipped, over).item()

    def interval(
        self,
        name: Area,
        *,
        clipped: bool = False,
        over: Over = "share",
        n_resamples: int = N_RESAMPLES,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> Interval:
        """CPR or CMD with a percentile interval over prompts; the scores stay as they are.

        Prompts are drawn with replacement, and all means anew: of the circuits and of both ends. Draws in which the ends meet
        are left out.

        Raises:
            ValueError: An unknown word, fewer than two prompts, or a number out of range.
        """
        _check_bootstrap(self.values.shape[1], n_resamples, confidence)
        resamples = self._areas(self.resampled_faithfulness(n_resamples, seed), name, clipped, over)
        return interval_of(self.area(name, clipped=clipped, over=over), resamples, confidence)

    def resampled_faithfulness(self, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Float[Tensor, "resample point"]:
        """Faithfulness in other samples of prompts, see `resampled_shares`."""
        return resampled_shares(self.ends, self.values, n_resamples, seed)

    def _areas(
        self, heights: Float[Tensor, "*resample point"], name: str, clipped: bool, over: str
    ) -> Float[Tensor, "*resample"]:
        choice("area", name, get_args(Area))
        choice("over", over, get_args(Over))
        heights = heights.clamp(max=1) if clipped else heights
        heights = heights if name == "cpr" else (1 - heights).abs()
        if over == "points":
            return heights.mean(-1)
        shares = torch.tensor(self.shares, dtype=torch.double)
        if over == "log-share":
            places = shares.log() / (shares[-1] / shares[0]).log()
        else:
            places = shares if over == "share" else torch.tensor(self.n_edges, dtype=torch.double) / self.n_all
        return torch.trapezoid(heights, places, dim=-1)


def resampled_shares(
    ends: Ends, values: Float[Tensor, "point pair"], n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Float[Tensor, "resample point"]:
    """Faithfulness in draws of as many prompts with replacement; the draws depend on the seed and number of prompts alone.

    Draws in which the ends meet are left out.
    """
    n_pairs = values.shape[1]
    counts = drawn_counts(n_pairs, n_resamples, seed)
    drawn = counts @ torch.stack((ends.clean, ends.corrupted, *values), dim=1) / n_pairs
    clean, corrupted, span = drawn[:, :1], drawn[:, 1:2], drawn[:, 0] - drawn[:, 1]
    usable = span.abs() > TINY * (clean.abs() + corrupted.abs())[:, 0]
    return ((drawn[:, 2:] - corrupted) / span[:, None])[usable]


def interval_of(value: float, resamples: Float[Tensor, "resample"], confidence: float = 0.95) -> Interval:
    """The percentile interval of a figure's resamples."""
    tail = (1 - confidence) / 2
    low, high = resamples.quantile(torch.tensor([tail, 1 - tail], dtype=resamples.dtype)).tolist()
    return Interval(value, low, high, resamples)


@in_plain_surroundings
def curves(
    model: nn.Module,
    scored: Mapping[str, ScoredGraph],
    pairs: PromptPairs,
    metric: Metric | str,
    intervention: Intervention = "patching",
    *,
    shares: Sequence[float] = SHARES,
    by: By | Mapping[str, By] = "absolute",
    strategy: Strategy = "top",
    batch_size: int | None = None,
) -> dict[str, Curve]:
    """The curve of each set of scores, all circuits measured in one go.

    Args:
        model: A TransformerLens model; left unchanged.
        scored: Scores of the model's edges by name, best made on other prompts.
        pairs: The prompts to measure on.
        metric: `metric(logits, pairs)`, one value a prompt; or a metric's name.
        intervention: What a cut edge reads.
        shares: Of the graph's edges, ascending, above 0 and up to 1.
        by: How edges are ranked, see `graphs.prune`; for all, or for each name.
        strategy: "top" or "greedy", see `graphs.prune`.
        batch_size: Prompts in a batch; by default as many as fit in 4,096 tokens.

    Raises:
        ValueError: No scores, shares out of range, or a metric that cutting every edge does not change.
    """
    _check_shares(shares)
    if not isinstance(scored, Mapping) or not scored:
        raise refusal(
            "scored", "scores under one or more names", described(scored) if scored else "none", 'give {"name": scores}'
        )
    ranked = {name: by if isinstance(by, str) else by[name] for name in scored}
    with warnings.catch_warnings(action="ignore"):  # that the smallest circuits are empty, which n_edges says
        circuits = {
            name: [prune(one, int(share * one.graph.n_edges), by=ranked[name], strategy=strategy) for share in shares]
            for name, one in scored.items()
        }
    found = values_of(
        model, [c for each in circuits.values() for c in each], pairs, metric, intervention, batch_size=batch_size
    )
    found.ends.check()
    parts = zip(circuits.items(), found.metric.split(len(shares)), found.divergence.split(len(shares)))
    return {
        name: Curve(
            shares=tuple(map(float, shares)),
            k=tuple(circuit.n_requested for circuit in each),
            n_edges=tuple(circuit.n_edges for circuit in each),
            n_all=each[0].graph.n_edges,
            ends=found.ends,
            values=values,
            divergences=divergences,
        )
        for (name, each), values, divergences in parts
    }


def _check_shares(shares: Sequence[float]) -> None:
    ascending = all(one < other for one, other in itertools.pairwise(shares))
    if len(shares) < 2 or not ascending or not shares[0] > 0 or shares[-1] > 1:
        raise ValueError(f"shares: expected two or more ascending numbers above 0 and up to 1, got {list(shares)}")


def _check_bootstrap(n_pairs: int, n_resamples: int, confidence: float) -> None:
    if n_pairs < 2:
        raise refusal("pairs", "at least 2 for an interval over prompts", n_pairs)
    whole_number("n_resamples", n_resamples, 2)
    between_0_and_1("confidence", confidence)
