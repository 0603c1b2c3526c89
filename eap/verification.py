"""Self-checks before scores of a model are trusted: `verify(model, graph, pairs)`.

    graph = eap.score(model, pairs, metric, "relp")
    result = verify(model, graph, pairs, metric)
    print(result.text); assert result.passed

Each check has a number, the limit it must keep, and a verdict. Numbers are relative to the size of what is compared, unless
stated. A check that cannot be made, because the model is refused or a value is not finite, has failed and says why.

What no check can see: a mistake in the question itself, made alike when scoring and when verifying, such as answers exchanged
with wrong answers, or clean prompts with corrupted ones; a model whose weights are other than meant; scores of trained masks,
which are not trained again; and scores of other prompts than those that are given here, but for their correlation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from edge_circuits import eap
from edge_circuits.eap import edge_checks, rule_checks, value_checks
from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.verdicts import Check, Verification
from edge_circuits.graphs import Circuit, PromptPairs, ScoredGraph, run
from edge_circuits.graphs.checks import choice, refusal, whole_number
from edge_circuits.graphs.correlation import pearson, spearman
from edge_circuits.graphs.metrics import Metric, as_metric, logit_difference
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.recognition import copied
from edge_circuits.graphs.surroundings import in_plain_surroundings

# Hugging Face's RMSNorm and rotary positions work in float32, also in a float64 model.
KNOWN = ("patching", "zero", "mean", "mean-positional")  # interventions
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
LOGIT_ROUNDING = ROUNDING | {torch.float32: 1e-4}
"""Of logits alone: weights that were rounded to half precision on the way show in a float32 model."""
LIKELIER_LATER = 1.0  # nats
WIDER = 3.0  # two ways through the model round twice, and each part is compared in its own units
LEAST_PEARSON, LEAST_SPEARMAN, LEAST_SIGNS, LEAST_BF16 = 0.3, 0.3, 0.6, 0.7
N_EDGES = 64
ROWS = 16  # prompts that the model itself is asked at once


@dataclass(frozen=True)
class Subject:
    """What is checked, and how exactly."""

    model: nn.Module
    graph: ScoredGraph
    pairs: PromptPairs
    metric: Metric
    n_edges: int
    seed: int

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return next(self.model.parameters()).dtype

    @property
    def rounding(self) -> float:
        """What rounding may do to a relative difference."""
        return ROUNDING[self.dtype]

    @property
    def intervention(self) -> str:
        """What cut edges read in the scores that are checked."""
        return self.graph.metadata.get("settings", {}).get("intervention", "patching")

    @cached_property
    def eap(self) -> Tensor:
        """EAP's scores by patching, which several checks look at."""
        return self.score(self.model, self.pairs)

    @cached_property
    def full(self) -> Tensor:
        """The logits of the run of all edges. [pair d_vocab]"""
        return run(self.model, Circuit.full(self.graph.graph), self.pairs)

    def score(self, model: nn.Module, pairs: PromptPairs, method: Method | str = "eap", **settings: object) -> Tensor:
        """Scores by a method, with the key and value destinations of the graph that is checked."""
        settings = dict(kv_destinations=self.graph.graph.kv_destinations, quiet=True, **settings)
        return eap.score(model, pairs, self.metric, method, **settings).scores


@in_plain_surroundings
def verify(
    model: nn.Module,
    graph: ScoredGraph,
    pairs: PromptPairs,
    metric: Metric | str = logit_difference,
    *,
    n_edges: int = N_EDGES,
    bf16: bool = True,
    seed: int = 0,
) -> Verification:
    """Check a model, scores of its edges, and prompts.

    Args:
        model: The model that was scored; left unchanged.
        graph: The scores; where they say what cut edges read, single edges are cut to that.
        pairs: The prompts they were made with, or some of them.
        metric: The metric they were made with, or its name.
        n_edges: How many edges are patched exactly: half of them of the largest scores, half at random.
        bf16: Also score a copy of the model in bfloat16.
        seed: Of the random half.

    Raises:
        ValueError: The scores are not finite, or n_edges is not positive.
    """
    whole_number("n_edges", n_edges, 1)
    if not graph.scores.isfinite().all():
        raise ValueError("graph: expected finite scores, got NaN or infinity; score again with a metric that is finite")
    choice("intervention of the scores", graph.metadata.get("settings", {}).get("intervention", KNOWN[0]), KNOWN)
    if pairs.rows is not None:
        raise refusal(
            "pairs", "pairs read at one position", "pairs read at several", "verify with answers of one token"
        )
    try:
        metric = as_metric(metric, adapt(model, kv_destinations=graph.graph.kv_destinations), pairs)
    except ValueError as error:
        return Verification((Check("the model can be read", float("nan"), 0.0, reason=str(error)),))
    subject = Subject(model, graph, pairs, metric, n_edges, seed)
    checks = {
        "Logits are the model's own": _as_the_model,
        "With no edge cut, corrupted prompts do not matter": _none_cut,
        "With all edges cut, logits are the model's on the corrupted prompts": _all_cut,
        "Where clean and corrupted prompts are the same, every score is zero": _identical_pairs,
        "The scores of a source's out-edges add up to its node score": _sums_of_edges,
        "A batch gives what one prompt at a time gives": _padding,
        **_OF_PARTS,
    }
    if graph.metadata.get("signed", True):  # sizes are no estimates of effects
        checks["Scores agree with exact patching"] = _exact_sample
    if bf16 and subject.dtype is not torch.bfloat16:
        checks["In bfloat16 edges keep their ranks"] = _bf16
    return Verification(tuple(check for name, make in checks.items() for check in _made(name, make, subject)))


