"""How well methods find known circuits: `python -m edge_circuits.benchmarks.roc`."""
