"""Agreement with exact patching: classes of edges, groups, nodes, and one run from end to end."""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from models import hugging_face, native, prompt_pairs, tiny
from toy import spoil

from edge_circuits import eap
from edge_circuits.benchmarks.agreement.edges import (
    ALL,
    RULES,
    Settings,
    compare,
    edge_classes,
    interpolated,
    method_names,
    named,
    telling_edges,
)
from edge_circuits.benchmarks.agreement.nodes import compare_nodes
from edge_circuits.benchmarks.agreement.study import main
from edge_circuits.benchmarks.group_scores import group_scores
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.eap import Exact
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.node_scores import score_nodes
from edge_circuits.graphs import Circuit, Graph, ScoredGraph, run
from edge_circuits.graphs.metrics import logit_difference

TWO = native(n_layers=2, n_heads=2, d_model=12, d_head=6, d_mlp=16, normalization_type="LN", act_fn="gelu").double()


def problem(model: torch.nn.Module = TWO, lengths: tuple[int, ...] = (5, 3, 4, 5)) -> Problem:
    return Problem("toy", "random", model, prompt_pairs(lengths), "random prompts", "logit_difference")


# Edges


@pytest.mark.parametrize(
    "graph", [Graph(3, 2), Graph(2, 4, 2), Graph(2, 3, mlps=False), Graph(2, 2, parallel=True)], ids=str
)
def test_classes_part_the_edges(graph: Graph) -> None:
    classes = edge_classes(graph)
    parts = [mask for name, mask in classes.items() if name != ALL]
    assert torch.equal(sum(mask.long() for mask in parts), graph.edge_mask.long())
    assert torch.equal(classes[ALL], graph.edge_mask)
    assert ("mlp" in classes) == graph.mlps
    for name, ending in (("q", "<q>"), ("k", "<k>"), ("v", "<v>"), ("logits", "logits")):
        names = graph.edge_names(classes[name])
        assert names and all(edge.endswith(ending) and not edge.startswith("input") for edge in names)
    assert all(edge.startswith("input->") for edge in graph.edge_names(classes["input"]))


def test_groups_add_up_to_all_prompts(tmp_path: Path) -> None:
    one = problem()
    for method in ("eap", "hisp", "relp+ah", "random"):
        scored = group_scores(one, named(method), one.metric, tmp_path, n_groups=3)
        whole = eap.score(one.model, one.pairs, one.metric, RULES.get(method, method), quiet=True).scores
        torch.testing.assert_close(scored.scores, whole, rtol=0, atol=1e-12)
        n_groups = None if method == "hisp" else 3
        assert n_groups == (None if scored.per_group is None else len(scored.per_group))


def test_scores_are_read_again(tmp_path: Path) -> None:
    one = problem()
    first = group_scores(one, named("eap"), one.metric, tmp_path, n_groups=2)
    assert spoil(tmp_path) == 2
    again = group_scores(one, named("eap"), one.metric, tmp_path, n_groups=2)
    assert torch.equal(again.per_group, -first.per_group)


