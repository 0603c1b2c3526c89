"""Circuits of features for subject-verb agreement: `python -m edge_circuits.benchmarks.features`.

    python -m edge_circuits.benchmarks.features                                      # the grammar model, made by the project
    python -m edge_circuits.benchmarks.features --out results                        # with tables and pictures
    python -m edge_circuits.benchmarks.features --model EleutherAI/pythia-70m-deduped --dictionaries DIRECTORY --from-layer 2

1. Each method scores the nodes of each structure on training prompts: features and errors of dictionaries at every position,
   and beside them heads and neurons.
2. Its best nodes are kept, all others become their mean at the position over the corrupted held-out prompts; what lies below
   `--from-layer` is left alone. Faithfulness and completeness over the number of nodes, for each structure and on average.
3. With the grammar model it is known which features tell the number of the noun that counts, and every node of a few prompts
   can be cut alone: so the ranks are compared with both, and edges between the best nodes with exact ones.

The second is figure 3 of Marks et al. 2024 and of Jafari et al. 2025, who compare RelP with integrated gradients of ten steps;
with a hub the third command follows them, given the dictionaries of Marks et al. (DIRECTORY holds folders such as
`mlp_out_layer3/10_32768/ae.pt`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from edge_circuits.benchmarks.features import report
from edge_circuits.benchmarks.features.known import known_area, telling
from edge_circuits.benchmarks.features.prompts import ENGLISH, STRUCTURES, Lexicon, agreement
from edge_circuits.benchmarks.features.train import MODEL, SHIPPED
from edge_circuits.benchmarks.problems.opening import open_with_tokenizer
from edge_circuits.benchmarks.study import Study, draws, tell
from edge_circuits.benchmarks.trained import grammar, load
from edge_circuits.eap.feature_edges import score_feature_edges
from edge_circuits.eap.feature_scores import score_features
from edge_circuits.eap.methods.lookup import find
from edge_circuits.graphs.checks import whole_number
from edge_circuits.graphs.features.dictionary import AnyDictionary, heads, neurons
from edge_circuits.graphs.features.measuring import FeatureCurve, feature_curves
from edge_circuits.graphs.features.nodes import FeatureNodes
from edge_circuits.graphs.features.reading import read_dictionaries
from edge_circuits.graphs.prompts.pairs import PromptPairs

METRIC = "logit_difference"
METHODS = ("relp", "eap-ig:steps=10", "eap")
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
N_TRAIN, N_TEST, N_EXACT, N_EDGES = 100, 40, 8, 20
GRAMMAR = Lexicon(
    determiners=("the", "the"),
    relative="who",
    nouns=tuple(noun.forms for noun in grammar.NOUNS),
    prepositions=grammar.PREPOSITIONS,
    verbs=(*grammar.ALONE, grammar.BE),
    with_object=grammar.WITH_OBJECT,
)


class Subject(NamedTuple):
    """A model that is asked, and what its nodes are: dictionaries by the name of the granularity."""

    name: str
    model: nn.Module
    tokenizer: Any
    words: Lexicon
    nodes: dict[str, list[AnyDictionary]]


@dataclass(frozen=True, eq=False)
class Result:
    """One method on one structure.

    Attributes:
        curve: on held-out prompts.
        seconds: of the processor, for the training prompts.
        figures: beyond the curve, by name.
    """

    structure: str
    granularity: str
    method: str
    scores: FeatureNodes
    curve: FeatureCurve
    seconds: float
    figures: dict[str, float]
    asked_sizes: tuple[int, ...] = SIZES

    @property
    def passes(self) -> int:
        """Backward passes for each batch."""
        return self.scores.metadata["backward_passes"]


def subject(
    model: str, folder: Path | None, from_layer: int, device: str | None = None, quiet: bool = False
) -> Subject:
    """The grammar model with the shipped dictionaries, or another with those of a folder.

    Raises:
        ValueError: there is no such model, or no dictionary from that layer on.
    """
    if model == MODEL:
        trained = load(MODEL)
        opened = (trained.model, trained.language.tokenizer, GRAMMAR)
    else:
        opened = (*open_with_tokenizer(model, device, quiet=quiet)[:2], ENGLISH)
    nodes = {"features": read_dictionaries(folder or SHIPPED)} if folder or model == MODEL else {}
    nodes["heads and neurons"] = [*heads(opened[0]), *neurons(opened[0])]
    from_layer = whole_number("--from-layer", from_layer)
    kept = {name: [d for d in each if (d.site.layer or 0) >= from_layer] for name, each in nodes.items()}
    return Subject(model, *opened, kept)


def results(asked: Subject, methods: Sequence[str], given: argparse.Namespace, bar: tqdm) -> Iterator[Result]:
    """Every method on every structure and granularity."""
    for structure in given.structures:
        draw = lambda n, split, seed: agreement(structure, n, asked.tokenizer, asked.words, seed=seed, split=split)
        train, test = draw(given.n_prompts or N_TRAIN, "train", given.seed), draw(N_TEST, "test", given.seed)
        for granularity, dictionaries in asked.nodes.items():
            of, scored, seconds = (asked.model, dictionaries), {}, {}
            for method in methods:
                bar.set_description(f"{structure}, {granularity}, {method}")
                start = time.process_time()
                scored[method] = score_features(*of, train.pairs, METRIC, method, quiet=True)
                seconds[method] = time.process_time() - start
            shape = dict(intervention=given.intervention, errors=given.errors)
            curves = feature_curves(*of, scored, test.pairs, METRIC, SIZES, **shape)
            known = {}
            if asked.name == MODEL:
                tells = telling(*of, draw(400, "all", given.seed + 1))
                known = against_known(*of, scored, train.pairs[:N_EXACT], tells)
            for method, scores in scored.items():
                figures = known.get(method, {})
                yield Result(structure, granularity, method, scores, curves[method], seconds[method], figures)
                bar.update()


def against_known(
    model: nn.Module,
    dictionaries: Sequence[AnyDictionary],
    scored: dict[str, FeatureNodes],
    few: PromptPairs,
    tells: Sequence[torch.Tensor],
) -> dict[str, dict[str, float]]:
    """Areas for known features, and correlation with exact patching, of nodes and of edges between the best nodes."""
    exact = score_features(model, dictionaries, few, METRIC, "exact", quiet=True)
    best = exact.top(N_EDGES)
    exact_edges = score_feature_edges(model, dictionaries, best, few, METRIC, "exact")
    found = {}
    for method, scores in scored.items():
        area, n_known, n_others = known_area(scores, tells)
        of_few = score_features(model, dictionaries, few, METRIC, method, quiet=True)
        found[method] = {"roc": area, "known": n_known, "others": n_others, "exact_r": _correlation(of_few, exact)}
        edges = score_feature_edges(model, dictionaries, best, few, METRIC, method)
        found[method]["edges_r"] = _correlation(edges, exact_edges)
    return found


def _correlation(found: Any, expected: Any) -> float:
    """Pearson's r over all nodes or edges that either names."""
    one, other = (dict(zip(each.names, each.scores.tolist())) for each in (found, expected))
    names = sorted(one.keys() | other.keys())
    return torch.corrcoef(torch.tensor([[each.get(name, 0.0) for name in names] for each in (one, other)]))[0, 1].item()


