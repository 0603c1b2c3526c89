"""How large a model is, and what scoring it and running its circuits needs.

With b bytes a number, T tokens in a batch, L layers, widths d (stream) and f (MLP):

- weights: b for each parameter, of all experts where tokens are routed; f is then the width of the experts of a token together;
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
from typing import Any

from edge_circuits.graphs import Graph
from edge_circuits.graphs.checks import refusal, whole_number
from edge_circuits.graphs.files.documents import parsed, reading
from edge_circuits.graphs.files.json_format import check_size

STREAM_NUMBERS, MLP_NUMBERS, RUN_NUMBERS = 24, 3.2, 8  # a token and layer, in units of d and f
NOT_GATED = ("gpt2", "gpt_neox", "gptj", "gpt_neo", "opt", "falcon", "bloom", "mpt", "phi")
BYTES = {"float32": 4, "bfloat16": 2}
MOST = 10**8  # of anything that is counted


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes:
        d_mlp: Width of the MLP, gated or not; of one expert where tokens are routed.
        tied: The embedding is the unembedding too.
        parallel: Attention and MLP of a layer read the same stream, so that there are fewer edges.
        n_experts, n_chosen: MLPs in a layer, and how many of them a token goes to.
        n_dense, d_dense: Layers that have one MLP all the same, and its width.
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
    parallel: bool = False
    n_experts: int = 1
    n_chosen: int = 1
    n_dense: int = 0
    d_dense: int = 0

    @property
    def attention_weights(self) -> int:
        """Weights of all attention layers."""
        return self.n_layers * 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads)

    @property
    def mlp_weights(self) -> int:
        """Weights of one MLP in every layer, or of one expert in every routed one."""
        return (self.n_layers - self.n_dense) * (3 if self.gated else 2) * self.d_model * self.d_mlp

    @property
    def dense_weights(self) -> int:
        """Weights of the MLPs of layers that are not routed, where others are."""
        return self.n_dense * (3 if self.gated else 2) * self.d_model * self.d_dense

    @property
    def router_weights(self) -> int:
        """Weights that send tokens to experts."""
        return (self.n_layers - self.n_dense) * self.d_model * self.n_experts if self.n_experts > 1 else 0

    @property
    def token_weights(self) -> int:
        """Weights of all layers that a token meets, without biases and norms."""
        return self.attention_weights + self.router_weights + self.dense_weights + self.n_chosen * self.mlp_weights

    @property
    def weights(self) -> int:
        """Weights in all."""
        unmet = (self.n_experts - self.n_chosen) * self.mlp_weights
        return self.token_weights + unmet + (1 if self.tied else 2) * self.d_vocab * self.d_model

    @property
    def graph(self) -> Graph:
        """Its edges."""
        return Graph(n_layers=self.n_layers, n_heads=self.n_heads, parallel=self.parallel)

    def scoring_bytes(self, n_tokens: int, token_chunk: int, width: int) -> float:
        """Memory of scoring a batch, weights not counted, for numbers of `width` bytes."""
        hidden = max(self.d_mlp * self.n_chosen, self.d_dense)
        passes = width * n_tokens * self.n_layers * (STREAM_NUMBERS * self.d_model + MLP_NUMBERS * hidden)
        chunk = 4 * min(token_chunk, n_tokens) * self.d_model * (self.graph.n_sources + 3 * self.n_heads + 1)
        return passes + chunk + 4 * self.attention_weights / self.n_layers

    def circuit_bytes(self, n_tokens: int, width: int) -> float:
        """Memory of a cached run on a batch, weights not counted."""
        return width * n_tokens * self.d_model * (self.graph.n_sources + self.n_heads + RUN_NUMBERS * self.n_layers)

    def bytes_needed(self, n_tokens: int, token_chunk: int, width: int) -> dict[str, float]:
        """Memory of the weights, and what scoring and circuits need beside them."""
        scoring, circuit = self.scoring_bytes(n_tokens, token_chunk, width), self.circuit_bytes(n_tokens, width)
        return {"weights": width * self.weights, "scoring": scoring, "circuit": circuit}

    @property
    def plain_operations(self) -> float:
        """Of two forward passes and a backward pass, a token."""
        return 6.0 * self.token_weights

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
    "gpt-j-6b": Size(28, 16, 16, 4096, 16384, 50400, 256, gated=False, parallel=True),
    "gpt-oss-20b": Size(24, 64, 8, 2880, 2880, 201088, 64, n_experts=32, n_chosen=4),
    "mixtral-8x7b": Size(32, 32, 8, 4096, 14336, 32000, 128, n_experts=8, n_chosen=2),
    "llama-3.1-70b": Size(80, 64, 8, 8192, 28672, 128256, 128),
}


def size_of(name: str) -> Size:
    """A size that is known, or that of a directory's config.json.

    Raises:
        ValueError: It is neither, or its config.json is torn or says what cannot be; the message names the file.
    """
    if name in SIZES:
        return SIZES[name]
    path = Path(name) / "config.json"
    if not path.is_file():
        raise refusal("size", f"one of {', '.join(SIZES)} or a directory with config.json", repr(name))
    from transformers import AutoConfig

    with reading(path, "copy it again"):
        parsed(path.read_bytes())  # bounded, before others read it
        size = _size(AutoConfig.from_pretrained(name, local_files_only=True))
        for field, value in vars(size).items():
            if not isinstance(value, bool):
                whole_number(field, value, 0 if "dense" in field else 1, MOST)
        check_size(size.graph)
    return size


def _size(config: Any) -> Size:
    """What a configuration says."""
    heads, width = config.num_attention_heads, config.hidden_size
    widths = ("moe_intermediate_size", "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
    n_dense = _n_dense(config)
    return Size(
        n_layers=config.num_hidden_layers,
        n_heads=heads,
        n_kv_heads=1 if getattr(config, "multi_query", False) else _said(config, heads, "num_key_value_heads"),
        d_model=width,
        d_mlp=_said(config, 4 * width, *widths),
        d_vocab=config.vocab_size,
        d_head=_said(config, width // heads, "head_dim"),
        gated=config.model_type not in NOT_GATED,
        tied=bool(config.tie_word_embeddings),
        parallel=_is_parallel(config),
        n_experts=_said(config, 1, "num_local_experts", "num_experts"),
        n_chosen=getattr(config, "num_experts_per_tok", 1),
        n_dense=n_dense,
        d_dense=config.intermediate_size if n_dense else 0,
    )


def _said(config: Any, otherwise: int, *names: str) -> int:
    """The first of these settings that there is and is not 0."""
    return next((each for name in names if (each := getattr(config, name, None))), otherwise)


def _n_dense(config: Any) -> int:
    """How many layers of a routed model are not (Qwen3-MoE)."""
    every, dense = getattr(config, "decoder_sparse_step", 1), getattr(config, "mlp_only_layers", ())
    return sum(layer in dense or (layer + 1) % every != 0 for layer in range(config.num_hidden_layers))


def _is_parallel(config: Any) -> bool:
    """Whether attention and MLP of a layer read the same stream; some families leave it to a setting."""
    settings = {"gpt_neox": "use_parallel_residual", "stablelm": "use_parallel_residual", "falcon": "parallel_attn"}
    if (setting := settings.get(config.model_type)) is not None:
        return bool(getattr(config, setting))
    return config.model_type in ("gptj", "phi", "cohere", "cohere2")
