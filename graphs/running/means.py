"""Means of another data set as what cut edges read, such as the ABC prompts of Wang et al. 2023 for IOI.

    means = ec.Mean(abc_prompts, tokenizer=tokenizer)        # or ec.MeanPositional
    scores = ec.score(model, pairs, "logit_difference", "relp", intervention=means)
    means.save("abc.safetensors")                            # the means over them, for this model alone
    means = ec.Mean.load("abc.safetensors")

They are taken when a model is first asked with them, and kept; a model is known by the digest of its weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edge_circuits.graphs.checks import flag, refusal
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.digest import digest_of_tensors
from edge_circuits.graphs.files.documents import reading
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.prompts.validation import Masks, Prompts
from edge_circuits.graphs.running.patching import FixedMeans, SourceValues, source_values
from edge_circuits.graphs.surroundings import in_plain_surroundings

FORMAT = "edge-circuits-means"
MAX_TOKENS = 4096


class Mean(FixedMeans):
    """What every source writes in the mean over all real tokens of some prompts; give it as `intervention`.

    Attributes:
        keep_positions: `input` loses its token embedding alone; the learned positions stay, as in "mean-tokens".
    """

    word = "mean"

    def __init__(
        self,
        prompts: Prompts | PromptPairs,
        *,
        tokenizer: Any = None,
        prepend_bos: bool | None = None,
        attention_mask: Masks = None,
        keep_positions: bool = False,
    ) -> None:
        """
        Args:
            prompts: As `PromptPairs` takes clean ones, with the three arguments that follow; of pairs, the corrupted ones.
            keep_positions: See the attribute.

        Raises:
            ValueError: Prompts that cannot be used.
        """
        if not isinstance(prompts, PromptPairs):
            given = dict(tokenizer=tokenizer, prepend_bos=prepend_bos, attention_mask=attention_mask)
            prompts = PromptPairs(prompts, prompts, **given)
        self._prompts, self.keep_positions = prompts, flag("keep_positions", keep_positions)
        self._model, self._held = "", None
        self._origin = (
            f"{len(prompts)} prompts, {digest_of_tensors({'prompts': prompts.corrupted, 'mask': prompts.mask})}"
        )

    def __repr__(self) -> str:
        kept = ", positions kept" if self.keep_positions else ""
        return f"fixed {self.word} ({self._origin}{kept})"

    @in_plain_surroundings
    def of(self, model: nn.Module) -> Mean:
        """Take the means of a model now, and keep them."""
        self.values(adapt(model))
        return self

    def values(self, transformer: Transformer) -> SourceValues:
        """What the sources of a model are cut to.

        Raises:
            ValueError: They were loaded, and are of another model.
        """
        model = transformer.digest()
        if self._held is None or self._model != model:
            if self._prompts is None:
                expected = f"the model whose means were loaded, {self._model} by its weights"
                raise refusal("intervention", expected, f"one with {model}", "take means of this model from prompts")
            batches = [batch.to(transformer.device) for batch in self._prompts.batches(max_tokens=MAX_TOKENS)]
            word = "mean-tokens" if self.keep_positions else self.word
            self._model, self._held = model, source_values(transformer, batches, word)
        return self._held

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the means of the model that was last asked to a safetensors file, whole or not at all.

        Raises:
            ValueError: No model was asked yet, or the folder does not exist.
        """
        if self._held is None:
            raise refusal("Mean", "means that a model was asked for", "none yet", "call means.of(model) first")
        tensors = _named(self._held)
        about = {"format": FORMAT, "word": self.word, "origin": self._origin, "model": self._model}
        about |= {"keep_positions": str(self.keep_positions), "digest": digest_of_tensors(tensors)}
        write_whole(path, save(tensors, about))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Mean:
        """Means that were saved; of the class that saved them. They are refused with any other model.

        Raises:
            ValueError: The file is torn, foreign or changed; the message names it.
            FileNotFoundError: There is no such file.
        """
        Path(path).stat()
        with reading(path):
            try:
                with safe_open(path, "pt") as file:
                    about = file.metadata() or {}
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except SafetensorError as error:
                raise ValueError(f"expected means, got a file that cannot be read: {error}") from None
            if about.get("format") != FORMAT or about.get("digest") != digest_of_tensors(tensors):
                raise ValueError("expected means as they were written, got a changed or another file")
        made = object.__new__({kind.word: kind for kind in (Mean, MeanPositional)}[about["word"]])
        made._prompts, made._model, made._origin = None, about["model"], about["origin"]
        made.keep_positions, made._held = about["keep_positions"] == "True", _values(tensors, made.word)
        return made


class MeanPositional(Mean):
    """The same at each position, counted from the start of the prompt; no prompt may be longer than the longest of these.

    Learned positions are then kept in any case, since all prompts have the same at a position.
    """

    word = "mean-positional"


def _named(values: SourceValues) -> dict[str, Tensor]:
    each = {"embed": values.embed}
    each |= {f"z.{layer}": value for layer, value in enumerate(values.z)}
    each |= {f"mlp_out.{layer}": value for layer, value in enumerate(values.mlp_out)}
    if values.positions is not None:
        each["positions"] = values.positions
    return {name: value.detach().cpu().contiguous() for name, value in each.items()}


def _values(tensors: dict[str, Float[Tensor, "..."]], word: str) -> SourceValues:
    z, mlp_out = (
        [tensors[f"{name}.{layer}"] for layer in range(sum(each.startswith(f"{name}.") for each in tensors))]
        for name in ("z", "mlp_out")
    )
    n_positions = tensors["embed"].shape[1] if word == "mean-positional" else None
    return SourceValues(tensors["embed"], z, mlp_out, n_positions, tensors.get("positions"))