def _made(name: str, make: Callable[[Subject], Iterator[Check]], subject: Subject) -> list[Check]:
    """A check's results; refusals are failures."""
    try:
        return list(make(subject))
    except (ValueError, RuntimeError) as error:
        return [Check(name, float("nan"), 0.0, reason=str(error))]


@torch.no_grad()
def _as_the_model(subject: Subject) -> Iterator[Check]:
    """Logits are the model's own."""
    own = _own_logits(subject, subject.pairs.clean)
    difference = _difference(subject.full, own)
    yield Check("logits against the model's own, clean prompts", difference, LOGIT_ROUNDING[subject.dtype])


@torch.no_grad()
def _none_cut(subject: Subject) -> Iterator[Check]:
    """With no edge cut, corrupted prompts do not matter."""
    with warnings.catch_warnings(action="ignore"):  # that prompts may be the same is what is tried
        other = run(subject.model, Circuit.full(subject.graph.graph), subject.pairs.identical())
    yield Check("no edge cut: other corrupted prompts change", _difference(subject.full, other), subject.rounding)


@torch.no_grad()
def _all_cut(subject: Subject) -> Iterator[Check]:
    """With all edges cut, logits are the model's on the corrupted prompts."""
    found = run(subject.model, Circuit.empty(subject.graph.graph), subject.pairs)
    difference = _difference(found, _own_logits(subject, subject.pairs.corrupted))
    yield Check("all edges cut, against the model on corrupted prompts", difference, LOGIT_ROUNDING[subject.dtype])


def _identical_pairs(subject: Subject) -> Iterator[Check]:
    """Where clean and corrupted prompts are the same, every score is zero."""
    with warnings.catch_warnings(action="ignore"):  # that they are the same is what is tried
        scores = subject.score(subject.model, subject.pairs.identical())
    difference = (scores.abs().max() / subject.eap.abs().max()).item()
    yield Check("scores of identical pairs", difference, subject.rounding)


def _sums_of_edges(subject: Subject) -> Iterator[Check]:
    """The scores of a source's out-edges add up to its node score."""
    graph = subject.graph.graph
    by_source = subject.eap.double().sum(1)
    nodes = eap.score_nodes(subject.model, subject.pairs, subject.metric, "eap", quiet=True).per_prompt
    sums = {kind: value.double().nan_to_num().sum(-1).mean(0) for kind, value in nodes.items()}
    node_scores = [sums["resid_pre"][0][None]]
    for layer in range(graph.n_layers):
        node_scores += [sums["heads"][layer], *([sums["mlp_out"][layer][None]] if graph.mlps else [])]
    difference = _difference(by_source, torch.cat(node_scores))
    yield Check("sum of out-edges against the node score", difference, subject.rounding)


def _padding(subject: Subject) -> Iterator[Check]:
    """A batch gives what one prompt at a time gives."""
    together, alone = (
        subject.score(subject.model, subject.pairs, batch_size=size, intervention=subject.intervention)
        for size in (len(subject.pairs), 1)
    )
    yield Check("all prompts in a batch against one at a time", _difference(together, alone), subject.rounding)


def _judged(found: Iterator[edge_checks.Found], limit: float) -> Iterator[Check]:
    """Checks of what was compared; those that fail say what is suspected."""
    for name, value, suspected in found:
        yield Check(name, value, limit, reason="" if value <= limit else f"suspected: {suspected}")


