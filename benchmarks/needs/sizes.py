"""How large a model is, and what scoring it and running its circuits needs.

With b bytes a number, T tokens in a batch, L layers, widths d (stream) and f (MLP):

- weights: b for each parameter;
- scoring keeps, for the backward pass, the corrupted run and the gradients, at most b T L (24 d + 3.2 f) (measured), and then in
  float32, for a chunk of C tokens, d numbers for each source and for each destination of a layer, and a layer's attention weights;
- a cached run (exact patching, ACDC, minimality) keeps every source's change, b T d (sources), those of a layer twice, and
  the corrupted run, 8 b T L d; exact patching keeps one at a time, ACDC one for each batch of its process;
- plain passes do 6 operations for each weight of the blocks and token (two forward passes; backward to the stream alone);
  scoring adds 2 d for each edge and token, and 8 for each weight of attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_circuits.graphs import Graph
from edge_circuits.graphs.checks import refusal

STREAM_NUMBERS, MLP_NUMBERS, RUN_NUMBERS = 24, 3.2, 8  # a token and layer, in units of d and f
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        d_mlp: Width of the MLP, gated or not.
        tied: The embedding is the unembedding too.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_mlp: int
    d_vocab: int
    d_head: int
    gated: bool = True
    tied: bool = False

    @property
    def attention_weights(self) -> int:
        """Weights of all attention layers."""
        return self.n_layers * 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads)

    @property
    def block_weights(self) -> int:
        """Weights of all layers, without biases and norms."""
        return self.attention_weights + self.n_layers * (3 if self.gated else 2) * self.d_model * self.d_mlp

    @property
    def weights(self) -> int:
        """Weights in all."""
        return self.block_weights + (1 if self.tied else 2) * self.d_vocab * self.d_model

    @property
    def graph(self) -> Graph:
        """Its edges."""
        return Graph(n_layers=self.n_layers, n_heads=self.n_heads)

    def scoring_bytes(self, n_tokens: int, token_chunk: int, width: int) -> float:
        """Memory of scoring a batch, weights not counted, for numbers of `width` bytes."""
        passes = width * n_tokens * self.n_layers * (STREAM_NUMBERS * self.d_model + MLP_NUMBERS * self.d_mlp)
        chunk = 4 * min(token_chunk, n_tokens) * self.d_model * (self.graph.n_sources + 3 * self.n_heads + 1)
        return passes + chunk + 4 * self.attention_weights / self.n_layers

    def circuit_bytes(self, n_tokens: int, width: int) -> float:
        """Memory of a cached run on a batch, weights not counted."""
        return width * n_tokens * self.d_model * (self.graph.n_sources + self.n_heads + RUN_NUMBERS * self.n_layers)

    @property
    def plain_operations(self) -> float:
        """Of two forward passes and a backward pass, a token."""
        return 6.0 * self.block_weights

    @property
    def scoring_operations(self) -> float:
        """Of scoring by EAP or RelP, a token."""
        return self.plain_operations + 2.0 * self.graph.n_edges * self.d_model + 8.0 * self.attention_weights


SIZES = {
    "gpt2": Size(12, 12, 12, 768, 3072, 50257, 64, gated=False, tied=True),
    "170m": Size(8, 16, 16, 1024, 2816, 32000, 64),
    "600m": Size(12, 16, 16, 2048, 5504, 32000, 128),
    "llama-3.2-1b": Size(16, 32, 8, 2048, 8192, 128256, 64, tied=True),
    "llama-2-7b": Size(32, 32, 32, 4096, 11008, 32000, 128),
    "llama-3.1-8b": Size(32, 32, 8, 4096, 14336, 128256, 128),
    "llama-2-13b": Size(40, 40, 40, 5120, 13824, 32000, 128),
    "llama-3.1-70b": Size(80, 64, 8, 8192, 28672, 128256, 128),
}


def size_of(name: str) -> Size:
    """A size that is known, or that of a directory's config.json.

    Raises:
        ValueError: It is neither.
    """
    if name in SIZES:
        return SIZES[name]
    if not (Path(name) / "config.json").is_file():
        raise refusal("size", f"one of {', '.join(SIZES)} or a directory with config.json", repr(name))
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, local_files_only=True)
    heads, width = config.num_attention_heads, config.hidden_size
    return Size(
        n_layers=config.num_hidden_layers,
        n_heads=heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        d_model=width,
        d_mlp=getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width,
        d_vocab=config.vocab_size,
        d_head=getattr(config, "head_dim", None) or width // heads,
        gated=config.model_type not in ("gpt2", "gpt_neox"),
        tied=bool(config.tie_word_embeddings),
    )
