"""Faithfulness of pruned circuits: `python -m edge_circuits.benchmarks.faithfulness`."""
