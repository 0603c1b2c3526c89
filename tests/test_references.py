"""The references themselves: a literal model must give the logits of the model whose weights it has."""

from __future__ import annotations

import pytest
import torch
from models import HUGGING_FACE, NATIVE, RAGGED, build, hugging_face, prompts_of, relative_error
from references import edges
from references.hugging_face import literal_of

LONG = max(prompts_of(RAGGED), key=lambda prompt: len(prompt.clean)).clean


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_literal_logits_are_those_of_the_hugging_face_model(kind: str) -> None:
    module = hugging_face(kind)
    literal = literal_of(type(module).__name__, module.state_dict(), module.config)
    with torch.no_grad():
        expected = module.double()(torch.tensor([LONG])).logits[0]
    # Hugging Face takes RMS norms and softmax in float32 whatever the model's type; LayerNorm models are float64.
    tolerance = 1e-12 if kind.startswith(("gpt2", "neox")) else 2e-6
    assert relative_error(edges.logits(literal, LONG), expected) < tolerance


@pytest.mark.parametrize("kind", NATIVE)
def test_literal_logits_are_those_of_the_native_model(kind: str) -> None:
    tiny = build(kind, torch.float64)
    with torch.no_grad():
        expected = tiny.model(torch.tensor([LONG]))[0]
    assert relative_error(edges.logits(tiny.literal, LONG), expected) < 2e-6
