"""Metrics: values worked by hand, slow references, identities, and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float
from models import prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.graphs import Circuit, Graph, PromptPairs, run
from edge_circuits.graphs.metrics import (
    METRICS,
    KLDivergence,
    as_metric,
    check_values,
    load,
    logit_difference,
    normalised,
)
from edge_circuits.graphs.model.adapter import adapt

# Probabilities 1/2, 1/4, 1/8, 1/16, 1/16 and the uniform fifths, as logits in units of log 2.
LOG2 = math.log(2)
BY_HAND = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -4.0], [0.0] * 5], dtype=torch.float64) * LOG2
PAIRS = PromptPairs([[1, 2], [3, 4]], [[1, 3], [3, 5]], answers=[[1, 2], 0], wrong_answers=[0, [3, 4, 1]])


def random_pairs(n: int = 7, d_vocab: int = 11, seed: int = 0) -> tuple[Float[Tensor, "pair d_vocab"], PromptPairs]:
    """Prompts of different lengths with one to four answers and wrong answers each, and logits."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(d_vocab, generator=generator).tolist() for _ in range(n)]
    prompts = [[row % 3, *([1] * (row % 4)), row] for row in range(n)]
    pairs = PromptPairs(
        prompts,
        [[2, *prompt[1:]] for prompt in prompts],
        [order[: 1 + row % 4] for row, order in enumerate(orders)],
        [order[4 : 5 + (row + 1) % 4] for row, order in enumerate(orders)],
    )
    return torch.randn(n, d_vocab, generator=generator, dtype=torch.float64) * 3, pairs


def choices(pairs: PromptPairs, row: int) -> tuple[list[int], list[int]]:
    return tuple([token for token in side[row].tolist() if token >= 0] for side in (pairs.answers, pairs.wrong_answers))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


SLOW: dict[str, Callable[[list[float], list[int], list[int]], float]] = {
    "logit_difference": lambda x, right, wrong: mean([x[a] for a in right]) - mean([x[w] for w in wrong]),
    "answer_minus_best_wrong": lambda x, right, wrong: mean([x[a] for a in right]) - max(x[w] for w in wrong),
    "probability_difference": lambda x, right, wrong: (
        (sum(math.exp(x[a]) for a in right) - sum(math.exp(x[w]) for w in wrong)) / sum(math.exp(v) for v in x)
    ),
    "log_probability": lambda x, right, wrong: math.log(
        sum(math.exp(x[a]) for a in right) / sum(math.exp(v) for v in x)
    ),
    "accuracy": lambda x, right, wrong: float(max(x[a] for a in right) > max(x[w] for w in wrong)),
    "top_accuracy": lambda x, right, wrong: float(max(range(len(x)), key=x.__getitem__) in right),
}
SMOOTH = ("logit_difference", "answer_minus_best_wrong", "probability_difference", "log_probability")


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("logit_difference", -1.5 * LOG2, 0),
        ("answer_minus_best_wrong", -1.5 * LOG2, 0),
        ("probability_difference", 3 / 8 - 1 / 2, -2 / 5),
        ("log_probability", math.log(3 / 8), math.log(1 / 5)),
        ("accuracy", 0, 0),
        ("top_accuracy", 0, 1),
    ],
)
def test_values_by_hand(name: str, first: float, second: float) -> None:
    # atol: rounding of sums of five float64 of size 1
    expected = torch.tensor([first, second], dtype=torch.float64)
    torch.testing.assert_close(load(name)(BY_HAND, PAIRS), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", METRICS)
def test_metrics_agree_with_a_slow_reference(name: str, seed: int) -> None:
    logits, pairs = random_pairs(seed=seed)
    expected = [SLOW[name](logits[row].tolist(), *choices(pairs, row)) for row in range(len(pairs))]
    torch.testing.assert_close(load(name)(logits, pairs), torch.tensor(expected, dtype=torch.float64))


def test_every_metric_has_a_slow_reference() -> None:
    assert METRICS.keys() == SLOW.keys()
    assert all(load(name).__name__ == name for name in METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_padding_and_order_of_answers_do_not_matter(name: str) -> None:
    logits, pairs = random_pairs()
    whole = load(name)(logits, pairs)
    single = torch.cat([load(name)(logits[row : row + 1], pairs[row]) for row in range(len(pairs))])
    turned = PromptPairs(
        pairs.clean, pairs.corrupted, *zip(*[[side[::-1] for side in choices(pairs, row)] for row in range(len(pairs))])
    )
    torch.testing.assert_close(single, whole)
    torch.testing.assert_close(load(name)(logits, turned), whole)


@pytest.mark.parametrize("name", METRICS)
def test_adding_a_constant_to_all_logits_changes_nothing(name: str) -> None:
    logits, pairs = random_pairs()
    torch.testing.assert_close(load(name)(logits + 5, pairs), load(name)(logits, pairs))


@pytest.mark.parametrize("name", METRICS)
def test_larger_answer_logits_are_never_worse(name: str) -> None:
    logits, pairs = random_pairs()
    raised = logits.clone()
    for row in range(len(pairs)):
        raised[row, choices(pairs, row)[0]] += 8
    change = load(name)(raised, pairs) - load(name)(logits, pairs)
    assert (change >= 0).all() and (change > 0).any()


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    logits, pairs = random_pairs(n=4, d_vocab=9)
    assert torch.autograd.gradcheck(lambda x: load(name)(x, pairs), logits.requires_grad_())


@pytest.mark.parametrize("name", SMOOTH)
def test_padding_brings_no_gradient_to_token_zero(name: str) -> None:
    pairs = PromptPairs([[1], [2]], [[2], [1]], [[3], [3, 4]], [[5], [6, 7]])
    logits = torch.zeros(2, 9, dtype=torch.float64, requires_grad=True)
    load(name)(logits, pairs)[0].backward()
    # The log of a softmax over nine equal logits falls by 1/9 with each other logit; the rest have no token 0.
    expected = -1 / 9 if name == "log_probability" else 0
    assert float(logits.grad[0, 0]) == pytest.approx(expected, abs=1e-15)


def test_ties_are_not_right_against_the_wrong_answers_but_are_at_the_top() -> None:
    pairs = PromptPairs([[1]], [[2]], [0], [1])
    tie = torch.tensor([[1.0, 1.0, 0.0]])
    assert load("accuracy")(tie, pairs).item() == 0 and load("top_accuracy")(tie, pairs).item() == 1


def test_metrics_that_are_flat_say_so_and_no_other() -> None:
    flat = {name for name, metric in METRICS.items() if getattr(metric, "zero_gradient_at_clean", False)}
    assert flat == {"accuracy", "top_accuracy"}
    assert all("gradient is zero" in METRICS[name].zero_gradient_reason for name in flat)


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of 'logit_difference', .*'top_accuracy', got 'kl'"):
        load("kl")


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("log_probability", "top_accuracy")])
def test_pairs_without_wrong_answers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected pairs with wrong_answers, got pairs without"):
        load(name)(BY_HAND[:1], PromptPairs([[1]], [[2]], [0]))


