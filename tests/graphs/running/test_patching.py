"""Cut values: by hand, against the literal means, and as streams that are the sum of their sources."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from models import D_VOCAB, KINDS, RAGGED, prompts_of, tiny
from references import edges
from torch import Tensor

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.attention import Attention
from edge_circuits.graphs.model.mlp import Mlp
from edge_circuits.graphs.model.transformer import Block, Transformer
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.execution import run
from edge_circuits.graphs.running.patching import answer_rows, check_intervention, cut_values, trimmed

INTERVENTIONS = ("patching", "zero", "mean", "mean-positional")


def one_number_model() -> Transformer:
    """A residual stream of one number: the token; a head that copies it and doubles what it writes; MLP: relu - 1."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    attention = Attention(0 * one, 0 * one, one, 2 * one, None, None, None, torch.tensor([0.5]).double(), scale=1.0)
    mlp = Mlp(one[0], one[0], None, torch.tensor([-1.0]).double(), "relu")
    blocks = (Block(None, attention, None, mlp),)
    return Transformer(Graph(1, 1), lambda tokens: tokens[..., None].double(), blocks, None, one[0], None)


# Corrupted prompts 3 and 2 tokens long. The head attends evenly: z = running mean of the tokens, which it writes
# doubled, and the MLP reads token + 2 z + 0.5 (the head's bias) and gives one less.
PAIRS = PromptPairs([[0, 0, 0], [0, 0]], [[2, 4, 9], [6, 2]], positions=[2, 1])
Z = [[2.0, 3.0, 5.0], [6.0, 4.0]]
MLP = [[5.5, 9.5, 18.5], [17.5, 9.5]]


def cut_by_hand(intervention: str) -> tuple[list, Tensor, Tensor]:
    """Embedding everywhere, z and the MLP's output at the answer rows of PAIRS (batched by hand, in order)."""
    kept = cut_values(one_number_model(), [PAIRS], intervention)(PAIRS)
    return kept.embed[..., 0].tolist(), kept.z[0].flatten(), kept.mlp_out[0].flatten()


def test_patching_by_hand() -> None:
    embed, z, mlp = cut_by_hand("patching")
    assert embed == [[2, 4, 9], [6, 2, 0]]
    assert z.tolist() == [Z[0][2], Z[1][1]]
    assert mlp.tolist() == [MLP[0][2], MLP[1][1]]


def test_zero_by_hand() -> None:
    embed, z, mlp = cut_by_hand("zero")
    assert embed == [[0, 0, 0], [0, 0, 0]]
    assert z.tolist() == mlp.tolist() == [0, 0]


def test_means_are_over_real_tokens_by_hand() -> None:
    embed, z, mlp = cut_by_hand("mean")
    assert embed == [[23 / 5] * 3] * 2  # 2 + 4 + 9 + 6 + 2, and no padding
    assert z.tolist() == [sum(Z[0] + Z[1]) / 5] * 2
    assert mlp.tolist() == [sum(MLP[0] + MLP[1]) / 5] * 2


def test_positional_means_by_hand() -> None:
    embed, z, mlp = cut_by_hand("mean-positional")
    assert embed == [[4, 3, 9], [4, 3, 9]]
    assert z.tolist() == [5, 3.5]  # position 2 of the longer prompt alone, position 1 of both
    assert mlp.tolist() == [18.5, 9.5]


def test_streams_by_hand() -> None:
    kept = cut_values(one_number_model(), [PAIRS], "zero")(PAIRS)
    assert kept.attention_sum[0].flatten().tolist() == [0.5, 0.5]  # the output bias is never cut
    assert kept.mlp_in[0].flatten().tolist() == kept.final.flatten().tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_cut_values_are_the_literal_ones(kind: str, intervention: str) -> None:
    model = tiny(kind)
    transformer = adapt(model.model)
    kept = cut_values(transformer, RAGGED.batches(2), intervention)(RAGGED)
    graph, last = transformer.graph, len(transformer.blocks) - 1
    for row, values in enumerate(edges.cut_values(model.literal, prompts_of(RAGGED), intervention)):
        answer = int(RAGGED.positions[row])
        n = answer + 1
        assert_same(kept.embed[row, :n], values["input"][:n])
        for layer in range(last + 1):
            ours = slice(0, 1) if layer == last else slice(0, n)  # the last layer holds the answer row alone
            theirs = slice(answer, n) if layer == last else slice(0, n)
            for head in range(graph.n_heads):
                written = kept.z[layer][row, ours, head] @ transformer.blocks[layer].attention.W_O[head]
                assert_same(written, values[f"a{layer}.h{head}"][theirs])
            if graph.mlps:
                assert_same(kept.mlp_out[layer][row, ours], values[f"m{layer}"][theirs])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_streams_are_the_sums_of_their_sources(kind: str, intervention: str) -> None:
    model = tiny(kind)
    transformer = adapt(model.model)
    kept = cut_values(transformer, [RAGGED], intervention)(RAGGED)
    prompts = prompts_of(RAGGED)
    for row, (prompt, cut) in enumerate(zip(prompts, edges.cut_values(model.literal, prompts, intervention))):
        n = prompt.position + 1
        for layer in range(len(transformer.blocks)):
            assert_same(kept.attention_in[layer][row, :n], stream(model.literal, cut, layer)[:n])
        assert_same(kept.final[row, 0], stream(model.literal, cut, layer + 1)[prompt.position])


