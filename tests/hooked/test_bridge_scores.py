"""The committed scores are those of the bridge, so that a HookedTransformer is held against what is current."""

from __future__ import annotations

import families
import numpy
import pytest
import torch
from make_bridge_scores import FILE, bridge

if families.HAS_HOOKED_TRANSFORMER:
    pytest.skip("bridge_scores.npz is made with TransformerLens 4", allow_module_level=True)


@pytest.mark.parametrize("kind", families.KINDS)
def test_committed_scores_are_the_bridges(kind: str) -> None:
    with numpy.load(FILE) as committed:
        for name, value in families.measured(bridge(kind)).items():
            assert families.relative_error(value, torch.from_numpy(committed[f"{kind}/{name}"])) < 1e-5, name


def test_committed_scores_are_of_different_models() -> None:
    with numpy.load(FILE) as committed:
        assert len({committed[f"{kind}/eap"].tobytes() for kind in families.KINDS}) == len(families.KINDS)
        assert all(numpy.abs(committed[name]).max() > 1e-3 for name in committed)
