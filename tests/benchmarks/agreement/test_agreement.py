"""Agreement with exact patching: correlations by hand, classes, the bootstrap, prompts, and one run from end to end."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from models import hugging_face, native, prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.benchmarks.agreement import study as agreement
from edge_circuits.benchmarks.agreement.edges import (
    ALL,
    RULES,
    Scores,
    Settings,
    compare,
    edge_classes,
    interpolated,
    method_names,
    score_groups,
    telling_edges,
)
from edge_circuits.benchmarks.agreement.nodes import compare_nodes, exact_nodes
from edge_circuits.benchmarks.output.cache import SavedParts
from edge_circuits.benchmarks.problems.any_model import Subject, sort_pairs, subjects, text_pairs, written_texts
from edge_circuits.eap.node_scores import score_nodes
from edge_circuits.graphs import Circuit, Graph, run
from edge_circuits.graphs.correlation import agreement as measured
from edge_circuits.graphs.correlation import draws, pearson, ranks, spearman
from edge_circuits.graphs.model.adapter import adapt

TWO = native(n_layers=2, n_heads=2, d_model=12, d_head=6, d_mlp=16, normalization_type="LN", act_fn="gelu").double()


def subject(
    model: torch.nn.Module = TWO, lengths: tuple[int, ...] = (5, 3, 4, 5), metric: str = "logit_difference"
) -> Subject:
    return Subject("toy", "random", model, prompt_pairs(lengths), "random prompts", metric)


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Correlations


def test_pearson_by_hand() -> None:
    """Deviations (-1, 0, 1) and (-2, 1, 1): 3 / sqrt(2 * 6)."""
    assert pearson(torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 3, 3])).item() == pytest.approx(3 / 12**0.5)


def test_pearson_agrees_with_torch() -> None:
    x, y = values(4, 30), values(4, 30, seed=1)
    expected = [torch.corrcoef(torch.stack((a, b)))[0, 1].item() for a, b in zip(x, y)]
    assert pearson(x, y).tolist() == pytest.approx(expected, abs=1e-12)


def test_pearson_of_tiny_values_is_not_lost() -> None:
    x, y = values(30), values(30, seed=1)
    assert pearson(x * 1e-200, y).item() == pytest.approx(pearson(x, y).item())


def test_ranks_share_ties() -> None:
    assert ranks(torch.tensor([[3.0, 1, 3, 0], [2, 2, 2, 2]])).tolist() == [[2.5, 1, 2.5, 0], [1.5] * 4]


def test_spearman_by_hand() -> None:
    """Ranks (0, 1, 2, 3) and (0, 2, 1, 3): 1 - 6 * 2 / (4 * 15)."""
    assert spearman(torch.tensor([1.0, 2, 3, 4]), torch.tensor([-9.0, 5, 0, 1000])).item() == pytest.approx(0.8)


def test_spearman_with_ties_is_pearson_of_counted_ranks() -> None:
    x, y = values(40).round(), values(40, seed=1).round()
    by_counting = [torch.stack([(v < each).sum() + ((v == each).sum() - 1) / 2 for each in v]) for v in (x, y)]
    assert spearman(x, y).item() == pytest.approx(torch.corrcoef(torch.stack(by_counting))[0, 1].item())


def test_a_constant_side_has_no_correlation() -> None:
    assert pearson(torch.full((5,), 0.1), values(5).float()).isnan()
    found = measured(torch.zeros(3, 6), values(3, 6))
    assert found.pearson.value is None and found.spearman.low is None and found.r_squared is None and found.slope == 0


def test_slope_and_r_squared_are_of_least_squares() -> None:
    exact = values(1, 50)
    estimates = 3 + 0.5 * exact + 0.3 * values(1, 50, seed=1)
    design = torch.stack((torch.ones(50).double(), exact[0]), dim=1)
    line = torch.linalg.lstsq(design, estimates[0]).solution
    found = measured(estimates, exact)
    residual = (estimates[0] - design @ line).square().sum() / (estimates[0] - estimates[0].mean()).square().sum()
    assert (found.intercept, found.slope) == pytest.approx(tuple(line.tolist()))
    assert found.r_squared == pytest.approx(1 - residual.item())


def test_sizes_are_taken_after_groups_are_added_up() -> None:
    exact = torch.tensor([[1.0, 4, -2], [-3, 1, 0]]).double()  # sums -2, 5, -2
    assert measured(exact.abs(), exact, by_size=True).pearson.value == pytest.approx(
        pearson(torch.tensor([4.0, 5, 2]), torch.tensor([2.0, 5, 2])).item()
    )


def test_bootstrap_is_seeded_and_draws_whole_groups() -> None:
    drawn = draws(5, 100, seed=3)
    assert torch.equal(drawn, draws(5, 100, seed=3)) and not torch.equal(drawn, draws(5, 100, seed=4))
    assert (drawn.sum(1) == 5).all() and drawn.max() > 1
    sides = values(6, 20), values(6, 20, seed=1)
    assert measured(*sides, seed=1) == measured(*sides, seed=1) != measured(*sides, seed=2)


def test_interval_is_of_the_drawn_samples() -> None:
    estimates, exact = values(4, 15), values(4, 15, seed=1)
    samples = [pearson(weights @ estimates, weights @ exact).item() for weights in draws(4, 200, 0).double()]
    expected = torch.tensor(samples).double().quantile(torch.tensor([0.05, 0.95]).double()).tolist()
    found = measured(estimates, exact, n_resamples=200, confidence=0.9).pearson
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.value == pytest.approx(pearson(estimates.sum(0), exact.sum(0)).item())


def test_one_group_has_no_interval() -> None:
    found = measured(values(1, 9), values(1, 9, seed=1)).pearson
    assert found.value is not None and found.low is None and found.high is None


@pytest.mark.parametrize(
    ("sides", "settings", "message"),
    [
        ((values(2, 3), values(2, 4)), {}, r"two of \[group value\] .*came \(2, 3\) and \(2, 4\)"),
        ((values(2, 0), values(2, 0)), {}, "at least one value"),
        ((values(2, 3), values(2, 3)), {"n_resamples": 1}, "n_resamples: expected 2 or more, came 1"),
        ((values(2, 3), values(2, 3)), {"confidence": 1.0}, "confidence: expected a number between 0 and 1, came 1.0"),
    ],
)
def test_bad_correlations_are_refused(sides: tuple, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured(*sides, **settings)


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
    one, parts = subject(), SavedParts(tmp_path)
    for method in ("eap", "hisp", "relp+ah"):
        scores = score_groups(one, method, parts, Settings(n_groups=3))
        whole = eap.score(one.model, one.pairs, one.metric, RULES.get(method, method), quiet=True).scores
        torch.testing.assert_close(scores.mean, whole, rtol=0, atol=1e-12)
        assert len(scores.per_group) == (1 if method == "hisp" else 3)


def test_scores_are_read_again(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        parts = SavedParts(tmp_path)
        runs.append((score_groups(subject(), "eap", parts, Settings(n_groups=2)), parts.n_computed, parts.n_reused))
    assert [counts for _, *counts in runs] == [[2, 0], [0, 2]]
    assert torch.equal(runs[0][0].mean, runs[1][0].mean)


def test_exact_agrees_with_itself_and_its_opposite_does_not(tmp_path: Path) -> None:
    one, settings = subject(), Settings(n_groups=2, n_resamples=20)
    exact = score_groups(one, "exact", SavedParts(tmp_path), settings)
    opposite = Scores("eap", -2 * exact.per_group, -2 * exact.mean, 0.0)
    for found in compare(one, exact, exact, settings).classes.values():
        assert (
            found.pearson.value == pytest.approx(1)
            and found.spearman.low == pytest.approx(1)
            and found.slope == pytest.approx(1)
        )
    whole = compare(one, opposite, exact, settings).classes[ALL]
    assert (
        whole.pearson.value == pytest.approx(-1)
        and whole.slope == pytest.approx(-2)
        and whole.intercept == pytest.approx(0)
    )
    by_size = compare(one, Scores("hisp", opposite.per_group, opposite.mean, 0.0), exact, settings)
    assert by_size.by_size and by_size.classes[ALL].slope == pytest.approx(2)


def test_interpolation_goes_from_clean_to_the_exact_score(tmp_path: Path) -> None:
    one, edge = subject(), "a0.h1->a1.h0<v>"
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
        interpolated(subject(), "a9.h0->logits", [0.0])


def test_telling_edges_are_the_extremes() -> None:
    graph = Graph(1, 1, mlps=False)
    exact, estimate = (torch.zeros(2, 4).double() for _ in range(2))
    exact[0, 0], exact[1, 3], estimate[0, 2] = 2, -3, 9
    scores = [Scores(name, mean[None], mean, 0.0) for name, mean in (("exact", exact), ("eap", estimate))]
    assert telling_edges(*scores, graph) == ["input->a0.h0<q>", "a0.h0->logits", "input->a0.h0<v>"]


def test_every_set_of_rules_has_a_method() -> None:
    assert method_names()[:2] == ("eap", "relp") and set(RULES) < set(method_names()) and "exact" not in method_names()


# Nodes


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "attention-only", "gemma2"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_exact_nodes_have_the_shapes_of_node_scores(kind: str, direction: str) -> None:
    one = subject(tiny(kind).model, (4, 2))
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
        one = Subject("toy", "near", model, near, "near", "logit_difference")
        exact, scored = exact_nodes(one, direction), score_nodes(model, near, one.metric, "eap", direction, quiet=True)
        for kind in scored.kinds:
            expected = scored.per_prompt[kind].nan_to_num()
            assert (exact[kind].nan_to_num() - expected).abs().max() < 1e-3 * expected.abs().max(), (kind, direction)


def test_patching_the_whole_first_stream_of_a_prompt_of_one_token_is_the_other_prompt() -> None:
    one = subject(lengths=(1, 1))
    outputs = [
        one.metric(run(one.model, c, one.pairs), one.pairs) for c in (Circuit.full(one.graph), Circuit.empty(one.graph))
    ]
    for direction in ("noising", "denoising"):
        found = exact_nodes(one, direction)
        for kind, layer in (("resid_pre", 0), ("resid_pre", 1), ("resid_mid", 1), ("resid_post", 1)):
            torch.testing.assert_close(found[kind][:, layer, 0], outputs[1] - outputs[0], rtol=0, atol=1e-11)


def test_node_patches_are_edge_cuts_of_prompts_of_one_token() -> None:
    one = subject(lengths=(1, 1, 1))
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
    exact, found = compare_nodes(subject(), "noising", Settings(n_resamples=10))
    assert [one.method for one in found] == ["eap", "relp"]
    assert all(set(one.per_kind) == set(exact) == set(one.means) for one in found)
    assert found[0].per_kind["heads"].n == 2 * 2 * 5 and found[0].per_kind["resid_pre"].n == 2 * 5


# Prompts


def test_sorting_prompts_ask_for_the_next_digit() -> None:
    pairs = sort_pairs(40, seed=1)
    assert pairs.clean.shape == (40, 11) and set(pairs.lengths.tolist()) == set(range(6, 12))
    for row, length in enumerate(pairs.lengths.tolist()):
        for tokens in (pairs.clean[row, :length].tolist(), pairs.corrupted[row, :length].tolist()):
            assert tokens[6:] == sorted(tokens[:6])[: length - 6]
        answer = sorted(pairs.clean[row, :6].tolist())[length - 6]
        assert pairs.answers[row].tolist() == [answer] != [sorted(pairs.corrupted[row, :6].tolist())[length - 6]]
        assert sorted([*pairs.wrong_answers[row].tolist(), answer]) == [0, 1, 2]
    assert pairs == sort_pairs(40, seed=1) and pairs != sort_pairs(40, seed=2)


def test_text_prompts_are_windows_with_half_replaced() -> None:
    text = list(range(40)) * 2
    pairs = text_pairs(TWO, [text], 12, seed=0, n_tokens=9)
    changed = pairs.clean != pairs.corrupted
    assert (changed.sum(1) == 4).all() and not changed[:, 0].any()
    assert all((row + 1) % 40 == after for row, after in zip(pairs.clean[:, -1].tolist(), pairs.answers[:, 0].tolist()))
    logits = run(TWO, Circuit.full(adapt(TWO).graph), type(pairs)(pairs.corrupted, pairs.corrupted))
    for row, (answer, wrong) in enumerate(zip(pairs.answers[:, 0].tolist(), pairs.wrong_answers[:, 0].tolist())):
        assert wrong == next(token for token in logits[row].argsort(descending=True).tolist() if token != answer)


def test_written_texts_follow_the_model() -> None:
    texts = written_texts(TWO, 3, 4, 6, seed=0)
    assert [len(text) for text in texts] == [6] * 4 and all(text[0] == 3 for text in texts)
    assert texts == written_texts(TWO, 3, 4, 6, seed=0) != written_texts(TWO, 3, 4, 6, seed=1)


def test_short_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of more than 16 tokens"):
        text_pairs(TWO, [[1, 2, 3]], 2)


@pytest.fixture(scope="module")
def sorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny GPT-2 of three tokens and eleven positions, without a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "sorter"
    hugging_face("gpt2", n_layer=1, n_head=2, n_embd=8, n_positions=11, vocab_size=3).save_pretrained(folder)
    return folder


def test_a_directory_without_tokenizer_sorts(sorter: Path) -> None:
    (one,) = subjects(str(sorter), n_prompts=3, seed=0)
    assert (one.name, one.task, one.metric_name) == ("sorter sort", "sort", "logit_difference")
    assert one.pairs == sort_pairs(3) and one.graph == Graph(1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["ioi"]}, "expected a model with a tokenizer for 'ioi', came .*without one; it can do 'sort'"),
        ({"tasks": ["sorting"]}, "task: expected one of sort, text, .*came 'sorting'"),
        ({"n_prompts": 0}, "n_prompts: expected 1 or more, came 0"),
        ({"metric": "loss"}, "metric: expected one of .*came 'loss'"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(sorter: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subjects(str(sorter), **{"n_prompts": 2, "seed": 0, **settings})


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
    assert agreement.main(words) == 0
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
    assert agreement.main(words) == 0
    assert "without eap: this metric's gradient on the clean prompt is zero" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "exact"], "method: expected one of eap, .*came 'exact'; all are held against exact"),
        (["--groups", "1"], "--groups: expected 2 or more, came 1"),
        (["--edges", "a0.h0->a0.h1<q>"], "a0.h0"),
        (["--text", "missing.txt", "--tasks", "text"], "without one; it can do 'sort'"),
    ],
)
def test_bad_arguments_end_with_a_message(
    sorter: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agreement.main(["--model", str(sorter), "--n-prompts", "2", "--quiet", *words]) == 2
    assert re.search(f"edge_circuits.benchmarks.agreement: .*{message}", capsys.readouterr().err)
