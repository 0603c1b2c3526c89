"""The functional model: its parts by hand, and the ways of computing less that must change nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from models import D_VOCAB, KINDS, RAGGED, WINDOW, relative_error, tiny
from references import literal
from torch import Tensor

from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.attention import Attention, Rotary
from edge_circuits.graphs.model.mlp import Experts, Mlp
from edge_circuits.graphs.model.norm import Norm, apply_norm
from edge_circuits.graphs.model.operations import ACTIVATIONS, AttentionScores, Operations, exact_attention
from edge_circuits.graphs.model.transformer import take_rows

TOKENS = torch.arange(21).reshape(3, 7) * 11 % D_VOCAB
ROWS = torch.tensor([[6], [0], [3]])
GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


# Computing less changes nothing


@pytest.mark.parametrize("kind", KINDS)
def test_answer_rows_are_rows_of_the_full_pass(kind: str) -> None:
    transformer = adapt(tiny(kind).model)
    embed = transformer.embed(TOKENS)
    full, rows = transformer.forward(embed), transformer.forward(embed, ROWS)
    last = len(transformer.blocks) - 1
    torch.testing.assert_close(rows.final, take_rows(full.final, ROWS), rtol=1e-13, atol=1e-13)
    for name in ("q", "z", "attention_sum", *["mlp_in", "mlp_out"] * transformer.graph.mlps):
        ours, theirs = getattr(rows, name), getattr(full, name)
        assert len(ours) == len(theirs) == last + 1
        torch.testing.assert_close(ours[last], take_rows(theirs[last], ROWS), rtol=1e-13, atol=1e-13)
        assert all(torch.equal(one, other) for one, other in zip(ours[:last], theirs[:last]))
    for name in ("attention_in", "k", "v"):
        assert all(torch.equal(one, other) for one, other in zip(getattr(rows, name), getattr(full, name)))


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "gemma2", "layer-norm-pre"])
def test_padding_and_later_tokens_change_nothing(kind: str) -> None:
    transformer = adapt(tiny(kind).model)
    padded = transformer.unembed(transformer.forward(transformer.embed(RAGGED.clean)).final)
    other = torch.where(RAGGED.mask, RAGGED.clean, D_VOCAB - 1)
    for row, length in enumerate(RAGGED.lengths.tolist()):
        alone = transformer.unembed(transformer.forward(transformer.embed(RAGGED.clean[[row], :length])).final)
        torch.testing.assert_close(padded[[row], :length], alone, rtol=1e-12, atol=1e-12)
    repadded = transformer.unembed(transformer.forward(transformer.embed(other)).final)
    assert torch.equal(padded[RAGGED.mask], repadded[RAGGED.mask])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_readers_sum_to_the_gradient_at_the_stream(kind: str) -> None:
    # q, k, v, the MLP input and the rest of the stream are branches of their own: what a reader's gradient
    # holds is that reader's alone. With attention and later layers fixed, the MLP branch of the last layer is
    # the difference between the gradient at the stream and at `final`.
    transformer = adapt(tiny(kind).model)
    if not transformer.graph.mlps:
        pytest.skip("no MLPs")
    kept = transformer.forward(transformer.embed(TOKENS).requires_grad_())
    readers = [kept.mlp_in[-1], kept.final, kept.mlp_out[-1]]
    at_mlp, at_final, at_out = torch.autograd.grad(kept.final.square().sum(), readers)
    block = transformer.blocks[-1]
    x = kept.mlp_in[-1].detach().requires_grad_()
    out = apply_norm(block.mlp_post_norm, block.mlp(apply_norm(block.mlp_norm, x)))
    (alone,) = torch.autograd.grad(out, x, at_out)
    torch.testing.assert_close(at_mlp, alone)
    torch.testing.assert_close(at_final, 2 * kept.final.detach())


# Norms


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_norms_are_their_formulas(centred: bool, weighted: bool) -> None:
    x = random(5, 6)
    weight, bias = (random(6), random(6) if centred else None) if weighted else (None, None)
    norm = Norm(centred, 1e-2, weight, bias)
    gain = 1.0 if weight is None else weight
    slow = (
        literal.layer_norm(x, 1e-2, gain, 0.0 if bias is None else bias) if centred else literal.rms_norm(x, 1e-2, gain)
    )
    torch.testing.assert_close(apply_norm(norm, x), slow)
    torch.testing.assert_close(apply_norm(norm, x, constant_scale=True), slow)
    torch.testing.assert_close(norm.normalised(x) * gain + (0.0 if bias is None else bias), slow)


def test_norms_by_hand() -> None:
    x = torch.tensor([1.0, 5.0], dtype=torch.float64)  # mean 3, variance 4, mean square 13
    assert Norm(True, 0.0).inverse_scale(x).item() == pytest.approx(0.5)
    assert Norm(True, 0.0).normalised(x).tolist() == pytest.approx([-1.0, 1.0])
    assert Norm(False, 3.0).inverse_scale(x).item() == pytest.approx(0.25)
    assert Norm(False, 3.0).normalised(x).tolist() == pytest.approx([0.25, 1.25])
    assert apply_norm(None, x) is x


@pytest.mark.parametrize("centred", [True, False])
def test_constant_scale_has_the_gradient_of_a_division(centred: bool) -> None:
    x, norm = random(3, 4).requires_grad_(), Norm(centred, 1e-3, random(4))
    along = random(3, 4)
    (gradient,) = torch.autograd.grad((apply_norm(norm, x, constant_scale=True) * along).sum(), x)
    scaled = along * norm.weight * norm.inverse_scale(x.detach())
    expected = scaled - scaled.mean(-1, keepdim=True) if centred else scaled
    torch.testing.assert_close(gradient, expected)
    (exact,) = torch.autograd.grad((apply_norm(norm, x) * along).sum(), x)
    assert relative_error(exact, expected) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_do_not_overflow_in_half_types(dtype: torch.dtype) -> None:
    x = torch.tensor([300.0, -300.0], dtype=dtype)  # the square is beyond float16
    assert apply_norm(Norm(False, 1e-5), x).tolist() == pytest.approx([1.0, -1.0])
    assert apply_norm(Norm(True, 1e-5), x).dtype == dtype


# Activations and MLPs


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("gelu", literal.gelu),
        ("gelu_new", literal.gelu_tanh),
        ("relu", literal.relu),
        ("silu", literal.silu),
        ("solu", literal.solu),
        ("gpt_oss_gate", lambda x: literal.clamped(x, -99, 7) / (1 + torch.exp(-1.702 * literal.clamped(x, -99, 7)))),
        ("gpt_oss_signal", lambda x: literal.clamped(x, -7, 7)),
    ],
)
def test_activations_are_their_formulas(name: str, slow: object) -> None:
    x = 9 * random(4, 6)
    torch.testing.assert_close(ACTIVATIONS[name](x), slow(x))


def test_every_activation_is_tested() -> None:
    assert ACTIVATIONS.keys() == {"gelu", "gelu_new", "relu", "silu", "solu", "gpt_oss_gate", "gpt_oss_signal"}


def test_gated_mlp_by_hand() -> None:
    one = torch.ones(1, 1)
    mlp = Mlp(
        3 * one, 2 * one, torch.tensor([1.0]), torch.tensor([0.5]), "relu", W_gate=one, b_gate=torch.tensor([-1.0])
    )
    assert mlp(torch.tensor([[4.0], [0.5]])).tolist() == [[78.5], [0.5]]  # 2 * relu(x - 1) * (3 x + 1) + 0.5


def experts_by_hand(normalised: bool) -> Experts:
    """Three experts of one neuron on two numbers; expert n writes (n + 1) * relu(x0) * x1 to the first number."""
    first, second = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    W_out = torch.stack([torch.tensor([[n + 1.0, 0.0]]) for n in range(3)])
    router = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # logits 0, x0, x1
    return Experts(
        router, None, 2, normalised, second.expand(3, 2, 1), first.expand(3, 2, 1), W_out, None, None, None, "relu"
    )


@pytest.mark.parametrize("normalised", [True, False])
def test_routed_layer_by_hand(normalised: bool) -> None:
    x = torch.tensor(
        [[[2.0, 3.0], [2.0, -1.0]]]
    )  # the first token goes to the last two experts, the second to the first two
    one, two, three = 1.0, math.e**2, math.e**3
    total = [two + three, one + two] if normalised else [one + two + three, one + two + math.e**-1]
    expected = [6 * (2 * two + 3 * three) / total[0], -2 * (one + 2 * two) / total[1]]
    assert experts_by_hand(normalised)(x)[..., 0].tolist()[0] == pytest.approx(expected)
    assert experts_by_hand(normalised)(x)[..., 1].abs().max() == 0


def test_operations_are_called_where_a_rule_may_differ() -> None:
    called = []

    def activation(name: str, x: Tensor) -> Tensor:
        called.append(name)
        return ACTIVATIONS[name](x)

    def gate(left: Tensor, right: Tensor) -> Tensor:
        called.append("gate")
        return left * right

    def attention(q: Tensor, k: Tensor, v: Tensor, scores: AttentionScores) -> Tensor:
        called.append("attention")
        return scores.pattern(q, k) @ v

    transformer = adapt(tiny("gemma2").model)
    operations, embed = Operations(activation=activation, gate=gate, attention=attention), transformer.embed(TOKENS)
    other, plain = transformer.forward(embed, ROWS, operations), transformer.forward(embed, ROWS)
    assert called == ["attention", "gelu_new", "gate"] * 3
    torch.testing.assert_close(other.final, plain.final)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "qwen3", "solu"])
def test_constant_scale_keeps_the_value_and_changes_the_gradient(kind: str) -> None:
    transformer = adapt(tiny(kind).model)
    gradients = []
    for operations in (Operations(), Operations(constant_scale=True)):
        embed = transformer.embed(TOKENS).requires_grad_()
        logits = transformer.unembed(transformer.forward(embed, ROWS, operations).final, operations)
        torch.testing.assert_close(logits, transformer.unembed(transformer.forward(embed, ROWS).final))
        gradients += torch.autograd.grad(logits[..., 0].sum(), embed)
    assert relative_error(gradients[1], gradients[0]) > 1e-2


# Attention


def attention_of(window: int | None = None, n_kv_heads: int = 2, **settings: object) -> Attention:
    weights = [random(n, *shape) for n, shape in ((2, (4, 3)), (n_kv_heads, (4, 3)), (n_kv_heads, (4, 3)), (2, (3, 4)))]
    return Attention(*weights, None, None, None, None, scale=0.5, window=window, **settings)


def test_window_by_hand() -> None:
    visible = attention_of(window=2).scores(None, torch.arange(4)[None]).visible
    assert visible.int().tolist() == [[[[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]]]


def test_rows_see_what_their_position_sees() -> None:
    rows = torch.tensor([[2], [0]])
    assert attention_of().scores(rows, torch.arange(4)[None]).visible.int().tolist() == [
        [[[1, 1, 1, 0]]],
        [[[1, 0, 0, 0]]],
    ]
    assert attention_of(window=2).scores(rows, torch.arange(4)[None]).visible.int().tolist() == [
        [[[0, 1, 1, 0]]],
        [[[1, 0, 0, 0]]],
    ]


def test_a_window_as_long_as_the_prompt_is_plainly_causal() -> None:
    assert attention_of(window=4).scores(None, torch.arange(4)[None]).visible is None
    assert attention_of(window=3).scores(None, torch.arange(4)[None]).visible is not None
    assert AttentionScores(1.0, None, None).mask(3, 3, torch.device("cpu")).int().tolist() == [
        [1, 0, 0],
        [1, 1, 0],
        [1, 1, 1],
    ]


def test_a_token_outside_the_window_is_not_read() -> None:
    transformer = adapt(tiny("mistral").model)
    embed = transformer.embed(TOKENS[:1]).requires_grad_()
    z = transformer.forward(embed).z[0][0, -1].sum()
    (gradient,) = torch.autograd.grad(z, embed)
    reached = (gradient[0] != 0).any(-1).tolist()
    assert reached == [False] * (TOKENS.shape[1] - WINDOW) + [True] * WINDOW


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 2])
def test_attention_is_its_formula(softcap: float | None, window: int | None) -> None:
    q, k, v = random(2, 2, 5, 3), random(2, 2, 5, 3), random(2, 2, 5, 3)
    scores = attention_of(window, softcap=softcap).scores(None, torch.arange(5)[None])
    z, pattern = exact_attention(q, k, v, scores), scores.pattern(q, k)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 2, 5, dtype=torch.float64))
    torch.testing.assert_close(pattern @ v, z)
    for batch in range(2):
        for head in range(2):
            slow = literal.attend(q[batch, head], k[batch, head], v[batch, head], literal.Scores(0.5, softcap, window))
            torch.testing.assert_close(z[batch, head], slow)


def test_pattern_is_taken_in_float32() -> None:
    q = torch.ones(1, 1, 300, 1, dtype=torch.bfloat16)
    pattern = AttentionScores(1.0, None, None).pattern(q, q)
    assert pattern.dtype == torch.bfloat16
    assert pattern[0, 0, -1].double().sum().item() == pytest.approx(1, abs=4e-3)


def test_key_value_heads_serve_neighbouring_query_heads() -> None:
    attention = Attention(
        random(6, 4, 3), random(2, 4, 3), random(2, 4, 3), random(6, 3, 4), None, None, None, None, 1.0
    )
    kv = random(1, 2, 2, 3)
    assert attention.group_size == 3
    assert torch.equal(attention.per_query_head(kv), kv[:, :, [0, 0, 0, 1, 1, 1]])


@pytest.mark.parametrize("adjacent", [True, False])
def test_rotary_by_hand(adjacent: bool) -> None:
    def quarter_turns(rows: Tensor) -> tuple[Tensor, Tensor]:
        angle = (rows * math.pi / 2)[..., None].expand(*rows.shape, 4).double()
        return angle.cos(), angle.sin()

    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64).expand(1, 2, 1, 5)  # the last one does not turn
    turned = Rotary(quarter_turns, adjacent).rotate(x, torch.tensor([[0, 1]]))[0, :, 0]
    expected = [-2.0, 1.0, -4.0, 3.0, 5.0] if adjacent else [-3.0, -4.0, 1.0, 2.0, 5.0]
    torch.testing.assert_close(turned, torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], expected], dtype=torch.float64))


@pytest.mark.parametrize("kind", ["llama", "neox-parallel", "layer-norm-pre"])
def test_rotary_scores_depend_on_the_distance_alone(kind: str) -> None:
    rotary = adapt(tiny(kind).model).blocks[0].attention.rotary
    d_head = adapt(tiny(kind).model).blocks[0].attention.W_Q.shape[2]
    q, k = random(1, 1, 1, d_head), random(1, 1, 1, d_head)

    def score(query: int, key: int) -> float:
        turned = rotary.rotate(q, torch.tensor([[query]])), rotary.rotate(k, torch.tensor([[key]]))
        return (turned[0] * turned[1]).sum().item()

    assert score(7, 3) == pytest.approx(score(12, 8), abs=1e-5)  # angles are kept in float32
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-2)


# Rows


def test_take_rows() -> None:
    x = torch.arange(12).reshape(2, 3, 2).double()
    assert take_rows(x, torch.tensor([[2], [0]])).tolist() == [[[4, 5]], [[6, 7]]]
    assert take_rows(x[:1], torch.tensor([[1], [0]])).tolist() == [[[2, 3]], [[0, 1]]]


def test_a_logit_soft_cap_bounds_the_logits() -> None:
    transformer = adapt(tiny("gemma2").model)
    uncapped = replace(transformer, logit_softcap=None)
    resid = 100 * random(4, 32)
    assert transformer.unembed(resid).abs().max() <= 3 < uncapped.unembed(resid).abs().max()
    torch.testing.assert_close(transformer.unembed(resid), 3 * torch.tanh(uncapped.unembed(resid) / 3))