def stream(model: object, cut: dict[str, Tensor], n_layers: int) -> Tensor:
    """The residual stream after some layers when every source has its cut value."""
    total = cut["input"]
    for layer in range(n_layers):
        total = total + model.attention_out(layer, sum(cut[f"a{layer}.h{head}"] for head in range(model.n_heads)))
        total = total + cut[f"m{layer}"] if model.mlps else total
    return total


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("intervention", ["mean", "mean-positional"])
def test_means_do_not_depend_on_the_batches(intervention: str) -> None:
    transformer = adapt(tiny("gpt2").model)
    kept = [cut_values(transformer, RAGGED.batches(size), intervention)(RAGGED) for size in (None, 1, 3)]
    for other in kept[1:]:
        torch.testing.assert_close(other.final, kept[0].final, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(other.embed, kept[0].embed, rtol=1e-13, atol=1e-13)


def test_means_are_summed_in_float64() -> None:
    model = one_number_model()
    halved = Transformer(
        model.graph, lambda tokens: tokens[..., None].half(), _half(model.blocks), None, model.W_U.half(), None
    )
    pairs = PromptPairs([[0] * 100] * 3, [[1000] * 100] * 3)  # the sum, 300,000, is beyond float16
    kept = cut_values(halved, [pairs], "mean")(pairs)
    assert kept.embed.dtype == torch.float16
    assert kept.embed.unique().tolist() == [1000]


def _half(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    halves = []
    for block in blocks:
        parts = {
            name: value.half() if isinstance(value, Tensor) else value for name, value in vars(block.attention).items()
        }
        mlp = {name: value.half() if isinstance(value, Tensor) else value for name, value in vars(block.mlp).items()}
        halves.append(Block(None, Attention(**parts), None, Mlp(**mlp)))
    return tuple(halves)


# Small things


def test_tokens_after_the_last_answer_are_dropped() -> None:
    pairs = PromptPairs([[1, 2, 3, 4], [5, 6, 7]], [[1, 2, 3, 4], [5, 6, 7]], positions=[1, 2])
    assert trimmed(pairs.clean, pairs).tolist() == [[1, 2, 3], [5, 6, 7]]
    assert answer_rows(pairs).tolist() == [[1], [2]]


def test_refuses_an_unknown_intervention(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="intervention: expected one of 'patching', .*, got 'resample'"):
        check_intervention("resample")


@pytest.mark.parametrize("name", ["answers", "wrong_answers"])
def test_an_answer_beyond_the_vocabulary_is_refused_with_its_row(name: str) -> None:
    """Rows are those of the pairs that were given, whatever batches they are in."""
    answers = {"answers": [[1], [2], [3]], "wrong_answers": [[4], [5], [6]]}
    answers[name][2] = [7, D_VOCAB]
    pairs = PromptPairs([[1, 2, 3], [4, 5], [6]], [[1, 2, 4], [4, 6], [7]], **answers)
    model = tiny("gpt2").model
    message = (
        f"{name}: expected ids below the model's {D_VOCAB} logits, got {D_VOCAB} in row 2; take this model's tokenizer"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        run(model, Circuit.full(Graph.from_model(model)), pairs, batch_size=1)


def test_patching_between_identical_prompts_warns_and_other_interventions_do_not() -> None:
    model = tiny("gpt2").model
    pairs = PromptPairs([[1, 2], [3, 4], [5]], [[1, 2], [3, 5], [5]])
    empty, full = Circuit.empty(Graph.from_model(model)), Circuit.full(Graph.from_model(model))
    with pytest.warns(UserWarning, match="pairs: 2 of 3 have the same clean and corrupted prompt, where cutting"):
        changed = (run(model, empty, pairs) - run(model, full, pairs)).abs().amax(1)
    assert (changed > 1e-4).tolist() == [False, True, False]
    with warnings.catch_warnings(action="error"):
        changed = (run(model, empty, pairs, "zero") - run(model, full, pairs, "zero")).abs().amax(1)
    assert (changed > 1e-4).all()
