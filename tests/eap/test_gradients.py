"""Gradients at the readers: of the right shape, at the right place, and what a metric may not return."""

from __future__ import annotations

import pytest
import torch
from models import KINDS, RAGGED, logit_difference, tiny
from torch import Tensor

from edge_circuits.eap.gradients import Gradients, differentiate
from edge_circuits.graphs.metrics import check_values
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.prompts.pairs import PromptPairs

BATCH = RAGGED[[0, 1]]  # 8 and 5 tokens, answers at 7 and 0


def gradients(kind: str, metric: object = logit_difference) -> Gradients:
    transformer = adapt(tiny(kind).model)
    return differentiate(transformer, transformer.embed(BATCH.clean), BATCH, metric)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind: str) -> None:
    transformer, point = adapt(tiny(kind).model), gradients(kind)
    graph, d_head, d_model = transformer.graph, transformer.blocks[0].attention.W_Q.shape[2], transformer.W_U.shape[0]
    for layer in range(graph.n_layers):
        rows = 1 if layer == graph.n_layers - 1 else 8
        assert point.q[layer].shape == (2, rows, graph.n_heads, d_head)
        assert point.k[layer].shape == point.v[layer].shape == (2, 8, graph.n_heads, d_head)
        if graph.mlps:
            assert point.mlp_in[layer].shape == (2, rows, d_model)
    assert len(point.mlp_in) == graph.mlps * graph.n_layers
    assert point.final.shape == (2, 1, d_model)
    assert not any(
        tensor.requires_grad for tensor in (*point.q, *point.activations.z, point.activations.final, point.values)
    )


def test_values_are_the_metric_of_the_model() -> None:
    logits = tiny("gpt2").model(BATCH.clean)[torch.arange(2), BATCH.positions]
    torch.testing.assert_close(gradients("gpt2").values, logit_difference(logits, BATCH), check_dtype=False)


def test_nothing_flows_back_from_after_the_answer() -> None:
    point = gradients("gpt2")
    for each in (*point.k, *point.v, *point.q[:-1], *point.mlp_in[:-1]):
        assert (each[1, 1:] == 0).all()  # the second prompt's answer is read at its first token
        assert (each[0] != 0).any()


def test_a_reader_that_the_metric_does_not_reach_has_gradient_zero() -> None:
    point = gradients("gpt2", lambda logits, pairs: 0 * logits[:, 0])
    assert all((each == 0).all() for each in (*point.q, *point.k, *point.v, *point.mlp_in, point.final))


def test_the_model_gets_no_gradient() -> None:
    model = tiny("llama").model
    gradients("llama")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_check_values_needs_no_gradient_where_gradients_are_off() -> None:
    def fixed(logits: Tensor, pairs: PromptPairs) -> Tensor:
        return torch.zeros(len(pairs))

    with torch.no_grad():
        check_values(torch.zeros(len(BATCH)), BATCH, fixed)
    with (
        torch.enable_grad(),
        pytest.raises(ValueError, match="metric fixed: expected a differentiable function of the logits"),
    ):
        check_values(torch.zeros(len(BATCH)), BATCH, fixed)
