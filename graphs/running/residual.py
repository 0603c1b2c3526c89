"""The residual stream of a run, kept as what each source changes by (its current minus its cut value)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.graphs.model.norm import Norm, apply_norm
from edge_circuits.graphs.model.transformer import at_rows
from edge_circuits.graphs.running.plan import Mixture


@dataclass(frozen=True)
class Written:
    """What an MLP, `input` or some heads of a layer change by.

    Attributes:
        sources: Which they are.
        changes: What each changes by. [source batch row d_model].
        post_norm: The norm that heads write through, if any; with it, what all heads of the layer together write
            before it, cut and current, and `sources` are all the layer's heads that are in the stream.
    """

    sources: tuple[int, ...]
    changes: Tensor
    post_norm: Norm | None = None
    cut_sum: Tensor | None = None
    current_sum: Tensor | None = None


@dataclass(eq=False)
class Residual:
    """The residual stream on a set of rows, equal to itself alone.

    Attributes:
        rows: Positions [batch row]; None for every position.
        spans: The span of each row, where mixtures weigh sources span by span. [batch row]
        written: Changes of single sources, for the mixtures that name them.
        change: Current minus cut stream; kept only where some mixture starts from the current stream.
        room: Where changes of single sources are put one after the other, if they are to stand together.
            [source batch row d_model]
    """

    rows: Int[Tensor, "batch row"] | None
    spans: Int[Tensor, "batch row"] | None = None
    written: list[Written] = field(default_factory=list)
    change: Tensor | float = 0.0
    room: Tensor | None = None

    def write(self, written: Written) -> None:
        """Take note of what single sources change by."""
        if self.room is not None:
            start = sum(len(each.sources) for each in self.written)
            place = self.room[start : start + len(written.sources)].copy_(written.changes)
            written = replace(written, changes=place)
        self.written.append(written)

    def at_rows(self, x: Float[Tensor, "batch pos *rest"]) -> Tensor:
        """A value on these rows."""
        return x if self.rows is None else at_rows(x, self.rows)

    def mixture(self, mixture: Mixture, cut_residual: Tensor) -> Float[Tensor, "batch row d_model"]:
        """The input of a destination; `cut_residual` is what it reads with every in-edge cut."""
        x = self.at_rows(cut_residual)
        x = x if mixture.from_cut else x + self.change
        for written in self.written:
            places = [place for place, source in enumerate(written.sources) if source in mixture.places]
            if places:
                x = x + _share(written, mixture, places, self.spans)
        return x


def _share(
    written: Written, mixture: Mixture, places: list[int], spans: Tensor | None
) -> Float[Tensor, "batch row d_model"]:
    """What a mixture takes of the changes at `places`."""
    if written.post_norm is not None:
        return _share_of_post_norm(written, mixture, places, spans)
    total = _total(written, mixture, places, spans)
    return total if mixture.from_cut else -total


def _share_of_post_norm(
    written: Written, mixture: Mixture, places: list[int], spans: Tensor | None
) -> Float[Tensor, "batch row d_model"]:
    """The same for heads that write through a post-norm: the difference it makes to the norm's output.

    What is kept is summed from the cut side, also where the mixture names what is cut: were that subtracted from the
    current sum and little left, the norm would blow the rounding error up.
    """
    kept = places if mixture.from_cut else [place for place in range(len(written.sources)) if place not in places]
    start = written.cut_sum if mixture.from_cut else written.current_sum
    end = written.cut_sum + _total(written, mixture, kept, spans)
    return apply_norm(written.post_norm, end) - apply_norm(written.post_norm, start)


def _total(
    written: Written, mixture: Mixture, places: list[int], spans: Tensor | None
) -> Float[Tensor, "batch row d_model"]:
    changes = written.changes if len(places) == len(written.sources) else written.changes[places]
    if mixture.weights is None:
        return changes.sum(0)
    weights = mixture.weights[[mixture.places[written.sources[place]] for place in places]]
    weights = weights.to(changes.device, changes.dtype)
    if weights.dim() == 1:
        return torch.einsum("s,sbrm->brm", weights, changes)
    by_row = weights[:, spans.to(changes.device).clamp(min=0)]  # padding is read by nothing
    return torch.einsum("sbr,sbrm->brm", by_row, changes)