@pytest.mark.parametrize("name", METRICS)
def test_pairs_without_answers_or_of_another_number_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected pairs with answers, got pairs without"):
        load(name)(BY_HAND[:1], PromptPairs([[1]], [[2]]))
    with pytest.raises(ValueError, match="expected one row for each of the 2 pairs, got 1"):
        load(name)(BY_HAND[:1], PAIRS)


# KL divergence


def test_kl_by_hand() -> None:
    """From (1/2, 1/4, 1/8, 1/16, 1/16) to fifths: log 5 - entropy = log 5 - 15/8 log 2; and back from fifths."""
    values = KLDivergence(PAIRS, BY_HAND)(BY_HAND.flip(0), PAIRS)
    forth, back = math.log(5) - 15 / 8 * LOG2, 14 / 5 * LOG2 - math.log(5)
    torch.testing.assert_close(values, -torch.tensor([forth, back], dtype=torch.float64))


def test_kl_agrees_with_a_slow_reference() -> None:
    (reference, pairs), (logits, _) = random_pairs(), random_pairs(seed=1)
    expected = []
    for p_logits, q_logits in zip(reference.tolist(), logits.tolist()):
        p, q = ([math.exp(v) / sum(map(math.exp, row)) for v in row] for row in (p_logits, q_logits))
        expected.append(-sum(a * math.log(a / b) for a, b in zip(p, q)))
    values = KLDivergence(pairs, reference)(logits, pairs)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))
    assert (values < 0).all()


def test_kl_to_itself_is_zero_also_with_impossible_tokens() -> None:
    logits, pairs = random_pairs()
    logits[0, :3] = -torch.inf
    # atol: rounding of log-probabilities of size 10 in float64
    torch.testing.assert_close(KLDivergence(pairs, logits)(logits, pairs), torch.zeros(7).double(), rtol=0, atol=1e-14)


def test_kl_finds_its_rows_in_batches_subsets_and_other_orders() -> None:
    (reference, pairs), (logits, _) = random_pairs(), random_pairs(seed=1)
    metric = KLDivergence(pairs, reference)
    whole = metric(logits, pairs)
    for batch in pairs.batches(batch_size=3):
        torch.testing.assert_close(metric(logits[batch.indices], batch), whole[batch.indices])
    inner = pairs[2:6][[3, 1, 1]]  # its indices count in pairs[2:6], not in pairs
    torch.testing.assert_close(metric(logits[[5, 3, 3]], inner), whole[[5, 3, 3]])


def test_kl_tells_prompts_apart_by_length_and_answer_position() -> None:
    """Padding is token 0, so that [5] and [5, 0] look the same when padded."""
    pairs = PromptPairs([[5], [5, 0], [5, 0]], [[6], [6, 0], [6, 0]], positions=[-1, -1, 0])
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert KLDivergence(pairs, logits)(logits, pairs).abs().max() < 1e-6


