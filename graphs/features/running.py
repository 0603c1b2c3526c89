"""A circuit of features as a model: at every site the other features take their cut value.

    value = own value + sum over features that are cut of (f_cut - f)_i W_dec[i]  (+ e_cut - e where the error is cut)

f is what the dictionary finds in the value (or for a transcoder in what is read) as the run stands, so that what is kept
follows the changes below it. With everything kept nothing is added, so the run is the model's own. Cut values:

- `patching`: features and error on the corrupted prompt;
- `zero`: zero, of features and error;
- `mean`, `mean-positional`: means of features and error over the tokens of all corrupted prompts, or at each position.

Reference: Marks et al. 2024, Sparse Feature Circuits, sections 3 and 4 (mean-positional, errors as nodes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.features.dictionary import AnyDictionary, Coordinates
from edge_circuits.graphs.features.nodes import FeatureNodes
from edge_circuits.graphs.features.sites import Site, changing, read_at, value_at
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, take_rows
from edge_circuits.graphs.prompts.pairs import PromptPairs, in_order
from edge_circuits.graphs.running.distributed import ALONE
from edge_circuits.graphs.running.patching import Intervention, answer_rows, answered, trimmed

Errors = Literal["nodes", "kept", "cut"]
MAX_TOKENS = 2048
KNOWN = ("patching", "zero", "mean", "mean-positional")
MAX_NUMBERS = 2**27  # features times tokens held at a time


class Parts(NamedTuple):
    """A site's value taken apart, or its cut value: one for all prompts or all positions where an axis has length 1."""

    features: Float[Tensor, "batch pos n"]
    error: Float[Tensor, "batch pos d_site"]


def parts_of(dictionary: AnyDictionary, value: Tensor, read: Tensor) -> Parts:
    """Features and error of a value, given what the dictionary reads."""
    features = dictionary.encode(read)
    return Parts(features, value.to(features) - dictionary.decode(features))


