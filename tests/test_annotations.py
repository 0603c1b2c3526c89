"""Annotations are true: every public function is called once in a process that checks them, shapes included.

`--typecheck` checks them in all tests, which takes much longer.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jaxtyping
import pytest

METHODS = {
    "CleanCorrupted",
    "EAP",
    "Exact",
    "HeadImportance",
    "InformationFlow",
    "IntegratedGradients",
    "LearnedMask",
    "Method",
}
METHODS |= {"Blend", "Random", "RelP", "TopKMask"}
PACKAGES = [f"edge_circuits.{part}" for part in ("graphs", "eap", "acdc", "benchmarks")]
TESTS = Path(__file__).parent

import edge_circuits as ec  # noqa: E402  (light: what it names is imported on first use)


@cache
def question() -> tuple[Any, ...]:
    """A model with grouped-query attention, prompts of unequal length, and a metric."""
    from models import bridged, hugging_face, logit_difference, prompt_pairs

    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=4)
    return bridged(hugging_face("llama", **sizes)), prompt_pairs([4, 3], positions=[-1, -2]), logit_difference


@cache
def scores() -> Any:
    return ec.score(*question(), "eap", quiet=True)


def circuit() -> Any:
    return ec.prune(scores(), k=40)


def every_method() -> list[Any]:
    methods = [
        *(
            ec.Blend(),
            ec.CleanCorrupted(),
            ec.EAP(),
            ec.Exact(),
            ec.HeadImportance(),
            ec.InformationFlow(),
            ec.LearnedMask(steps=2),
            ec.TopKMask(steps=2),
        ),
        *(ec.IntegratedGradients(steps=2, at=at) for at in ("inputs", "activations")),
        *(ec.RelP(), ec.RelP(attention="secant"), ec.RelP(reader="norm"), ec.RelP(reader="softmax"), ec.Random()),
    ]
    assert {type(method).__name__ for method in methods} == METHODS - {"Method"}
    return [ec.score(*question(), method, quiet=True) for method in methods]


def every_intervention() -> list[Any]:
    words = "zero", "mean", "mean-positional", "zero-tokens", "mean-tokens"
    return [ec.run(question()[0], circuit(), question()[1], how) for how in (*words, means())]


@cache
def means() -> Any:
    model, pairs, metric = question()
    made = ec.MeanPositional(pairs.clean.tolist()).of(model)
    ec.score(model, pairs, metric, "eap", intervention=made, quiet=True)
    with TemporaryDirectory() as folder:
        made.save(Path(folder) / "means.safetensors")
        return ec.Mean.load(Path(folder) / "means.safetensors")


def opened() -> Any:
    sys.path.append(str(TESTS / "benchmarks"))
    from real_directory import save_real_directory

    with TemporaryDirectory() as folder:
        return ec.open_model(str(save_real_directory(Path(folder))), quiet=True)


def rendered() -> Any:
    with TemporaryDirectory() as folder:
        return ec.render(circuit(), Path(folder) / "circuit.gv")


@cache
def features() -> tuple[Any, ...]:
    """Dictionaries read from a folder, scores of features, neurons and heads, and edges between the best of them."""
    from edge_circuits.benchmarks.features.train import SHIPPED

    model, dictionaries = question()[0], [*ec.neurons(question()[0]), *ec.heads(question()[0])]
    found = ec.score_features(model, dictionaries, *question()[1:], quiet=True)
    edges = ec.score_feature_edges(model, dictionaries, found.top(6), *question()[1:])
    read = ec.read_dictionaries(SHIPPED)
    assert all(isinstance(each, ec.Dictionary) for each in read)
    return dictionaries, found, edges, read


class Letters:
    """Token 7 is "t7"."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"t{token}" for token in ids]


def features_labelled() -> list[str]:
    dictionaries, nodes, *_ = features()
    return ec.token_labels(question()[0], dictionaries, nodes.top(3), question()[1], Letters())


def experts_scored() -> Any:
    from hub_models import hub_model
    from models import RAGGED, logit_difference

    model = hub_model("mixtral")
    return ec.score_features(model, ec.experts(model), RAGGED, logit_difference, quiet=True)


def features_rendered() -> Any:
    with TemporaryDirectory() as folder:
        return ec.render_features(features()[2], Path(folder) / "features.svg")


def features_on_a_page() -> Any:
    with TemporaryDirectory() as folder:
        return ec.write_feature_page(Path(folder) / "features.html", features()[2])


def by_span() -> list[Any]:
    model, _, metric = question()
    ids = [[1, 2, 3], [4, 5]], [[1, 6, 3], [4, 7]]
    pairs = ec.PromptPairs(*ids, [[2, 3], [2, 3]], [1, 1], spans={"end": [-1, -1]})
    scored = ec.score(model, pairs, metric, "eap", by="span", quiet=True)
    kept = ec.prune_spans(scored, 30)
    return [
        scored.top(3),
        kept.edges,
        kept.anywhere,
        ec.run(model, kept, pairs),
        ec.crossing(model, pairs, metric).top(2),
        ec.position_map(model, pairs, metric, quiet=True).table(),
        ec.discover_spans(model, pairs, metric, 0.5, quiet=True).circuit.edges,
        ec.why_attends(model, pairs, "a1.h0", "end", 0).table(),
    ]