def test_kl_gradient_is_zero_at_the_reference_and_only_there() -> None:
    logits, pairs = random_pairs()
    metric = KLDivergence(pairs, logits)
    at, off = logits.clone().requires_grad_(), (logits * 1.1).requires_grad_()
    metric(at, pairs).sum().backward()
    metric(off, pairs).sum().backward()
    assert at.grad.abs().max() < 1e-15 < 1e-3 < off.grad.abs().max()
    assert metric.zero_gradient_at_clean is True and "minimum" in metric.zero_gradient_reason


def test_kl_holds_no_graph_of_its_reference() -> None:
    logits, pairs = random_pairs()
    assert not KLDivergence(pairs, logits.requires_grad_()).reference.log_probabilities.requires_grad


def test_kl_refuses_prompts_without_a_reference() -> None:
    logits, pairs = random_pairs()
    with pytest.raises(ValueError, match=r"among the 7 with reference logits, got the clean prompt \[2, 0\]"):
        KLDivergence(pairs, logits)(logits, pairs.swapped())
    with pytest.raises(ValueError, match=r"expected one row for each of the 7 pairs, got shape \(6, 11\)"):
        KLDivergence(pairs, logits[:6])


# Normalised


@pytest.mark.parametrize("name", METRICS)
def test_normalised_is_one_on_clean_and_zero_on_corrupted(name: str) -> None:
    (clean, pairs), (corrupted, _) = random_pairs(), random_pairs(seed=3)
    metric = load(name)
    means = [float(metric(logits, pairs).mean()) for logits in (clean, corrupted)]
    assert means[0] != means[1]
    relative = normalised(metric, *means)
    assert float(relative(clean, pairs).mean()) == pytest.approx(1)
    assert float(relative(corrupted, pairs).mean()) == pytest.approx(0, abs=1e-12)
    values = (metric(clean, pairs) - means[1]) / (means[0] - means[1])
    torch.testing.assert_close(relative(clean, pairs), values)


def test_normalised_by_hand() -> None:
    relative = normalised(load("logit_difference"), 1.5 * LOG2, -1.5 * LOG2)
    torch.testing.assert_close(relative(BY_HAND, PAIRS), torch.tensor([0, 0.5], dtype=torch.float64))


def test_normalised_keeps_what_the_metric_says_of_its_gradient() -> None:
    logits, pairs = random_pairs()
    assert normalised(KLDivergence(pairs, logits), 0.0, -1.0).zero_gradient_at_clean
    assert not hasattr(normalised(load("logit_difference"), 0.0, -1.0), "zero_gradient_at_clean")
    assert normalised(load("logit_difference"), 0.0, -1.0).__name__ == "normalised logit_difference"
    assert normalised(KLDivergence(pairs, logits), 0.0, -1.0).__name__ == "normalised KLDivergence"


@pytest.mark.parametrize(("clean", "corrupted"), [(1.0, 1.0), (math.nan, 0.0), (math.inf, 0.0)])
def test_normalising_by_nothing_is_refused(clean: float, corrupted: float) -> None:
    with pytest.raises(ValueError, match="expected two different finite numbers, got"):
        normalised(load("accuracy"), clean, corrupted)


# Names where a metric is taken


def test_a_name_a_function_and_kl_are_one_look_up() -> None:
    model, pairs = tiny("gpt2").model, prompt_pairs([6, 3, 5], positions=[-1, -2, -1], seed=5)
    transformer = adapt(model)
    assert as_metric("logit_difference", transformer, pairs) is logit_difference
    assert as_metric(logit_difference, transformer, pairs) is logit_difference
    clean = run(model, Circuit.full(Graph.from_model(model)), pairs)
    torch.testing.assert_close(
        as_metric("kl", transformer, pairs).reference.logits.log_softmax(-1), clean.log_softmax(-1)
    )
    with pytest.raises(ValueError, match="metric: expected one of 'logit_difference', .*, got 'loss'"):
        as_metric("loss", transformer, pairs)


def test_scores_with_a_name_are_those_with_the_function() -> None:
    model, pairs = tiny("attention-only").model, prompt_pairs([4, 3], seed=5)
    clean = run(model, Circuit.full(Graph.from_model(model)), pairs)
    for name, function in (("logit_difference", logit_difference), ("kl", KLDivergence(pairs, clean))):
        scored = [eap.score(model, pairs, metric, "exact", quiet=True).scores for metric in (name, function)]
        torch.testing.assert_close(*scored)
    with pytest.raises(ValueError, match="gradient on the clean prompt is zero"):
        eap.score(model, pairs, "kl", "eap", quiet=True)
    assert eap.score(model, pairs, "kl", "eap-ig", quiet=True).scores.any()
    nodes = [
        eap.score_nodes(model, pairs, metric, quiet=True).mean("heads")
        for metric in ("logit_difference", logit_difference)
    ]
    torch.testing.assert_close(*nodes)


def test_a_metric_of_booleans_is_refused_by_name() -> None:
    def is_right(logits: Tensor, pairs: PromptPairs) -> Tensor:
        return logits.argmax(-1) == pairs.answers[:, 0]

    pairs = PromptPairs([[1]], [[2]], answers=[[0]])
    with pytest.raises(ValueError, match=r"metric is_right: expected numbers, got True and False; return .float\(\)"):
        check_values(is_right(torch.zeros(1, 3), pairs), pairs, is_right)