class Dissection:
    """A model, its dictionaries and prompts, made ready.

    Attributes:
        transformer: the model as plain tensors.
        dictionaries: on the model's device.
        batches: the prompts, there too.
    """

    def __init__(
        self,
        model: nn.Module,
        dictionaries: Sequence[AnyDictionary],
        pairs: PromptPairs,
        intervention: Intervention,
        batch_size: int | None = None,
        with_logits: bool = False,
    ) -> None:
        """
        Args:
            with_logits: The stream that `logits` reads is the last of the dictionaries, as a whole.

        Raises:
            ValueError: no dictionary, two at one place, one that does not fit the model, or an unknown intervention.
        """
        choice("intervention", intervention, KNOWN, "features know these")
        if pairs.rows is not None:
            raise refusal("pairs", "pairs read at one position for features", "pairs read at several")
        transformer = self.transformer = adapt(model)
        wide = torch.promote_types(transformer.dtype, torch.float32)
        if with_logits:
            last = Site("resid_post", len(transformer.blocks) - 1)
            dictionaries = [*dictionaries, Coordinates(last, 1, width=transformer.W_U.shape[0])]
        for dictionary in dictionaries:
            dictionary.site.check(transformer)
        places = [dictionary.site.place for dictionary in dictionaries]
        if not places or len(set(places)) < len(places):
            twice = next((d.site for d in dictionaries if places.count(d.site.place) > 1), None)
            raise refusal("dictionaries", "one or more, each at a place of its own", f"{twice or 'none'} twice")
        self.dictionaries = [dictionary.like(transformer.device, wide) for dictionary in dictionaries]
        largest = max(dictionary.n_features * getattr(dictionary, "width", 1) for dictionary in dictionaries)
        batches = ALONE.batches(pairs, batch_size, max(1, min(MAX_TOKENS, MAX_NUMBERS // largest)))
        self.batches = [batch.to(transformer.device) for batch in batches]
        self._check_widths()
        self._means = _means(self, intervention == "mean-positional") if intervention.startswith("mean") else None
        self.intervention = intervention

    def forward(self, tokens: Tensor, batch: PromptPairs, operations: Operations = EXACT) -> Activations:
        """A forward pass over whole rows, up to the batch's last answer."""
        return self.transformer.forward(self.transformer.embed(trimmed(tokens, batch)), None, operations)

    def logits(self, kept: Activations, batch: PromptPairs, operations: Operations = EXACT) -> Tensor:
        """Logits at the answer positions [batch d_vocab]."""
        return self.transformer.unembed(answered(take_rows(kept.final, answer_rows(batch)), batch), operations)

    def parts(self, number: int, kept: Activations) -> Parts:
        """A site's value in a forward pass, taken apart."""
        dictionary, transformer = self.dictionaries[number], self.transformer
        value = read = value_at(transformer, kept, dictionary.site)
        if dictionary.reads != "site":
            layer = dictionary.site.layer
            read = read_at(transformer.blocks[layer], dictionary.reads, kept.mlp_in[layer])
        return parts_of(dictionary, value, read)

    @torch.no_grad()
    def cuts(self, batch: PromptPairs) -> Callable[[int], Parts]:
        """The cut value of each site for a batch, by the number of the dictionary."""
        if self._means is not None:
            n = int(batch.positions.max()) + 1
            return lambda number: Parts(*(x[:, :n] for x in self._means[number]))
        corrupted = self.forward(batch.corrupted, batch)
        if self.intervention == "patching":
            return lambda number: self.parts(number, corrupted)
        return lambda number: Parts(*(torch.zeros_like(x[:1, :1]) for x in self.parts(number, corrupted)))

    def _check_widths(self) -> None:
        first = self.batches[0][:1]
        with torch.no_grad():
            kept = self.forward(first.clean, first)
        for dictionary in self.dictionaries:
            d_site = value_at(self.transformer, kept, dictionary.site).shape[-1]
            dictionary.check(d_site, d_site if dictionary.reads == "site" else self.transformer.W_U.shape[0])


@torch.no_grad()
def _means(dissection: Dissection, positional: bool) -> list[Parts]:
    """Means over the real tokens of all corrupted prompts, [1 pos|1 ...], summed in float64."""
    n = max(batch.corrupted.shape[1] for batch in dissection.batches)
    counts, sums = torch.zeros(n, dtype=torch.float64), None
    for batch in dissection.batches:
        kept = dissection.transformer.forward(dissection.transformer.embed(batch.corrupted))
        parts = [x for number in range(len(dissection.dictionaries)) for x in dissection.parts(number, kept)]
        sums = sums or [torch.zeros(n, x.shape[-1], dtype=torch.float64) for x in parts]
        for total, x in zip(sums, parts):
            total[: x.shape[1]] += (x * batch.mask[:, :, None].to(x.device)).sum(0, dtype=torch.float64).cpu()
        counts[: batch.mask.shape[1]] += batch.mask.sum(0).cpu()
    if not positional:
        counts, sums = counts.sum(0, keepdim=True), [total.sum(0, keepdim=True) for total in sums]
    like = parts[0]
    means = [(total / counts.clamp(min=1)[:, None])[None].to(like) for total in sums]
    return [Parts(*means[2 * number : 2 * number + 2]) for number in range(len(dissection.dictionaries))]


@torch.no_grad()
def run_nodes(
    dissection: Dissection, batch: PromptPairs, nodes: FeatureNodes, errors: Errors = "nodes", complement: bool = False
) -> Float[Tensor, "batch d_vocab"]:
    """Logits of a circuit at the answer positions of one of the dissection's batches; see `run_features`."""
    if errors not in get_args(Errors):
        raise ValueError(f"errors: expected one of {', '.join(get_args(Errors))}, got {errors!r}")
    if nodes.sites != tuple(dictionary.site for dictionary in dissection.dictionaries):
        raise ValueError(
            f"nodes: expected nodes of the sites {', '.join(d.site.name for d in dissection.dictionaries)}, got nodes of "
            f"{', '.join(site.name for site in nodes.sites)}; give the dictionaries that they were found with, in that order"
        )
    cuts, n = dissection.cuts(batch), int(batch.positions.max()) + 1

    def change(number: int) -> Callable[[Tensor, Tensor], Tensor]:
        dictionary = dissection.dictionaries[number]
        kept = [mask.to(batch.device) ^ complement for mask in nodes.kept(number, n)]
        error_share = {"nodes": ~kept[1], "kept": torch.zeros_like(kept[1]), "cut": torch.ones_like(kept[1])}[errors]

        def changed(value: Tensor, read: Tensor) -> Tensor:
            now, cut = parts_of(dictionary, value, read), cuts(number)
            added = dictionary.written(cut.features - now.features, (~kept[0]).to(now.features))
            if dictionary.has_error:
                added = added + (cut.error - now.error) * error_share.to(added)[:, None]
            return value + added.to(value)

        return changed

    changes = {dictionary.key: change(number) for number, dictionary in enumerate(dissection.dictionaries)}
    operations = changing(dissection.transformer, changes)
    return dissection.logits(dissection.forward(batch.clean, batch, operations), batch)


def run_features(
    model: nn.Module,
    dictionaries: Sequence[AnyDictionary],
    nodes: FeatureNodes,
    pairs: PromptPairs,
    intervention: Intervention = "patching",
    *,
    errors: Errors = "nodes",
    complement: bool = False,
    batch_size: int | None = None,
) -> Float[Tensor, "pair d_vocab"]:
    """Logits at the answer positions when all features but the given ones are cut.

    Args:
        model: a TransformerLens model; left unchanged.
        dictionaries: those that the nodes were found with. What has none (other layers, other kinds of site) is kept.
        nodes: what is kept.
        intervention: what is cut becomes; means are taken over all `pairs`.
        errors: "nodes", kept where they are among the nodes; "kept" all; or "cut" all.
        complement: keep all but the nodes.
        batch_size: prompts in a batch; by default as many as fit in 2,048 tokens, fewer for large dictionaries.

    Raises:
        ValueError: dictionaries that do not fit the model or the nodes, or an unknown word.
    """
    dissection = Dissection(model, dictionaries, pairs, intervention, batch_size)
    parts = [run_nodes(dissection, batch, nodes, errors, complement) for batch in dissection.batches]
    return in_order(dissection.batches, parts)
