"""`score` as a call: any batching gives the same, what comes back, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from counting import TRIED
from models import RAGGED, build, curved, logit_difference, prompt_pairs, relative_error, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.graphs import PromptPairs, ScoredGraph

INTERVENTIONS = ("patching", "zero", "mean", "mean-positional")


def score(
    kind: str = "gpt2", pairs: PromptPairs = RAGGED, metric: Callable = curved, **settings: object
) -> ScoredGraph:
    return eap.score(tiny(kind).model, pairs, metric, **{"method": "eap", "quiet": True, **settings})


def same(one: ScoredGraph, other: ScoredGraph) -> bool:
    return relative_error(one.scores, other.scores) < 1e-12


# One prompt at a time


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])  # learned and rotary positions
@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_any_batching_gives_the_same(kind: str, intervention: str) -> None:
    whole = score(kind, intervention=intervention)
    for batch_size in (1, 2, 3):
        assert same(score(kind, intervention=intervention, batch_size=batch_size), whole)


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
def test_scores_are_the_mean_of_one_prompt_at_a_time(kind: str) -> None:
    alone = [score(kind, RAGGED[[row]]).scores for row in range(len(RAGGED))]
    assert relative_error(torch.stack(alone).mean(0), score(kind).scores) < 1e-12


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_gives_the_same(kind: str, side: str) -> None:
    longest = int(RAGGED.lengths.max())
    tokens = {"clean": RAGGED.clean.clone(), "corrupted": RAGGED.corrupted.clone()}
    mask = RAGGED.mask.long()
    for row, length in enumerate(RAGGED.lengths.tolist()):
        for prompts in (*tokens.values(), mask):
            prompts[row] = prompts[row].roll(longest - length) if side == "left" else prompts[row]
    for prompts in tokens.values():
        prompts[mask == 0] = 7  # whatever stands there
    positions = (RAGGED.positions - RAGGED.lengths).tolist()  # counted from the end
    pairs = PromptPairs(
        tokens["clean"],
        tokens["corrupted"],
        RAGGED.answers,
        RAGGED.wrong_answers,
        attention_mask=mask,
        positions=positions,
    )
    assert torch.equal(score(kind, pairs).scores, score(kind).scores)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "attention-only"])
@pytest.mark.parametrize("token_chunk", [1, 2, 7, 1000])
def test_any_token_chunk_gives_the_same(kind: str, token_chunk: int) -> None:
    for pairs in (RAGGED, prompt_pairs([6, 6, 6])):  # with padding, and without
        assert same(score(kind, pairs, token_chunk=token_chunk), score(kind, pairs))


def test_order_of_the_prompts_does_not_matter() -> None:
    assert same(score(pairs=RAGGED[[2, 0, 3, 1]]), score())


def test_tokens_after_the_answer_do_not_matter() -> None:
    pairs = prompt_pairs([6, 5], positions=[2, 2])
    shorter = PromptPairs(pairs.clean[:, :3], pairs.corrupted[:, :3], pairs.answers, pairs.wrong_answers)
    assert same(score(pairs=pairs), score(pairs=shorter))


# What comes back


def test_result_says_where_it_comes_from() -> None:
    metadata = score(intervention="mean").metadata
    assert "GPT2LMHeadModel" in metadata["model"]
    assert metadata["method"] == "eap"
    assert metadata["metric"] == "curved"
    assert metadata["settings"] == {
        "intervention": "mean",
        "n_prompts": len(RAGGED),
        "reader": "linear",
        "exact_sources": 4,
        "metric_as": "slope",
    }
    assert {"torch", "transformer-lens"} <= metadata["versions"].keys()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float64, torch.float64), (torch.bfloat16, torch.float32), (torch.float16, torch.float32)],
)
def test_result_is_at_least_float32(dtype: torch.dtype, expected: torch.dtype) -> None:
    scored = eap.score(tiny("llama", dtype).model, RAGGED, curved, "eap", quiet=True)
    assert scored.scores.dtype == expected
    assert scored.scores.device.type == "cpu"
    assert (scored.scores[~scored.graph.edge_mask] == 0).all()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.97), (torch.float16, 0.999)])
def test_half_types_rank_edges_alike(kind: str, dtype: torch.dtype, bound: float) -> None:
    half = eap.score(tiny(kind, dtype).model, RAGGED, logit_difference, "eap", quiet=True)
    assert spearman(half.values.double(), score(kind, metric=logit_difference).values) > bound


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_exact_patching_in_bfloat16_is_near(kind: str) -> None:
    half, wide = (
        eap.score(tiny(kind, dtype).model, RAGGED, logit_difference, "exact", quiet=True).values.double()
        for dtype in (torch.bfloat16, torch.float64)
    )
    assert torch.corrcoef(torch.stack([half, wide]))[0, 1] > 0.995


def spearman(one: Tensor, other: Tensor) -> float:
    """Correlation of the ranks; no ties."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    return torch.corrcoef(ranks)[0, 1].item()


