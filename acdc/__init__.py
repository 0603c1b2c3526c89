"""ACDC: circuits found by cutting, one after the other, the edges that an objective can do without.

    circuit = acdc.discover(model, pairs, "kl", threshold=0.01)              # from the whole graph
    circuit = acdc.refine(model, circuit, pairs, metric, threshold=0.01)     # from a pruned one
    sweep = acdc.sweep(model, pairs, metric, thresholds=[0.003, 0.01, 0.03])
    found = acdc.discover_spans(model, pairs, metric, threshold=0.01)        # each edge at each span of tokens
    circuit.trace.decisions                                                  # edge, objective before and after, kept

`order` says in which order edges are tried, `algorithm` holds the sweep, `trace` what it decided.
"""

from edge_circuits.acdc.by_span import SpanSweep, discover_spans
from edge_circuits.acdc.discovery import discover, refine
from edge_circuits.acdc.order import by_score, published, senders_by_score
from edge_circuits.acdc.threshold_sweep import ThresholdSweep, sweep
from edge_circuits.acdc.trace import Decision, Trace, TracedCircuit

__all__ = [
    "Decision",
    "SpanSweep",
    "ThresholdSweep",
    "Trace",
    "TracedCircuit",
    "by_score",
    "discover",
    "discover_spans",
    "published",
    "refine",
    "senders_by_score",
    "sweep",
]