def test_questions_have_folders_of_their_own(tmp_path: Path) -> None:
    """So none is told of another's scores."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for lengths in ((5, 3, 4, 5), (4, 4, 2, 6)):
            for method in ("eap", "eap:reader=norm", "random"):
                group_scores(problem(lengths=lengths), find(method), logit_difference, tmp_path, n_groups=3)
    assert len(list(tmp_path.rglob("*.npz"))) == 2 * (3 + 3 + 1)


def test_exact_agrees_with_itself_and_its_opposite_does_not(tmp_path: Path) -> None:
    one, settings = problem(), Settings(n_groups=2, n_resamples=20)
    exact = group_scores(one, Exact(), one.metric, tmp_path, n_groups=2)
    opposite = ScoredGraph(one.graph, -2 * exact.scores, {}, -2 * exact.per_group)
    for found in compare("eap", exact, exact, settings).classes.values():
        values = (found.pearson.value, found.spearman.low, found.slope)
        assert values == pytest.approx((1, 1, 1))
    whole = compare("eap", opposite, exact, settings).classes[ALL]
    assert (whole.pearson.value, whole.slope, whole.intercept) == pytest.approx((-1, -2, 0))
    by_size = compare("hisp", opposite, exact, settings)
    assert by_size.by_size and by_size.classes[ALL].slope == pytest.approx(2)
    at_once = compare("eap", ScoredGraph(one.graph, exact.scores), exact, settings).classes[ALL]
    assert at_once.pearson.value == pytest.approx(1) and at_once.pearson.low is None


def test_interpolation_goes_from_clean_to_the_exact_score(tmp_path: Path) -> None:
    one, edge = problem(), "a0.h1->a1.h0<v>"
    curve = interpolated(one, edge, [0, 1e-4, 1])
    full = Circuit.full(one.graph)
    ends = [
        one.metric(run(one.model, c, one.pairs), one.pairs).mean().item()
        for c in (full, full - Circuit.from_edges(one.graph, [edge]))
    ]
    assert [curve[0].item(), curve[2].item()] == pytest.approx(ends, abs=1e-11)
    slope = eap.score(one.model, one.pairs, one.metric, "eap", quiet=True).score(edge)
    assert (curve[1] - curve[0]).item() / 1e-4 == pytest.approx(slope, rel=1e-2)


def test_interpolation_refuses_an_unknown_edge() -> None:
    with pytest.raises(ValueError, match="a9.h0"):
        interpolated(problem(), "a9.h0->logits", [0.0])


def test_telling_edges_are_the_extremes() -> None:
    graph = Graph(1, 1, mlps=False)
    exact, estimate = (torch.zeros(2, 4).double() for _ in range(2))
    exact[0, 0], exact[1, 3], estimate[0, 2] = 2, -3, 9
    telling = telling_edges(ScoredGraph(graph, exact), ScoredGraph(graph, estimate))
    assert telling == ["input->a0.h0<q>", "a0.h0->logits", "input->a0.h0<v>"]


def test_every_set_of_rules_has_a_method() -> None:
    at = method_names().index("relp")
    assert (
        method_names()[at + 1 : at + 1 + len(RULES)] == tuple(RULES)
        and set(RULES) < set(method_names())
        and "exact" not in method_names()
    )


# Nodes


def exact_nodes(one: Problem, direction: str) -> Mapping[str, torch.Tensor]:
    return score_nodes(one.model, one.pairs, one.metric, "exact", direction, heads=True, quiet=True).per_prompt


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "attention-only", "gemma2"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_exact_nodes_have_the_shapes_of_node_scores(kind: str, direction: str) -> None:
    one = problem(tiny(kind).model, (4, 2))
    exact, scored = (
        exact_nodes(one, direction),
        score_nodes(one.model, one.pairs, one.metric, "eap", direction, quiet=True),
    )
    assert set(exact) == set(scored.kinds)
    for name, found in exact.items():
        assert found.shape == scored.per_prompt[name].shape
        assert torch.equal(found.isnan(), scored.per_prompt[name].isnan())


def test_exact_nodes_are_what_small_changes_say() -> None:
    """With a corrupted prompt that differs in nothing but its embedding, a little, node scores are exact to first order."""
    model = native(
        n_layers=2, n_heads=2, d_model=12, d_head=6, d_mlp=16, normalization_type="LN", act_fn="gelu", seed=0
    ).double()
    with torch.no_grad():
        (embedding,) = [
            value for name, value in model.original_model.named_parameters() if name.startswith("tok_embed")
        ]
        embedding[20:] = embedding[:20] + 1e-5 * torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    pairs = prompt_pairs([5, 3, 4])
    clean = (pairs.clean % 20).tolist()
    near = type(pairs)(clean, [[token + 20 for token in row] for row in clean], pairs.answers, pairs.wrong_answers)
    for direction in ("noising", "denoising"):
        one = Problem("toy", "near", model, near, "near", "logit_difference")
        exact, scored = exact_nodes(one, direction), score_nodes(model, near, one.metric, "eap", direction, quiet=True)
        for kind in scored.kinds:
            expected = scored.per_prompt[kind].nan_to_num()
            assert (exact[kind].nan_to_num() - expected).abs().max() < 1e-3 * expected.abs().max(), (kind, direction)


def test_patching_the_whole_first_stream_of_a_prompt_of_one_token_is_the_other_prompt() -> None:
    one = problem(lengths=(1, 1))
    outputs = [
        one.metric(run(one.model, c, one.pairs), one.pairs) for c in (Circuit.full(one.graph), Circuit.empty(one.graph))
    ]
    for direction in ("noising", "denoising"):
        found = exact_nodes(one, direction)
        for kind, layer in (("resid_pre", 0), ("resid_pre", 1), ("resid_mid", 1), ("resid_post", 1)):
            torch.testing.assert_close(found[kind][:, layer, 0], outputs[1] - outputs[0], rtol=0, atol=1e-11)


def test_node_patches_are_edge_cuts_of_prompts_of_one_token() -> None:
    one = problem(lengths=(1, 1, 1))
    full, exact = Circuit.full(one.graph), exact_nodes(one, "noising")
    clean = one.metric(run(one.model, full, one.pairs), one.pairs)
    for node, kind, where in (
        ("a0.h1", "heads", (0, 1)),
        ("a1.h0", "heads", (1, 0)),
        ("m0", "mlp_out", (0,)),
        ("m1", "mlp_out", (1,)),
    ):
        out = Circuit.from_edges(one.graph, [edge for edge in one.graph.edges if edge.startswith(f"{node}->")])
        effect = one.metric(run(one.model, full - out, one.pairs), one.pairs) - clean
        torch.testing.assert_close(exact[kind][:, *where, 0], effect, rtol=0, atol=1e-11)


def test_node_agreement_covers_every_kind() -> None:
    exact, found = compare_nodes(problem(), "noising", Settings(n_resamples=10))
    assert [one.method for one in found] == ["eap", "relp"]
    assert all(set(one.per_kind) == set(exact) == set(one.means) for one in found)
    assert found[0].per_kind["heads"].n == 2 * 2 * 5 and found[0].per_kind["resid_pre"].n == 2 * 5


@pytest.fixture(scope="module")
def sorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny GPT-2 of three tokens and eleven positions, without a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "sorter"
    hugging_face("gpt2", n_layer=1, n_head=2, n_embd=8, n_positions=11, vocab_size=3).save_pretrained(folder)
    return folder


# From end to end


def test_a_run_prints_and_writes_everything(sorter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["eap", "relp", "hisp", "random"]
    out = tmp_path / "out"
    words = [
        "--model",
        str(sorter),
        "--methods",
        *methods,
        "--n-prompts",
        "3",
        "--resamples",
        "20",
        "--out",
        str(out),
        "--quiet",
    ]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "sorter sort:" in told.out and "Spearman" in told.out and "denoising" in told.out and told.err == ""
    assert (out / "agreement.txt").read_text() == told.out

    content = json.loads((out / "agreement.json").read_text())
    assert content["settings"]["n_prompts"] == 3 and content["settings"]["seed"] == 0 and "torch" in content["versions"]
    edges = [row for row in content["rows"] if row["what"] == "edges"]
    assert {row["method"] for row in edges} == set(methods)
    assert sum(row["n"] for row in edges if row["method"] == "eap" and row["kind"] != ALL) == Graph(1, 2).n_edges
    assert {row["direction"] for row in content["rows"] if row["what"] == "nodes"} == {"noising", "denoising"}
    with open(out / "agreement.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(content["rows"])
    pictures = {path.name.removesuffix("-sorter-sort.png") for path in out.glob("*.png")}
    assert pictures == {f"agreement-{name}" for name in ("scatter", "interpolation", "nodes", "noising", "denoising")}


def test_methods_that_cannot_be_asked_are_told(sorter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--model",
        str(sorter),
        "--methods",
        "eap",
        "random",
        "--metric",
        "accuracy",
        "--n-prompts",
        "3",
        "--resamples",
        "9",
        "--quiet",
    ]
    assert main(words) == 0
    assert "without eap: this metric's gradient on the clean prompt is zero" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "exact"], "method: expected one of eap, .*got 'exact'; all are held against exact"),
        (["--groups", "1"], "--groups: expected a whole number from 2, got 1"),
        (["--edges", "a0.h0->a0.h1<q>"], "a0.h0"),
        (["--text", "missing.txt", "--tasks", "text"], "without one; it can do 'sort'"),
    ],
)
def test_bad_arguments_end_with_a_message(
    sorter: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(sorter), "--n-prompts", "2", "--quiet", *words]) == 2
    assert re.search(f"edge_circuits.benchmarks.agreement: .*{message}", capsys.readouterr().err)
