"""Known circuits of real models, and the sets of edges among which they are to be found.

from edge_circuits.benchmarks.reference import reference_circuit, candidates

circuit = reference_circuit("ioi")                            # ACDC's edge set, 963 of 32,491 edges
among = candidates(scored_graph, circuit, universe="no-input")  # labels and scores, ready for a ROC curve
"""

from edge_circuits.benchmarks.reference.circuits import (
    TASKS,
    ReferenceCircuit,
    load_reference,
    reference_circuit,
    variants,
)
from edge_circuits.benchmarks.reference.universes import (
    UNIVERSES,
    Candidates,
    Universe,
    candidate_labels,
    candidate_scores,
    candidates,
    node_candidates,
    node_scores,
)

__all__ = [
    "TASKS",
    "UNIVERSES",
    "Candidates",
    "ReferenceCircuit",
    "Universe",
    "candidate_labels",
    "candidate_scores",
    "candidates",
    "load_reference",
    "node_candidates",
    "node_scores",
    "reference_circuit",
    "variants",
]
