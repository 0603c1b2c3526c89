"""The metric as a destination: what an edge does to a metric that bends on the way from the clean to the cut logits.

A gradient takes the metric linearly at the clean logits. Where it saturates there (the log probability of a sure answer), that
slope is nearly zero, and edges that would carry the model along the line to the cut logits seem to do nothing. The
metric along that line is known without a further pass, prompt by prompt:

    curve(a) = metric(clean + a (cut - clean)) - metric(clean),   slope = curve'(0),   span = curve(1)

With an edge's score s by the gradient at the clean logits, and t by the gradient's mean over the line, a = t / span is how
far along the line the edge goes, and

    score = s + curve(a) - a slope

So small effects keep the local gradient, large ones follow the curve, and a metric that is linear changes nothing. a is kept
between -1 and 2, where the curve is read. Where the curve comes back, so that |span| is below half of its range from 0 to 1, the
metric does not tell how far an edge goes, and the prompt keeps its scores by the slope.

This is the project's own; it has no published counterpart that we know of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import Metric

LOW, HIGH, N_READ = -1.0, 2.0, 61  # from where to where along the line, and at how many places
N_GRADIENTS = 8  # of the mean over the line
STRAIGHT = 1e-5
LEAST_SPAN = 0.5  # of the curve's range between the clean and the cut logits


@dataclass(frozen=True)
class MetricCurve:
    """A metric along the lines from clean to cut logits, one a prompt.

    Attributes:
        heights: curve(a) at N_READ places from LOW to HIGH. [place batch]
        slope: curve'(0). [batch]
        mean_gradient: the mean of the metric's gradient over the line. [batch *rows d_vocab]
        span: mean_gradient . (cut - clean), which is curve(1) to the accuracy of the mean. [batch]
    """

    heights: Float[Tensor, "place batch"]
    slope: Float[Tensor, " batch"]
    mean_gradient: Float[Tensor, "batch *rows d_vocab"]
    span: Float[Tensor, " batch"]

    def by_mean_gradient(
        self, logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs
    ) -> Float[Tensor, " batch"]:
        """The linear metric with that gradient."""
        return (logits * self.mean_gradient.to(logits)).flatten(1).sum(-1)

    def bent(
        self, by_slope: Float[Tensor, "batch source destination"], by_mean: Float[Tensor, "batch source destination"]
    ) -> Float[Tensor, "batch source destination"]:
        """Scores that follow the curve, from those with the gradient at the clean logits and with the mean over the line."""
        slope, span = (x.to(by_slope)[:, None, None] for x in (self.slope, self.span))
        first, last = (round((end - LOW) * (N_READ - 1) / (HIGH - LOW)) for end in (0, 1))
        between = self.heights[first : last + 1].to(by_slope)
        reach = LEAST_SPAN * (between.amax(0) - between.amin(0))[:, None, None]
        nowhere = span.abs() <= reach.clamp(min=torch.finfo(span.dtype).tiny)
        along = (by_mean / span.masked_fill(nowhere, 1)).clamp(LOW, HIGH)
        place = (along - LOW) * ((N_READ - 1) / (HIGH - LOW))
        below = place.floor().clamp(max=N_READ - 2).long()
        heights = self.heights.T.to(by_slope)
        start, end = (heights.gather(1, (below + step).flatten(1)).view_as(below) for step in (0, 1))
        beyond_slope = torch.lerp(start, end, place - below) - along * slope
        return by_slope + beyond_slope.masked_fill((by_mean == 0) | nowhere, 0)


def metric_curve(
    metric: Metric,
    pairs: PromptPairs,
    clean: Float[Tensor, "batch *rows d_vocab"],
    cut: Float[Tensor, "batch *rows d_vocab"],
) -> MetricCurve | None:
    """The metric along the lines; None where it is straight for all prompts."""
    wide = torch.promote_types(clean.dtype, torch.float32)
    clean, way = clean.to(wide).detach(), (cut.to(wide) - clean.to(wide)).detach()

    def height(share: float) -> Float[Tensor, " batch"]:
        with torch.no_grad():
            return metric(clean + share * way, pairs) - metric(clean, pairs)

    def gradient(share: float) -> Float[Tensor, "batch *rows d_vocab"]:
        with torch.enable_grad():
            logits = (clean + share * way).requires_grad_()
            return torch.autograd.grad(metric(logits, pairs).sum(), logits)[0]

    slope = (gradient(0.0) * way).flatten(1).sum(-1)
    if all(
        ((height(a) - a * slope).abs() <= STRAIGHT * (a * slope).abs()).all() for a in (LOW, LOW / 2, 0.5, 1.0, HIGH)
    ):
        return None
    mean = sum(gradient((step + 0.5) / N_GRADIENTS) for step in range(N_GRADIENTS)) / N_GRADIENTS
    places = [LOW + (HIGH - LOW) * place / (N_READ - 1) for place in range(N_READ)]
    return MetricCurve(torch.stack([height(a) for a in places]), slope, mean, (mean * way).flatten(1).sum(-1))
