"""Curves of feature circuits: their ends, and single points against runs."""

from __future__ import annotations

import pytest
import torch
from models import curved, prompt_pairs, tiny

from edge_circuits.eap.feature_scores import score_features
from edge_circuits.graphs.features.dictionary import heads, neurons
from edge_circuits.graphs.features.measuring import feature_curves
from edge_circuits.graphs.features.running import run_features

EVEN = prompt_pairs([6, 6, 6, 6], seed=3)


def test_a_curve_goes_from_nothing_to_the_model_and_its_points_are_runs() -> None:
    model = tiny("gpt2").model
    dictionaries = [*heads(model), *neurons(model)]
    scores = score_features(model, dictionaries, EVEN, curved, "eap", quiet=True)
    sizes = (0, 5, 40, len(scores))
    curve = feature_curves(model, dictionaries, {"eap": scores}, EVEN, curved, sizes, "patching")["eap"]
    assert curve.sizes == sizes
    assert (curve.faithfulness[0], curve.completeness[0]) == (0, 1)
    assert curve.faithfulness[-1] == pytest.approx(1, abs=1e-9) and abs(curve.completeness[-1]) < 1e-9
    for point, complement, values in ((1, False, curve.values), (2, True, curve.complements)):
        nodes = scores.top(sizes[point])
        expected = curved(run_features(model, dictionaries, nodes, EVEN, complement=complement), EVEN)
        assert torch.allclose(values[point], expected.double(), atol=1e-12)
    half = (curve.values[2].mean() - curve.ends.corrupted.mean()) / (
        curve.ends.clean.mean() - curve.ends.corrupted.mean()
    )
    assert curve.faithfulness[2] == pytest.approx(half.item())


def test_a_metric_that_cutting_does_not_change_is_refused() -> None:
    model = tiny("gpt2").model
    scores = score_features(model, heads(model), EVEN, curved, "eap", quiet=True)

    def constant(logits: torch.Tensor, pairs: object) -> torch.Tensor:
        return logits.new_ones(len(logits))

    with pytest.raises(ValueError, match="expected different means"):
        feature_curves(model, heads(model), {"eap": scores}, EVEN, constant, (1,))