def page() -> Any:
    with TemporaryDirectory() as folder:
        return ec.write_page(Path(folder) / "page.html", circuit()) or True


def several_positions() -> Any:
    model = question()[0]
    pairs = ec.PromptPairs([[1, 2], [3, 4]], [[1, 3], [2, 2]], [[2, 5], 6], [[2, 7], 8], several_tokens=True)
    named = ec.PromptPairs([[1, 2]], [[1, 3]], positions={"end": -1, "start": 0})
    ec.score(model, named, lambda logits, some: logits[:, 0, 1] * logits[:, 1, 2], "eap", quiet=True)
    ec.score(model, pairs, "log_probability", "relp", quiet=True)
    return ec.measure(model, circuit(), pairs, "logit_difference"), ec.discover(model, pairs, "kl", 0.5, quiet=True)


def as_models() -> Any:
    model, pairs, _ = question()
    made = ec.as_model(model, circuit(), pairs, "mean-positional")
    tokens = pairs.clean[:, :2]
    ec.as_model(model, circuit(), None, "patching")(input_ids=tokens, attention_mask=tokens > -1, corrupted=tokens)
    return made(tokens[0]), made.generate(tokens, 2, do_sample=True)


CALLS: dict[str, Callable[[], Any]] = {
    "as_model": as_models,
    "Attending": by_span,
    "Crossing": by_span,
    "PositionMap": by_span,
    "SpanCircuit": by_span,
    "SpanScores": by_span,
    "SpanSweep": by_span,
    "discover_spans": by_span,
    "crossing": by_span,
    "curves": lambda: ec.curves(*question()[:1], {"eap": scores()}, *question()[1:])["eap"].area("cmd"),
    "position_map": by_span,
    "mean_scores": lambda: ec.mean_scores([scores(), scores()]),
    "prune_spans": by_span,
    "why_attends": by_span,
    "write_feature_page": features_on_a_page,
    "write_page": page,
    "Circuit": lambda: circuit() & ec.Circuit.full(circuit().graph),
    "Dictionary": lambda: features()[3][0],
    "Mean": lambda: ec.Mean(question()[1], keep_positions=True).of(question()[0]),
    "MeanPositional": means,
    "Graph": lambda: ec.Graph.from_model(question()[0]),
    "PromptPairs": several_positions,
    "ScoredGraph": lambda: ec.ScoredGraph(scores().graph, scores().scores).top(3),
    "discover": lambda: ec.discover(*question(), 0.5, direct_edges=True, quiet=True).trace.circuit,
    "discover_nodes": lambda: ec.discover_nodes(*question(), 0.5, quiet=True),
    "patch_nodes": lambda: ec.patch_nodes(*question()).top(2),
    "prune_nodes": lambda: [ec.prune_nodes(each, 2) for each in (scores(), ec.score_nodes(*question(), quiet=True))],
    "error_bars": lambda: ec.error_bars(ec.score_groups(*question(), "eap", n_groups=2, quiet=True)),
    "experts": lambda: experts_scored(),
    "feature_curves": lambda: ec.feature_curves(
        question()[0], features()[0], {"relp": features()[1]}, *question()[1:], (0, 5), "patching"
    ),
    "heads": lambda: features(),
    "measure": lambda: ec.measure(question()[0], circuit(), *question()[1:]),
    "neurons": lambda: features(),
    "open_model": opened,
    "prune": lambda: [ec.prune(scores(), threshold=0.1, strategy="greedy"), circuit()],
    "read_dictionaries": lambda: features(),
    "refine": lambda: ec.refine(question()[0], circuit(), question()[1], "kl", 0.1, quiet=True),
    "render": rendered,
    "render_features": features_rendered,
    "run": every_intervention,
    "run_features": lambda: ec.run_features(question()[0], features()[0], features()[1].top(3), question()[1]),
    "score": every_method,
    "score_feature_edges": lambda: features(),
    "score_features": lambda: features(),
    "score_groups": lambda: ec.score_groups(*question(), "relp", n_groups=2, quiet=True),
    "score_nodes": lambda: ec.score_nodes(*question(), quiet=True),
    "sweep": lambda: ec.sweep(question()[0], question()[1], "kl", [0.2, 0.5], circuit=circuit(), quiet=True),
    "token_labels": features_labelled,
    "verify": lambda: ec.verify(question()[0], scores(), *question()[1:], n_edges=2),
}


@pytest.mark.slow
def test_annotations_are_true() -> None:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(done.stdout.split()) == set(ec.__all__) - METHODS


def main() -> None:
    """Make all calls with annotations checked; print what was called."""
    jaxtyping.install_import_hook(PACKAGES, "beartype.beartype")
    for name, call in CALLS.items():
        assert call() is not None
        print(name)


if __name__ == "__main__":
    main()
