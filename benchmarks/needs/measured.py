"""What random models really take, beside what `edge_circuits.benchmarks.needs` says: `python -m edge_circuits.benchmarks.needs --measure`.

Each size is a Llama with random weights in a process of its own, on the CPU with one thread. Memory is what a call adds to the
process at its peak, read from Linux' /proc.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch
from torch import nn

from edge_circuits import eap
from edge_circuits.benchmarks.needs.sizes import BYTES, Size
from edge_circuits.benchmarks.speed import memory as process_memory
from edge_circuits.benchmarks.speed.setup import Setup, plain_passes
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import logit_difference
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.cached_run import CachedRun
from edge_circuits.graphs.running.patching import cut_values

PROMPT_LENGTH = 64


def report(sizes: Mapping[str, Size], n_tokens: int, token_chunk: int, dtype: str) -> None:
    """Measure and print each size."""
    print(
        "\nmeasured: memory in GB, and as a share of the estimate; seconds of plain passes, and of scoring as a ratio to them"
    )
    print(f"{'':16}{'weights':>18}{'scoring':>18}{'circuit':>18}{'plain s':>10}{'scoring / plain':>18}")
    for name, size in sizes.items():
        asked = json.dumps({"size": asdict(size), "n_tokens": n_tokens, "token_chunk": token_chunk, "dtype": dtype})
        command = [sys.executable, "-m", "edge_circuits.benchmarks.needs.measured", asked]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found, expected = json.loads(told.splitlines()[-1]), size.bytes_needed(n_tokens, token_chunk, BYTES[dtype])
        shown = "".join(f"{found[what] / 1e9:10.2f} ({found[what] / expected[what]:4.2f})" for what in expected)
        ratio = found["scoring_seconds"] / found["plain_seconds"]
        print(f"{name:16}{shown}{found['plain_seconds']:10.1f}{ratio:18.2f}", flush=True)


def measure(size: Size, n_tokens: int, token_chunk: int, dtype: torch.dtype) -> dict[str, float]:
    """Bytes and seconds of one size, in this process."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    torch.set_num_threads(1)
    plain_model = random_llama(size, dtype)
    n_prompts = max(1, n_tokens // PROMPT_LENGTH)
    clean, corrupted = torch.randint(size.d_vocab, (2, n_prompts, min(n_tokens, PROMPT_LENGTH)))
    pairs = PromptPairs(clean, corrupted, [1] * n_prompts, [2] * n_prompts)
    found = {"weights": sum(parameter.nbytes for parameter in plain_model.parameters())}
    _, found["plain_seconds"] = _taken(plain_passes(Setup(plain_model, None, pairs, "cpu")))
    model = build_bridge_from_module(plain_model, "LlamaForCausalLM", hf_config=plain_model.config)
    transformer = adapt(model)
    score = dict(method="eap", token_chunk=token_chunk, batch_size=n_prompts, quiet=True)
    found["scoring"], found["scoring_seconds"] = _taken(lambda: eap.score(model, pairs, logit_difference, **score))

    @torch.no_grad()
    def cached() -> CachedRun:
        cut = cut_values(transformer, [pairs], "patching")(pairs)
        return CachedRun(transformer, transformer.graph.edge_mask, pairs, cut)

    found["circuit"], _ = _taken(cached)
    return found


def random_llama(size: Size, dtype: torch.dtype) -> nn.Module:
    """A Llama of that size with random weights, made in its type at once."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.initialization import no_init_weights

    counts = dict(
        num_hidden_layers=size.n_layers, num_attention_heads=size.n_heads, num_key_value_heads=size.n_kv_heads
    )
    widths = dict(hidden_size=size.d_model, intermediate_size=size.d_mlp, vocab_size=size.d_vocab, head_dim=size.d_head)
    kind = dict(tie_word_embeddings=size.tied, attn_implementation="sdpa", dtype=dtype)
    config = LlamaConfig(**counts, **widths, **kind)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.02) if parameter.dim() > 1 else parameter.data.fill_(1.0)
    return model.eval().requires_grad_(False)


def _taken(call: Callable[[], object]) -> tuple[float, float]:
    """Bytes that a call adds at its peak, and seconds, in its second run."""
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what the first run has freed
    before = process_memory.resident()
    process_memory.forget_peak()
    began = time.perf_counter()
    call()
    return process_memory.peak() - before, time.perf_counter() - began


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    asked |= {"size": Size(**asked["size"]), "dtype": getattr(torch, asked["dtype"])}
    print(json.dumps(measure(**asked)))
