"""A circuit as a function of tokens: its logits on prompts that nobody prepared, and text that it generates.

What cut edges read is fixed once, from a reference set of prompts (`mean`, `mean-positional`) or without one (`zero`); under
`patching` corrupted prompts come along with every call. A call costs the circuit's live nodes, as `edge_circuits.run` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from edge_circuits.graphs.checks import number, refusal, whole_number
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.prompts.pairs import PromptPairs, check_pairs
from edge_circuits.graphs.running.execution import MAX_TOKENS, adapted_for, run_batch, run_everywhere
from edge_circuits.graphs.running.patching import (
    Cut,
    FixedMeans,
    Intervention,
    SourceValues,
    check_intervention,
    constant_cut,
    cut_values,
    source_values,
)
from edge_circuits.graphs.running.plan import Plan, make_plan
from edge_circuits.graphs.surroundings import in_plain_surroundings

if TYPE_CHECKING:
    from transformers.modeling_outputs import CausalLMOutput


@in_plain_surroundings
def as_model(
    model: nn.Module, circuit: Circuit, pairs: PromptPairs | None = None, intervention: Intervention = "mean"
) -> CircuitModel:
    """A circuit as a function with the model's signature.

        circuit_model = ec.as_model(model, circuit, pairs)
        logits = circuit_model(tokens)                                                # [batch pos d_vocab]
        logits = circuit_model(input_ids=ids, attention_mask=mask).logits             # as of a Hugging Face model
        tokens = circuit_model.generate(tokens, max_new_tokens=20)

    Args:
        model: A TransformerLens model; left unchanged. Its weights are read anew on every call.
        circuit: The kept edges; its graph must be the model's.
        pairs: The reference set: means are over its corrupted prompts, as the model has them now. For `mean`, `mean-positional` and
            `mean-tokens` alone.
        intervention: What a cut edge reads; under `patching`, every call brings corrupted prompts.

    Raises:
        ValueError: The circuit is of another graph, the model or intervention is not supported, or a reference set is missing.
    """
    check_intervention(intervention)
    if not isinstance(circuit, Circuit):
        raise refusal(
            "circuit", "a Circuit", type(circuit).__name__, "prune makes a circuit of scores; spans have no place here"
        )
    with torch.no_grad():
        transformer = adapted_for(model, circuit.graph)
    if isinstance(intervention, FixedMeans) or not intervention.startswith("mean"):
        if pairs is not None:
            given = f"None under {intervention!r}, which takes no means of it"
            raise refusal("pairs", given, "a reference set", "leave it out")
        values = None if intervention == "patching" else source_values(transformer, [], intervention)
        return CircuitModel(model, circuit, intervention, values)
    if pairs is None:
        raise refusal("pairs", f"a reference set for {intervention!r}", "none", "give the prompts to take means over")
    check_pairs(pairs)
    batches = [batch.to(transformer.device) for batch in pairs.batches(max_tokens=MAX_TOKENS)]
    return CircuitModel(model, circuit, intervention, source_values(transformer, batches, intervention))


class CircuitModel:
    """What `as_model` returns.

    Attributes:
        model: The whole model.
        circuit: The kept edges.
        intervention: What a cut edge reads.
    """

    def __init__(
        self, model: nn.Module, circuit: Circuit, intervention: Intervention, values: SourceValues | None
    ) -> None:
        """
        Args:
            values: What sources are cut to; None under `patching`.
        """
        self.model, self.circuit, self.intervention, self._values = model, circuit, intervention, values

    def __repr__(self) -> str:
        return f"CircuitModel({self.circuit.n_edges} of {self.circuit.graph.n_edges} edges, {self.intervention})"

    @in_plain_surroundings
    def __call__(
        self,
        tokens: Int[Tensor, "*batch pos"] | None = None,
        *,
        input_ids: Int[Tensor, "*batch pos"] | None = None,
        attention_mask: Tensor | None = None,
        corrupted: Int[Tensor, "*batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"] | CausalLMOutput:
        """Logits at every position, NaN at padding; differentiable where gradients are enabled.

        Args:
            tokens: Token ids; one prompt may come without its batch axis.
            input_ids: The same by Hugging Face's name; the logits then come as `.logits`, as there.
            attention_mask: 1 at real tokens, 0 at padding, at the left or right; positions count from the first real token.
                None: all are real.
            corrupted: Under `patching`, the corrupted prompts, token by token; refused otherwise.

        Raises:
            ValueError: No tokens or both forms, prompts that cannot be used, or corrupted ones missing or unasked for.
        """
        if (tokens is None) == (input_ids is None):
            raise refusal("tokens and input_ids", "one of the two", "neither" if tokens is None else "both")
        given = input_ids if tokens is None else tokens
        pairs = self._pairs(given, attention_mask, corrupted)
        transformer, plan = self._ready(everywhere=True)
        pairs = pairs.to(transformer.device)
        logits = run_everywhere(transformer, plan, pairs, self._cut(transformer, pairs, True), pairs.clean.shape[1])
        if attention_mask is not None:
            real = _rows(attention_mask).bool().to(logits.device)
            placed = logits.new_full((*real.shape, logits.shape[-1]), torch.nan)
            logits = placed.masked_scatter(real[..., None], logits[pairs.mask])
        if tokens is not None:
            return logits
        from transformers.modeling_outputs import CausalLMOutput

        return CausalLMOutput(logits=logits)

    @in_plain_surroundings
    @torch.no_grad()
    def generate(
        self,
        tokens: Int[Tensor, "*batch pos"],
        max_new_tokens: int = 20,
        *,
        attention_mask: Tensor | None = None,
        corrupted: Int[Tensor, "*batch pos"] | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        eos_token_id: int | None = None,
    ) -> Int[Tensor, "batch total_pos"]:
        """The prompts, as given, with what the circuit continues them by.

        Each token runs the circuit on the whole prompt so far, at the answer position alone; nothing is cached. Under `patching` a new
        token is appended to the corrupted prompt too.

        Args:
            tokens: Token ids; one prompt may come without its batch axis.
            max_new_tokens: How many tokens to add at most.
            attention_mask: As for a call.
            corrupted: As for a call.
            do_sample: Draw from the softmax of logits / temperature; otherwise the token of largest logit, the first of equal ones.
            temperature: For drawing.
            generator: For drawing, on the CPU.
            eos_token_id: A prompt that gets this token ends there, and is filled up with it while others go on.

        Raises:
            ValueError: As a call, or prompts that would grow beyond the model's positions, or those that have a mean.
        """
        whole_number("max_new_tokens", max_new_tokens, 1)
        number("temperature", temperature, above=0)
        pairs = self._pairs(tokens, attention_mask, corrupted)
        transformer, plan = self._ready(everywhere=False)
        self._check_length(transformer, int(pairs.lengths.max()) + max_new_tokens - 1)
        rows = [
            [ids[:n] for ids, n in zip(column.tolist(), pairs.lengths.tolist())]
            for column in (pairs.clean, pairs.corrupted)
        ]
        active, added = list(range(len(pairs))), [[] for _ in range(len(pairs))]
        for _ in range(max_new_tokens):
            batch = PromptPairs(*([column[row] for row in active] for column in rows)).to(transformer.device)
            logits = run_batch(transformer, plan, batch, self._cut(transformer, batch, False))
            for row, token in zip(active, _chosen(logits, do_sample, temperature, generator)):
                for ids in (rows[0][row], rows[1][row], added[row]):
                    ids.append(token)
            active = [row for row in active if added[row][-1] != eos_token_id]
            if not active:
                break
        longest = max(map(len, added))
        new = [ids + [eos_token_id] * (longest - len(ids)) for ids in added]
        return torch.cat((_rows(tokens), torch.tensor(new, device=tokens.device)), dim=1)

    def _ready(self, everywhere: bool) -> tuple[Transformer, Plan]:
        transformer = adapted_for(self.model, self.circuit.graph)
        return transformer, make_plan(self.circuit.graph, self.circuit.mask, self.intervention, everywhere)

    def _pairs(self, tokens: Tensor, attention_mask: Tensor | None, corrupted: Tensor | None) -> PromptPairs:
        """The prompts of a call, read at the last token."""
        if (corrupted is None) == (self.intervention == "patching"):
            expected = (
                "corrupted prompts under 'patching'" if corrupted is None else f"None under {self.intervention!r}"
            )
            raise refusal("corrupted", expected, "none" if corrupted is None else "prompts")
        clean = _rows(tokens)
        mask = None if attention_mask is None else _rows(attention_mask)
        return PromptPairs(clean, clean if corrupted is None else _rows(corrupted), attention_mask=mask)

    def _cut(self, transformer: Transformer, batch: PromptPairs, everywhere: bool) -> Cut:
        if self._values is None:
            return cut_values(transformer, [batch], "patching", everywhere=everywhere)(batch)
        self._check_length(transformer, int(batch.lengths.max()))
        return constant_cut(transformer, batch, self._values, self.intervention, everywhere)

    def _check_length(self, transformer: Transformer, longest: int) -> None:
        """Refuse prompts longer than the model has positions, or than positions have means."""
        means = None if self._values is None else self._values.n_positions
        for what, most in (("the model's", transformer.n_ctx), ("the reference set's", means)):
            if most is not None and longest > most:
                raise refusal("tokens", f"prompts within {what} {most} positions", f"{longest}", "shorten them")


def _rows(tokens: Tensor | Sequence) -> Shaped[Tensor, "batch pos"]:
    """Tokens or a mask with a batch axis."""
    tokens = torch.as_tensor(tokens)
    if tokens.dim() not in (1, 2):
        raise refusal("tokens", "[batch pos] or [pos]", f"shape {tuple(tokens.shape)}")
    return tokens if tokens.dim() == 2 else tokens[None]


def _chosen(
    logits: Float[Tensor, "batch d_vocab"], do_sample: bool, temperature: float, generator: torch.Generator | None
) -> list[int]:
    """A next token for each prompt."""
    if not do_sample:
        return logits.argmax(-1).tolist()
    probabilities = (logits.float().cpu() / temperature).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist()
