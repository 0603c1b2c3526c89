"""What methods share that take gradients: how an edge's change passes the destination it enters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.destinations import Reader, attribute, attribute_each, check_reader
from edge_circuits.eap.exact_norm import N_EXACT
from edge_circuits.eap.gradients import Gradients
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.metric_curve import metric_curve
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import refusal, whole_number
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.patching import answer_logits


@dataclass(frozen=True)
class GradientMethod(Method):
    """A method that meets the sources' changes with gradients, or with coefficients in their place.

    Attributes:
        reader: how an edge's change passes the destination that it enters: "linear", as published; exactly through its
            "norm"; for <q> and <k> also through the "softmax"; or "exact", through the whole node. See
            `edge_circuits.eap.destinations`.
        exact_sources: how many of a destination's sources the readers "softmax" and "exact" take exactly: those that change a
            prompt's stream most (of an MLP, a token's); the others stop at the norm. All of them where there are no more.
    """

    knows_spans: ClassVar = True

    reader: Reader = "linear"
    exact_sources: int = N_EXACT

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("exact_sources", self.exact_sources, least=1)

    def check_model(self, transformer: Transformer) -> None:
        """Refuse a reader for which the model has no place."""
        super().check_model(transformer)
        check_reader(self.reader, transformer)

    def check_alone(self, what: str) -> None:
        """Refuse settings that what takes the coefficients alone would pass over.

        Args:
            what: is scored, as "nodes".

        Raises:
            ValueError: a reader, or the metric's curve.
        """
        for name, only in (("reader", "linear"), ("metric_as", "slope")):
            if (value := getattr(self, name, only)) != only:
                raise refusal(name, f"{only!r} for {what}", repr(value), "leave it out; `score` has it, for edges")

    def gradients(self, job: Job, batch: PromptPairs, embed: Tensor, operations: Operations = EXACT) -> Gradients:
        """Gradients on the given embedded prompts, with those inside of destinations where the reader needs them."""
        return job.gradients(batch, embed, operations, inside=self.reader != "linear")

    def attributed(
        self, job: Job, batch: PromptPairs, clean: Activations, cut: Activations, points: Sequence[Gradients]
    ) -> Float[Tensor, "source destination *span"]:
        """Edge scores summed over the batch, against gradients averaged over `points`."""
        return attribute(job, batch, clean, cut, points, self.reader, self.exact_sources)


@dataclass(frozen=True)
class OnePass(GradientMethod):
    """A method of one backward pass on the clean prompt; a subclass says what takes the gradient's place (`operations`).

    Attributes:
        metric_as: "slope", the metric's gradient at the clean logits, as published; or "curve", where each prompt's score
            follows the metric along the line from its clean to its cut logits (`edge_circuits.eap.metric_curve`), at the price of another
            forward and backward pass if the metric is not linear.
    """

    metric_as: Literal["slope", "curve"] = "slope"

    def operations(self, transformer: Transformer, batch: PromptPairs, cut: Callable[[], Activations]) -> Operations:
        """The steps of one forward pass on a batch, whose backward pass gives the coefficients.

        Args:
            cut: gives the values that cut edges read.
        """
        return EXACT

    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination *span"]:
        """Edge scores summed over the batch; positive: cutting the edge raises the metric."""
        if not job.by_span:
            return scores_together([self], job, batch)[0]
        if self.metric_as == "curve":
            why = "a curve does not add up over spans"
            raise refusal("metric_as", "'slope' for scores by span", repr(self.metric_as), why)
        point = self.point(job, batch)
        return self.attributed(job, batch, point.activations, job.cut(batch), [point])

    def point(self, job: Job, batch: PromptPairs) -> Gradients:
        """The coefficients on the clean prompts."""
        operations = self.operations(job.transformer, batch, lambda: job.cut(batch))
        return self.gradients(job, batch, job.clean_embed(batch), operations)


def scores_together(
    methods: Sequence[OnePass], job: Job, batch: PromptPairs
) -> Float[Tensor, "method source destination"]:
    """Scores of methods that differ in their coefficients alone, summed over the batch; what they share is done once."""
    cut = job.cut(batch)
    job, first = replace(job, cuts=lambda _: cut), methods[0]
    points = [method.point(job, batch) for method in methods]
    clean, settings = points[0].activations, (first.reader, first.exact_sources)
    curve = None
    if first.metric_as == "curve":
        curve = metric_curve(job.metric, batch, *(answer_logits(job.transformer, x, batch) for x in (clean, cut)))
    if curve is None:
        return attribute_each(job, batch, clean, cut, points, *settings)
    along = replace(job, metric=curve.by_mean_gradient)
    points += [method.point(along, batch) for method in methods]
    each = []
    for row in range(len(batch)):
        alone, own_cut = [point.of(row) for point in points], cut.each(lambda x, row=row: x[row : row + 1])
        each.append(attribute_each(job, batch[[row]], alone[0].activations, own_cut, alone, *settings))
    by_slope, by_mean = torch.stack(each, dim=1).unflatten(0, (2, -1))
    return torch.stack([curve.bent(*both).sum(0) for both in zip(by_slope, by_mean)])
