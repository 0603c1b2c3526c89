"""ACDC after pruning: `python -m edge_circuits.benchmarks.refine`."""
