"""Edge-RelP: edge attribution patching with LRP coefficients in place of the gradient.

    score = sum over tokens of  (source_cut - source_clean) . coefficient at the destination's input

The coefficients come from the same single backward pass as the gradient, under the rules of `edge_circuits.eap.relp_rules`, so the price
is that of edge attribution patching: two forward passes and one backward pass. RelP scores nodes; the edge form, with
the formula that needs no split inputs, is this project's.

Reference: Jafari, Eberle, Khakzar and Nanda 2025, RelP: Faithful and Efficient Circuit Discovery via Relevance Patching.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.exact_norm import ReaderNormAttribution, watching_readers
from edge_circuits.eap.exact_softmax import ReaderSoftmaxAttribution, watching_mixed_values
from edge_circuits.eap.relp_rules import RelPRules, check_rules, cut_heads
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.operations import Operations
from edge_circuits.graphs.running.patching import answer_rows


def relp(job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
    """Edge scores under the job's LRP rules, summed over the batch; positive: cutting the edge raises the metric.

    Raises:
        ValueError: a rule for which the model has no place.
    """
    rules = job.rules
    check_rules(rules, job.transformer)
    heads = None
    if rules.attention == "secant":
        heads = cut_heads(job.transformer, job.cut(batch), answer_rows(batch).to(job.transformer.device))
    operations = rules.operations(heads)
    if rules.reader != "linear":
        return _through_readers(job, batch, rules, operations)
    point = job.gradients(batch, job.clean_embed(batch), operations)
    return job.attribute(batch, point.activations, job.cut(batch), [point], operations)


def _through_readers(
    job: Job, batch: PromptPairs, rules: RelPRules, operations: Operations
) -> Float[Tensor, "source destination"]:
    """The scores with every edge's change taken exactly through its reader's norm, and softmax if the rules say so."""
    mixed: dict[int, Tensor] = {}
    if rules.reader == "softmax":
        operations = watching_mixed_values(operations, mixed)
    watched = watching_readers(operations, job.transformer)
    point = job.gradients(batch, job.clean_embed(batch), watched)
    settings = (job.transformer, point.activations, job.cut(batch), [point], True, watched.gradients)
    if rules.reader == "softmax":
        return ReaderSoftmaxAttribution(*settings, mixed).scores(batch, job.token_chunk)
    return ReaderNormAttribution(*settings).scores(batch, job.token_chunk)
