"""The model and prompts that running times are measured on, and the bare passes that are their unit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import logit_difference


@dataclass(frozen=True)
class Setup:
    """A Hugging Face model as it comes, the same one bridged, and one batch of random prompts."""

    plain_model: nn.Module
    model: nn.Module
    pairs: PromptPairs
    device: str

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def make_setup(
    shape: str, device: str = "cpu", dtype: torch.dtype = torch.float32, layers: int = 12, alike: int = 0
) -> Setup:
    """A model of GPT-2 small's size with random weights; `shape` is prompts x tokens, such as "8x16".

    Clean and corrupted prompts are equal in the first `alike` tokens.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    n_pairs, n_tokens = (int(number) for number in shape.split("x"))
    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, attn_implementation="sdpa")
    plain = GPT2LMHeadModel(config).to(device, dtype).eval().requires_grad_(False)
    bridged = copy.deepcopy(plain)
    model = build_bridge_from_module(bridged, "GPT2LMHeadModel", hf_config=bridged.config)
    clean, corrupted = (torch.randint(config.vocab_size, (n_pairs, n_tokens)) for _ in range(2))
    corrupted[:, :alike] = clean[:, :alike]
    answers = torch.randint(config.vocab_size, (n_pairs, 2)).tolist()
    pairs = PromptPairs(clean, corrupted, [a for a, _ in answers], [b for _, b in answers]).to(device)
    return Setup(plain, model, pairs, device)


def plain_passes(setup: Setup) -> Callable[[], object]:
    """Two forward passes and one backward pass of the Hugging Face model."""

    def passes() -> None:
        with torch.no_grad():
            setup.plain_model(setup.pairs.corrupted, use_cache=False)
        _forward_backward(setup)

    return passes


def forward_backward(setup: Setup) -> Callable[[], object]:
    """One forward and one backward pass of the Hugging Face model."""
    return lambda: _forward_backward(setup)


def _forward_backward(setup: Setup) -> Tensor:
    embed = setup.plain_model.get_input_embeddings()(setup.pairs.clean).requires_grad_()
    logits = setup.plain_model(inputs_embeds=embed, use_cache=False).logits
    rows = torch.arange(len(setup.pairs), device=setup.device)
    return torch.autograd.grad(logit_difference(logits[rows, setup.pairs.positions], setup.pairs).sum(), embed)[0]