def _add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default=MODEL, help=f"{MODEL} (the default), a hub name or a directory")
    add("--dictionaries", type=Path, help="folder of dictionaries; by default those shipped, of the grammar model")
    add("--methods", "--method", nargs="+", default=list(METHODS), help=f"by default {', '.join(METHODS)}")
    add("--structures", nargs="+", default=list(STRUCTURES), choices=STRUCTURES, help="by default all four")
    add("--from-layer", type=int, default=0, help="nodes below are left alone (0; Marks et al.: 2 for Pythia-70M)")
    add("--errors", default="nodes", choices=("nodes", "kept", "cut"), help="of dictionaries, in circuits (nodes)")


def _work(given: argparse.Namespace) -> None:
    methods = [find(method).label for method in given.methods]
    asked = subject(given.model, given.dictionaries, given.from_layer, given.device, given.quiet)
    total = len(given.structures) * len(asked.nodes) * len(methods)
    with tqdm(total=total, unit="method", disable=given.quiet, leave=False) as bar:
        found = list(results(asked, methods, given, bar))
    tell(given, "features", report.text(found), report.rows(found))
    if draws(given):
        from edge_circuits.benchmarks.features.plots import plot_curves

        plot_curves(found, given.out / f"features.{given.format}")


STUDY = Study(
    "features",
    "Which scores find the features and neurons behind subject-verb agreement.",
    ("n-prompts", "seed", "device", "intervention", "out", "format", "quiet"),
    _add,
    _work,
    {"intervention": "mean-positional"},
)
main, parser = STUDY.main, STUDY.parser
