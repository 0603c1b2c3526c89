"""The residual stream of a run, kept as what each source changes by (its current minus its cut value)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphs.plan import Mixture
from graphs.transformer import Norm, apply_norm, take_rows


@dataclass(frozen=True)
class Written:
    """What an MLP, `input` or some heads of a layer change by.

    Attributes:
        changes: [source batch row d_model].
        post_norm: the norm that heads write through, if any; with it, what all heads of the layer together write
            before it, cut and current.
        complete: these are all the sources of their kind and layer whose change is in the stream.
    """

    sources: tuple[int, ...]
    changes: Tensor
    post_norm: Norm | None = None
    cut_sum: Tensor | None = None
    current_sum: Tensor | None = None
    complete: bool = True


@dataclass
class Stream:
    """The residual stream on a set of rows.

    Attributes:
        rows: positions [batch row]; None for every position.
        written: changes of single sources, for the mixtures that name them.
        change: current minus cut stream; kept only where some mixture starts from the current stream.
    """

    rows: Int[Tensor, "batch row"] | None
    written: list[Written] = field(default_factory=list)
    change: Tensor | float = 0.0

    def at_rows(self, x: Float[Tensor, "batch pos *rest"]) -> Tensor:
        """A value on these rows."""
        return x if self.rows is None or x.shape[1] == 1 else take_rows(x, self.rows)

    def mixture(self, mixture: Mixture, cut_stream: Tensor) -> Float[Tensor, "batch row d_model"]:
        """The input of a destination; `cut_stream` is what it reads with every in-edge cut."""
        x = self.at_rows(cut_stream)
        x = x if mixture.from_cut else x + self.change
        for written in self.written:
            places = [place for place, source in enumerate(written.sources) if source in mixture.places]
            if places:
                x = x + _share(written, mixture, places)
        return x

    def copy(self) -> Stream:
        """A stream that can be written to without changing this one."""
        return Stream(self.rows, list(self.written), self.change)

    def stacked(self, n: int, named: Collection[int]) -> Stream:
        """The stream of n runs, one after the other along the batch; only changes of `named` sources are kept."""
        rows = None if self.rows is None else self.rows.repeat(n, 1)
        written = [stacked_written(each, n) for each in self.written if not set(named).isdisjoint(each.sources)]
        return Stream(rows, written, repeated(self.change, n) if isinstance(self.change, Tensor) else self.change)


def _share(written: Written, mixture: Mixture, places: list[int]) -> Float[Tensor, "batch row d_model"]:
    """What a mixture takes of the changes at `places`; through the post-norm, of which it takes the difference."""
    changes = written.changes if len(places) == len(written.sources) else written.changes[places]
    if mixture.weights is None:
        total = changes.sum(0) if mixture.from_cut else -changes.sum(0)
    else:
        weights = mixture.weights[[mixture.places[written.sources[place]] for place in places]]
        total = torch.einsum("s,sbrm->brm", weights.to(changes.device, changes.dtype), changes)
    if written.post_norm is None:
        return total
    start, far = (written.cut_sum, written.current_sum) if mixture.from_cut else (written.current_sum, written.cut_sum)
    # the far end itself where all are taken: a rounding error in its place would be blown up by a norm of almost nothing
    all_taken = mixture.weights is None and written.complete and len(places) == len(written.sources)
    return apply_norm(written.post_norm, far if all_taken else start + total) - apply_norm(written.post_norm, start)


def repeated(x: Float[Tensor, "batch *rest"], n: int) -> Tensor:
    """The batch n times over."""
    return x.repeat(n, *[1] * (x.dim() - 1))


def stacked_written(written: Written, n: int) -> Written:
    """The same changes for n runs along the batch."""
    sums = (None if x is None else repeated(x, n) for x in (written.cut_sum, written.current_sum))
    return Written(written.sources, written.changes.repeat(1, n, 1, 1), written.post_norm, *sums, written.complete)
