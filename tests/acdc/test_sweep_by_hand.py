"""A model small enough to sweep by hand: one head, one token, four edges that do something.

The prompt is the token 0 (clean) or 1 (corrupted). The embedding of token 0 is (1, 0), that of token 1 is 0. The head
writes three times what it reads through <v>, so the logit of token 0 is `direct * input + 3 * input`, and the metric is
that logit: 4 clean and 0 corrupted with direct = 1. One token attends to itself alone, so <q> and <k> change nothing.

Edges in the published order: a0.h0->logits, input->logits, input-><v>, input-><k>, input-><q>.
"""

from __future__ import annotations

import pytest
import torch
from models import native

from edge_circuits import acdc
from edge_circuits.graphs import PromptPairs

PAIRS = PromptPairs([[0]], [[1]], [0], [1])
HEAD, DIRECT, V, K, Q = "a0.h0->logits", "input->logits", "input->a0.h0<v>", "input->a0.h0<k>", "input->a0.h0<q>"


def first_logit(logits, pairs):
    return logits[:, 0]


def model(direct):
    bridge = native(
        n_layers=1, n_heads=1, d_model=2, d_head=2, d_vocab=2, n_ctx=2, attn_only=True, normalization_type=None
    )
    weights = {
        name.replace("_original_component.", ""): weight for name, weight in bridge.original_model.named_parameters()
    }
    for weight in weights.values():
        weight.data.zero_()
    weights["tok_embed.weight"].data[0, 0] = 1.0
    weights["layers.0.attn.v.weight"].data[0, 0] = 1.0
    weights["layers.0.attn.o.weight"].data[1, 0] = 3.0  # what the head writes
    weights["head.weight"].data[0] = torch.tensor([direct, 1.0])
    return bridge


def sweep(threshold, direct=1.0, change="signed"):
    return acdc.discover(model(direct), PAIRS, first_logit, threshold, change=change, quiet=True).trace


def rows(trace):
    return [(each.edge, each.value_before, each.value_after, each.kept) for each in trace.decisions]


def test_a_threshold_between_the_effects():
    assert rows(sweep(2.0)) == [
        (HEAD, -4.0, -1.0, True),  # rises by 3
        (DIRECT, -4.0, -3.0, False),  # by 1
        (V, -3.0, 0.0, True),  # by 3
        (K, -3.0, -3.0, False),
        (Q, -3.0, -3.0, False),
    ]


def test_a_threshold_below_the_effects():
    assert rows(sweep(0.5)) == [
        (HEAD, -4.0, -1.0, True),
        (DIRECT, -4.0, -3.0, True),
        (V, -4.0, -1.0, True),
        (K, -4.0, -4.0, False),
        (Q, -4.0, -4.0, False),
    ]


def test_a_threshold_above_the_effects():
    trace = sweep(5.0)
    assert rows(trace) == [
        (HEAD, -4.0, -1.0, False),
        (DIRECT, -1.0, 0.0, False),
        (V, 0.0, None, False),  # the head is read by nothing
        (K, 0.0, None, False),
        (Q, 0.0, None, False),
    ]
    assert (trace.n_tried, trace.n_kept, trace.value) == (2, 0, 0.0)


def test_an_effect_equal_to_the_threshold_stays():
    assert [each.edge for each in sweep(1.0).decisions if each.kept] == [HEAD, DIRECT, V]


def test_zero_keeps_what_changes_nothing():
    trace = sweep(0.0)
    assert trace.circuit.n_edges == 5
    assert [each.near_tie for each in trace.decisions] == [False, False, False, True, True]


def test_an_edge_that_harms_goes_when_signed_and_stays_when_absolute():
    signed, absolute = sweep(0.5, direct=-1.0), sweep(0.5, direct=-1.0, change="absolute")
    assert rows(signed)[1] == (DIRECT, -2.0, -3.0, False)
    assert rows(absolute)[1] == (DIRECT, -2.0, -3.0, True)


def test_the_circuit_is_what_stays():
    circuit = sweep(2.0).circuit
    assert set(circuit.edges) == {HEAD, V}
    assert circuit.is_live


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("-inf"), True, "0.1", None])
def test_what_is_no_threshold_is_refused(threshold, without_type_checks):
    with pytest.raises(ValueError, match="threshold: expected a number from 0 to infinity, got"):
        sweep(threshold)


def test_a_metric_that_becomes_nan_names_the_edge():
    def nan_without_direct(logits, pairs):
        return logits[:, 0].where(logits[:, 0] != 3.0, float("nan"))

    with pytest.raises(
        ValueError,
        match="metric nan_without_direct: expected a finite mean over prompts, got nan with input->logits cut",
    ):
        acdc.discover(model(1.0), PAIRS, nan_without_direct, 2.0, quiet=True)


def test_what_the_sweep_never_comes_to_may_be_nan():
    """With the head kept, both edges into `logits` are never cut together, which is only tried in advance."""

    def nan_without_both(logits, pairs):
        return logits[:, 0].where(logits[:, 0] != 0.0, float("nan"))

    with pytest.raises(ValueError, match="got nan with input->a0.h0<v> cut"):
        acdc.discover(model(1.0), PAIRS, nan_without_both, 2.0, quiet=True)


def test_a_metric_that_is_nan_from_the_start():
    with pytest.raises(
        ValueError, match="metric <lambda>: expected a finite mean over prompts, got nan with the circuit at the start"
    ):
        acdc.discover(model(1.0), PAIRS, lambda logits, pairs: logits[:, 0] * float("nan"), 2.0, quiet=True)


def test_a_metric_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"metric <lambda> must return one value a prompt, shape \(1,\); got \(\)"):
        acdc.discover(model(1.0), PAIRS, lambda logits, pairs: logits.sum(), 2.0, quiet=True)


def test_other_settings_are_refused(without_type_checks):
    for settings, message in [
        (dict(change="squared"), "change: expected one of 'signed', 'absolute', got 'squared'"),
        (dict(intervention="noise"), "intervention: expected one of 'patching'"),
        (dict(stacked_tokens=0), "stacked_tokens: expected a whole number from 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            acdc.discover(model(1.0), PAIRS, first_logit, 2.0, quiet=True, **settings)
    with pytest.raises(
        ValueError, match="metric: expected one of 'kl', 'logit_difference', .*, got 'loss'; or give a function"
    ):
        acdc.discover(model(1.0), PAIRS, "loss", 2.0, quiet=True)