def test_progress_is_shown_unless_quiet(capsys: pytest.CaptureFixture) -> None:
    score()
    assert capsys.readouterr().err == ""
    eap.score(tiny("gpt2").model, RAGGED, curved, "eap")
    assert f"{len(RAGGED)}/{len(RAGGED)}" in capsys.readouterr().err


def test_metric_is_called_on_answer_positions() -> None:
    seen = []

    def metric(logits: Tensor, pairs: PromptPairs) -> Tensor:
        seen.append((logits.detach(), pairs))
        return logit_difference(logits, pairs)

    score(metric=metric, batch_size=3)
    asked = seen[TRIED:]
    assert sorted(sum((pairs.indices.tolist() for _, pairs in asked), [])) == [0, 1, 2, 3]
    for logits, pairs in asked:
        own = tiny("gpt2").model(pairs.clean)[torch.arange(len(pairs)), pairs.positions]
        torch.testing.assert_close(logits, own, rtol=1e-10, atol=1e-10)


def test_a_gradient_that_is_not_finite_is_told() -> None:
    with pytest.raises(
        ValueError, match="metric .*: expected finite scores by 'eap', got .* that are not; see where its grad"
    ):
        score(metric=lambda logits, pairs: (0 * logits[:, 0]).sqrt())


@pytest.mark.parametrize("method", ["eap", "relp", "eap-ig"])
def test_scores_of_nothing_but_0_are_told(method: str) -> None:
    pairs = PromptPairs([[1, 2, 3]], [[1, 4, 3]], answers=[5], wrong_answers=[5])
    with pytest.warns(
        UserWarning, match=f"every score by '{method}' is 0; see .* answers and wrong answers are the same"
    ):
        assert not eap.score(tiny("gpt2").model, pairs, "logit_difference", method, quiet=True).scores.any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_off(mode: Callable) -> None:
    with mode():
        scored = score()
    assert torch.equal(scored.scores, score().scores)


def test_frozen_parameters_are_no_obstacle() -> None:
    model = build("gpt2", torch.float64).model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(eap.score(model, RAGGED, curved, "eap", quiet=True).scores, score().scores)


# What is refused


def scalar(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return logits.sum()


def column(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return logits[:, :1]


def number(logits: Tensor, pairs: PromptPairs) -> float:
    return 1.0


def nan(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return logits[:, 0] * torch.where(pairs.lengths == 5, torch.nan, 1.0)


def infinite(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return logits[:, 0] / 0


def detached(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return logits[:, 0].detach()


def constant(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return torch.ones(len(pairs))


def flat(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return logits[:, 0]


flat.zero_gradient_at_clean = True


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (scalar, r"metric scalar must return one value a prompt, shape \(4,\); got \(\)"),
        (column, r"metric column must return one value a prompt, shape \(4,\); got \(4, 1\)"),
        (number, r"metric number must return one value a prompt, shape \(4,\); got float"),
        (nan, "metric nan: expected finite numbers, got nan for row 1 of a batch"),
        (infinite, "metric infinite: expected finite numbers, got -?inf for row 0 of a batch"),
        (detached, "metric detached: expected a differentiable function of the logits"),
        (constant, "metric constant: expected a differentiable function of the logits"),
        (flat, "this metric's gradient on the clean prompt is zero"),
    ],
)
def test_refuses_a_metric(metric: Callable, message: str, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=message):
        score(metric=metric)


def test_metrics_that_are_objects_are_named_by_their_class() -> None:
    class Largest:
        def __call__(self, logits: Tensor, pairs: PromptPairs) -> Tensor:
            return logits.amax()

    with pytest.raises(ValueError, match="metric Largest must return one value a prompt"):
        score(metric=Largest())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(method="magic"), "method: expected one of 'eap', .*, got 'magic'"),
        (
            dict(intervention="resample"),
            "one of 'patching', 'zero', 'mean', 'mean-positional', 'zero-tokens', 'mean-tokens', got 'resample'",
        ),
        (dict(kv_destinations="group"), "kv_destinations: expected one of 'query-head', 'kv-head', got 'group'"),
        (dict(token_chunk=0), "token_chunk: expected a whole number from 1, got 0"),
        (dict(batch_size=0), "batch_size: expected a whole number from 1, got 0"),
    ],
)
def test_refuses_a_setting(settings: dict[str, object], message: str, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=message):
        score(**settings)


def test_the_default_method_is_relp() -> None:
    found = eap.score(tiny("gpt2").model, RAGGED, curved, quiet=True)
    assert found.metadata["method"] == "relp" and same(found, score(method="relp"))
