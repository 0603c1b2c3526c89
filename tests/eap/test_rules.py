"""Each LRP rule by itself: coefficients, limits, conservation, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from models import GRADIENT, RAGGED, build, tiny
from references import literal
from torch import Tensor

from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.eap.rules import (
    COEFFICIENTS,
    SECANT_POINTS,
    CutHeads,
    SecantAttention,
    SoftenedAttention,
    constant_gate,
    constant_pattern_attention,
    cut_heads,
    half_gate,
    identity_activation,
    shared_attention,
)
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.operations import ACTIVATIONS, EXACT, AttentionScores, Operations, exact_attention
from edge_circuits.graphs.model.transformer import Transformer

CAUSAL = AttentionScores(scale=0.6, softcap=None, visible=None)
CAPPED = AttentionScores(scale=0.6, softcap=1.5, visible=None)
WINDOWED = AttentionScores(
    scale=0.6, softcap=None, visible=(torch.ones(5, 5).tril() - torch.ones(5, 5).tril(-2)).bool()[None, None]
)


def heads(seed: int, n: int = 3) -> list[Tensor]:
    """Leaves [batch head pos d_head], for q, k, v and what else is asked for."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(n)]


def test_the_identity_rule_knows_every_activation_function() -> None:
    assert COEFFICIENTS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_identity_rule_keeps_the_value_and_has_the_coefficient_f_of_x_over_x(name: str) -> None:
    function = {"gelu": literal.gelu, "gelu_new": literal.gelu_tanh, "solu": literal.solu} | {
        "relu": literal.relu,
        "silu": literal.silu,
        "gpt_oss_gate": lambda x: (
            literal.clamped(x, -math.inf, 7) / (1 + torch.exp(-1.702 * literal.clamped(x, -math.inf, 7)))
        ),
        "gpt_oss_signal": lambda x: literal.clamped(x, -7, 7),
    }
    x = torch.cat((torch.linspace(-12, 12, 400), torch.tensor([1e-3, -1e-3]))).double()[None].requires_grad_()
    value = identity_activation(name, x)
    assert torch.equal(value, ACTIVATIONS[name](x))
    gradient = torch.autograd.grad(value.sum(), x)[0]
    assert (gradient - function[name](x) / x).abs().max() < 1e-12


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_identity_rule_at_zero_and_far_out(name: str, dtype: torch.dtype) -> None:
    """f(x) / x tends to f'(0); ReLU has none and gets torch's 0. At +-1e4 it is 1 and 0."""
    x = torch.tensor([[0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    coefficient = torch.autograd.grad(identity_activation(name, x).sum(), x)[0][0]
    at_zero = {"relu": 0.0, "solu": 0.0, "gpt_oss_signal": 1.0}.get(name, 0.5)
    assert coefficient[:2].tolist() == [at_zero, at_zero]
    if name not in ("relu", "solu"):
        slope = torch.autograd.functional.jacobian(ACTIVATIONS[name], torch.zeros(1, dtype=dtype))
        assert coefficient[0] == slope
        assert coefficient[2:4].tolist() == [at_zero, at_zero]
    far_out = {"gpt_oss_gate": [7e-4, 0.0], "gpt_oss_signal": [7e-4, 7e-4]}.get(name, [1.0, 0.0])
    assert coefficient[4:].tolist() == pytest.approx(far_out, rel=1e-5)


def test_solu_at_zero_is_the_softmax() -> None:
    x = torch.tensor([[0.0, 1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    assert torch.equal(torch.autograd.grad(identity_activation("solu", x).sum(), x)[0], torch.softmax(x, 1))


@pytest.mark.parametrize("rule, shares", [(half_gate, (0.5, 0.5)), (constant_gate, (0.0, 1.0))])
def test_gate_rules_share_the_relevance_of_the_product(rule, shares) -> None:
    gate, signal = (x.detach().flatten(0, 2).requires_grad_() for x in heads(0, 2))
    product = rule(gate, signal)
    assert torch.equal(product, gate * signal)
    upstream = torch.linspace(-1, 1, product.numel()).double().view_as(product)
    gradients = torch.autograd.grad((product * upstream).sum(), (gate, signal), materialize_grads=True)
    for factor, gradient, share in zip((gate, signal), gradients, shares):
        assert (factor * gradient - share * product * upstream).abs().max() < 1e-15


@pytest.mark.parametrize("scores", [CAUSAL, CAPPED, WINDOWED], ids=["causal", "capped", "windowed"])
def test_attention_rules_keep_the_value(scores: AttentionScores) -> None:
    q, k, v, q_cut, k_cut = heads(1, 5)
    expected = exact_attention(q, k, v, scores)
    rules = (constant_pattern_attention, shared_attention, SecantAttention(iter([CutHeads(q_cut, k_cut)])))
    for attention in rules:
        assert torch.equal(attention(q, k, v, scores), expected)


def test_ah_rule_conserves_relevance_and_gives_it_to_values_alone() -> None:
    q, k, v = heads(2)
    z = constant_pattern_attention(q, k, v, CAUSAL)
    to_q, to_k, to_v = torch.autograd.grad((z * z.detach()).sum(), (q, k, v), materialize_grads=True)
    assert not to_q.any() and not to_k.any()
    assert abs((v * to_v).sum() - (z * z).sum()) < 1e-10


def test_attnlrp_shares_each_product_by_halves() -> None:
    """Values get half of z's relevance; queries and keys equal shares of what the softmax passes on."""
    q, k, v = heads(3)
    z = shared_attention(q, k, v, CAUSAL)
    to_q, to_k, to_v = torch.autograd.grad((z * z.detach()).sum(), (q, k, v))
    relevance = (z * z).sum()
    assert abs((v * to_v).sum() - relevance / 2) < 1e-10
    assert abs((q * to_q).sum() - (k * to_k).sum()) < 1e-10
    kept = ((q * to_q).sum() + (k * to_k).sum() + (v * to_v).sum()) / relevance
    assert abs(kept - 1) > 1e-3  # the softmax's bias takes a part: AttnLRP does not conserve here


@pytest.mark.parametrize("scores", [CAUSAL, CAPPED, WINDOWED], ids=["causal", "capped", "windowed"])
def test_secant_is_the_mean_of_jacobians_on_the_line(scores: AttentionScores) -> None:
    """The softmax's Jacobian diag(p) - p p^T (times the soft cap's slope), row by row, at all points."""
    q, k, v, q_cut, k_cut, upstream = (x.detach() for x in heads(4, 6))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    z = SecantAttention(iter([CutHeads(q_cut, k_cut)]))(*leaves, scores)
    to_q, to_k, to_v = torch.autograd.grad((z * upstream).sum(), leaves)

    def through_scores(q_at: Tensor, k_at: Tensor) -> Tensor:
        pattern, raw = scores.pattern(q_at, k_at), q_at @ k_at.transpose(-1, -2) * scores.scale
        jacobian = torch.diag_embed(pattern) - pattern[..., :, None] * pattern[..., None, :]
        slope = 1.0 if scores.softcap is None else 1 - torch.tanh(raw / scores.softcap) ** 2
        return scores.scale * slope * torch.einsum("bhij,bhijl->bhil", upstream @ v.transpose(-1, -2), jacobian)

    for_q = sum(weight * through_scores(q + point * (q_cut - q), k) for point, weight in SECANT_POINTS)
    for_k = sum(weight * through_scores(q, k + point * (k_cut - k)) for point, weight in SECANT_POINTS)
    assert (to_q - for_q @ k).abs().max() < 1e-12
    assert (to_k - for_k.transpose(-1, -2) @ q).abs().max() < 1e-12
    assert (to_v - scores.pattern(q, k).transpose(-1, -2) @ upstream).abs().max() < 1e-12


def test_secant_without_a_cut_is_the_gradient() -> None:
    q, k, v = heads(5)
    z = SecantAttention(iter([CutHeads(q.detach(), k.detach())]))(q, k, v, CAUSAL)
    for secant, live in zip(
        *(torch.autograd.grad((out * out.detach()).sum(), (q, k, v)) for out in (z, exact_attention(q, k, v, CAUSAL)))
    ):
        assert (secant - live).abs().max() < 1e-12


@pytest.mark.parametrize(("sharpness", "tolerance"), [(1, 1e-13), (16, 1e-7)], ids=["even", "saturated"])
def test_secant_times_the_change_is_the_exact_change(sharpness: float, tolerance: float) -> None:
    q, k, v, shift_q, shift_k, upstream = (x.detach() for x in heads(6, 6))
    q, shift_q = sharpness * q, sharpness * shift_q
    q_cut, k_cut = q + shift_q / 3, k + shift_k / 3
    q, k = q.requires_grad_(), k.requires_grad_()
    z = SecantAttention(iter([CutHeads(q_cut, k_cut)]))(q, k, v, CAUSAL)
    to_q, to_k = torch.autograd.grad((z * upstream).sum(), (q, k))
    for gradient, change, after in ((to_q, shift_q / 3, (q_cut, k)), (to_k, shift_k / 3, (q, k_cut))):
        exact = ((exact_attention(*after, v, CAUSAL) - z) * upstream).sum()
        assert abs((gradient * change).sum() - exact) < tolerance * exact.abs()  # what twelve points leave


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "qwen3"])
def test_cut_heads_are_what_attention_meets_on_the_corrupted_prompt(kind: str) -> None:
    transformer, met = adapt(tiny(kind).model), []

    def look(q: Tensor, k: Tensor, v: Tensor, scores: AttentionScores) -> Tensor:
        met.append((q, k))
        return exact_attention(q, k, v, scores)

    rows = RAGGED.positions[:, None]
    kept = transformer.forward(transformer.embed(RAGGED.corrupted), rows, Operations(attention=look))
    for cut in (kept, replace(kept, q=[], k=[])):  # with queries and keys, and from streams alone
        for found, expected in zip(cut_heads(transformer, cut, rows), met, strict=True):
            for one, other in zip(found, expected):
                assert (one - other).abs().max() < 1e-12


def without_biases(kind: str) -> Transformer:
    """A model in which nothing is added that is no source: no biases, no soft cap on the logits."""
    model = build(kind, torch.float64).model
    for name, parameter in model.original_model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return replace(adapt(model), logit_softcap=None)


def relevance_by_layer(transformer: Transformer, operations: Operations) -> tuple[Tensor, list[float]]:
    """The metric, and the relevance of the residual stream before each layer and before `logits`."""
    kept = transformer.forward(transformer.embed(RAGGED.clean).requires_grad_(), None, operations)
    logits = transformer.unembed(kept.final, operations)
    metric = logits[..., 3].sum() - 2 * logits[..., 5].sum()
    streams = [*kept.attention_in, kept.final]
    gradients = torch.autograd.grad(metric, streams)
    return metric.detach(), [(x.detach() * gradient).sum().item() for x, gradient in zip(streams, gradients)]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "qwen3", "neox-parallel", "solu", "attention-only"])
def test_relevance_is_conserved_from_layer_to_layer_without_biases(kind: str) -> None:
    """With LN, Identity, Half and AH every step is a linear map with frozen numbers, so x . coefficient is kept."""
    transformer = without_biases(kind)
    metric, relevances = relevance_by_layer(transformer, operations(RelP(attention="ah"), transformer))
    assert max(abs(relevance - float(metric)) for relevance in relevances) < 1e-10 * abs(float(metric))
    for rule in ("norm", "activation", "gate"):
        if (rule == "gate" and kind not in ("llama", "gemma2", "qwen3")) or kind == "attention-only":
            continue
        _, relevances = relevance_by_layer(
            transformer, operations(RelP(attention="ah", **{rule: "exact"}), transformer)
        )
        assert max(abs(relevance - float(metric)) for relevance in relevances) > 1e-4 * abs(float(metric))


@pytest.mark.parametrize("attention", ["live", "attnlrp"])
def test_relevance_is_not_conserved_where_the_pattern_takes_part(attention: str) -> None:
    transformer = without_biases("gpt2")
    metric, relevances = relevance_by_layer(transformer, operations(RelP(attention=attention), transformer))
    assert abs(relevances[-1] - float(metric)) < 1e-10 * abs(float(metric))  # the final norm and the unembedding do
    assert abs(relevances[0] - float(metric)) > 1e-3 * abs(float(metric))


def operations(method: RelP, transformer: Transformer) -> Operations:
    """The steps of a method that does not look at prompts."""
    return method.operations(transformer, RAGGED, lambda: None)


def test_rules_are_named_and_compared_by_value() -> None:
    assert RelP() == RelP(norm="ln", activation="identity", attention="live", gate="half") and RelP().label == "relp"
    assert RelP(attention="ah", reader="norm").label == "relp:reader=norm,attention=ah"
    assert RelP(attention="ah").settings == {
        "reader": "linear",
        "exact_sources": 4,
        "metric_as": "slope",
        "norm": "ln",
        "activation": "identity",
        "attention": "ah",
        "gate": "half",
        "temperature": 1.0,
    }
    assert find("gim") == RelP(activation="exact", attention="attnlrp", temperature=2.0)
    assert operations(GRADIENT, adapt(tiny("gpt2").model)) == EXACT


@pytest.mark.parametrize("name", ["norm", "activation", "attention", "gate", "reader"])
def test_an_unknown_choice_is_refused(name: str, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=f"RelP: {name}: expected one of .*, got 'lrp'"):
        RelP(**{name: "lrp"})


def test_a_temperature_has_to_have_a_softmax_to_soften() -> None:
    with pytest.raises(ValueError, match="temperature: expected 1 with attention 'ah', got 2.0"):
        RelP(attention="ah", temperature=2.0)
    with pytest.raises(ValueError, match="temperature: expected a finite number above 0, got 0.0"):
        RelP(temperature=0.0)


@pytest.mark.parametrize("scores", [CAUSAL, CAPPED, WINDOWED])
def test_softened_attention_passes_on_what_its_formula_says(scores: AttentionScores) -> None:
    """Row by row: p_T (g - p_T . g) at the scores, with g = v . dL/dz, and shares of the gradient of each factor."""
    q, k, v = heads(4)
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(8), dtype=q.dtype)
    z = SoftenedAttention(2.0, 0.25, 0.5)(q, k, v, scores)
    assert torch.allclose(z, exact_attention(q, k, v, scores), atol=1e-12)
    found = torch.autograd.grad((z * upstream).sum(), (q, k, v))
    visible = scores.mask(q.shape[2], k.shape[2], q.device).expand(*q.shape[:3], k.shape[2])
    to_q, to_k, to_v = (torch.zeros_like(x) for x in (q, k, v))
    for batch, head, row in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        seen = visible[batch, head, row].nonzero()[:, 0]
        raw = scores.scale * (k[batch, head, seen] @ q[batch, head, row]).detach()
        capped = raw if scores.softcap is None else scores.softcap * torch.tanh(raw / scores.softcap)
        slope = 1.0 if scores.softcap is None else 1 - (capped / scores.softcap) ** 2
        p, soft = capped.softmax(0), (capped / 2.0).softmax(0)
        of_pattern = v[batch, head, seen].detach() @ upstream[batch, head, row]
        of_score = scores.scale * slope * soft * (of_pattern - soft @ of_pattern)
        to_q[batch, head, row] += 0.25 * of_score @ k[batch, head, seen].detach()
        to_k[batch, head, seen] += 0.25 * of_score[:, None] * q[batch, head, row].detach()
        to_v[batch, head, seen] += 0.5 * p[:, None] * upstream[batch, head, row]
    for one, other in zip(found, (to_q, to_k, to_v)):
        assert torch.allclose(one, other, atol=1e-12)


def test_at_temperature_1_softened_attention_is_the_gradient() -> None:
    q, k, v = heads(5)
    soft, exact = (
        torch.autograd.grad(attention(q, k, v, CAUSAL).square().sum(), (q, k, v))
        for attention in (SoftenedAttention(1.0), exact_attention)
    )
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(soft, exact))