_OF_PARTS: dict[str, Callable[[Subject], Iterator[Check]]] = {
    "Heads are the model's own, by their names": lambda at: _judged(
        value_checks.heads(at.model, at.pairs), at.rounding
    ),
    "Cut edges read what they are said to read": lambda at: _judged(
        value_checks.cut_to(at.model, at.pairs, at.intervention), at.rounding
    ),
    "EAP's scores are derivatives of run": lambda at: _judged(
        edge_checks.soft_gates(at.model, at.graph.graph, at.pairs, at.metric, at.intervention), WIDER * at.rounding
    ),
    "Exact patching is run without the edge": lambda at: _judged(
        edge_checks.without_an_edge(at.model, at.graph.graph, at.pairs, at.metric, _sample(at), at.intervention),
        WIDER * at.rounding,
    ),
    "The scores' own method gives them again": lambda at: _judged(
        edge_checks.again(at.model, at.graph, at.pairs, at.metric), WIDER * at.rounding
    ),
    "Relevance rules conserve relevance": lambda at: _judged(
        rule_checks.conserved(at.model, at.graph, at.pairs), at.rounding
    ),
    "Answers are read where the model gives them": lambda at: _judged(
        edge_checks.answers_where_they_are_given(at.model, at.graph.graph, at.pairs), LIKELIER_LATER
    ),
}
"""Checks that have files of their own."""


def _exact_sample(subject: Subject) -> Iterator[Check]:
    """Scores agree with exact patching."""
    chosen = _sample(subject)
    exact = subject.score(subject.model, subject.pairs, Exact(chosen), intervention=subject.intervention)
    measured = subject.graph.exact & chosen
    if measured.any() and edge_checks.is_of(subject.graph, subject.pairs):
        difference = value_checks.relative(subject.graph.scores[measured], exact[measured])
        found = "measured scores against exact patching again", difference, "scores of another model, metric or prompts"
        yield from _judged(iter([found]), WIDER * subject.rounding)
    exact = exact[chosen].double()
    scores = subject.graph.scores[chosen].double()
    told = exact.abs() > 0.01 * exact.abs().max()
    same = (scores.sign() == exact.sign())[told].double().mean().item() if told.any() else float("nan")
    by = "exact patching" + ("" if subject.intervention == "patching" else f" by {subject.intervention}")
    for name, value, limit in (
        (f"Pearson with {by}, {len(exact)} edges", pearson(scores, exact).item(), LEAST_PEARSON),
        (f"Spearman with {by}, {len(exact)} edges", spearman(scores, exact).item(), LEAST_SPEARMAN),
        (f"same sign as {by}, {int(told.sum())} edges", same, LEAST_SIGNS),
    ):
        yield Check(name, value, limit, at_most=False)


def _bf16(subject: Subject) -> Iterator[Check]:
    """In bfloat16 edges keep their ranks."""
    narrow = nn.Module.to(copied(subject.model), torch.bfloat16)  # a bridge's own reads all weights for each of them
    edges = subject.graph.graph.edge_mask
    wide, found = (scores[edges].double() for scores in (subject.eap, subject.score(narrow, subject.pairs)))
    kept = spearman(found, wide).item()
    yield Check("Spearman of scores in bfloat16 with those here", kept, LEAST_BF16, at_most=False)


def _own_logits(subject: Subject, tokens: Tensor) -> Tensor:
    """The model's own logits at the answer positions, those of one position together: no padding. [pair d_vocab]"""
    tokens, positions = tokens.to(next(subject.model.parameters()).device), subject.pairs.positions.to(tokens.device)
    ends = positions.unique().tolist()
    rows = [(positions == end).nonzero()[:, 0] for end in ends]
    found = [
        torch.cat([subject.model(tokens[some, : end + 1])[:, -1] for some in here.split(ROWS)])
        for here, end in zip(rows, ends)
    ]
    return torch.cat(found)[torch.cat(rows).argsort()]


def _sample(subject: Subject) -> Tensor:
    """A mask of the edges of the largest scores and as many others at random."""
    mask = subject.graph.graph.edge_mask
    places, scores = mask.nonzero(), subject.graph.scores[mask].abs()
    n = min(subject.n_edges, len(places))
    largest = scores.argsort(descending=True, stable=True)[: (n + 1) // 2]
    left = torch.ones(len(places), dtype=torch.bool).index_fill_(0, largest, False).nonzero()[:, 0]
    shuffled = left[torch.randperm(len(left), generator=torch.Generator().manual_seed(subject.seed))]
    chosen = places[torch.cat((largest, shuffled[: n // 2]))]
    sample = torch.zeros_like(mask)
    sample[chosen[:, 0], chosen[:, 1]] = True
    return sample


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, in units of the largest value expected (from its mean, for logits)."""
    found, expected = found.cpu().double(), expected.cpu().double()
    centre = expected.mean(-1, keepdim=True)
    return ((found - expected).abs().max() / (expected - centre).abs().max()).item()
