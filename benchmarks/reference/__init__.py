"""Known circuits of real models (`circuits`), and the sets of edges among which they are to be found (`universes`).

circuit = reference_circuit("ioi")                            # ACDC's edge set, 963 of 32,491 edges
among = candidates(scored_graph, circuit, universe="no-input")  # labels and scores, ready for a ROC curve
"""
