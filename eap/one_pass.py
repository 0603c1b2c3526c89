"""Methods that take one forward and one backward pass on the clean prompt: a gradient, or coefficients in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.destinations import Reader, attribute, check_reader
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer


@dataclass(frozen=True)
class OnePass(Method):
    """A method of one backward pass; a subclass says what takes the place of the gradient (`operations`).

    Attributes:
        reader: how an edge's change passes the destination that it enters; see `edge_circuits.eap.destinations`.
    """

    knows_spans: ClassVar = True

    reader: Reader = "linear"

    def operations(self, transformer: Transformer, batch: PromptPairs, cut: Callable[[], Activations]) -> Operations:
        """The steps of one forward pass on a batch, whose backward pass gives the coefficients.

        Args:
            cut: gives the values that cut edges read.
        """
        return EXACT

    def check_model(self, transformer: Transformer) -> None:
        """Refuse a reader for which the model has no place."""
        super().check_model(transformer)
        check_reader(self.reader, transformer)

    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
        """Edge scores summed over the batch; positive: cutting the edge raises the metric."""
        operations = self.operations(job.transformer, batch, lambda: job.cut(batch))
        point = job.gradients(batch, job.clean_embed(batch), operations, inside=self.reader != "linear")
        return attribute(job, batch, point.activations, job.cut(batch), [point], self.reader, operations.constant_scale)
