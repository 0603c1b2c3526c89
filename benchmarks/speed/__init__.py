"""Running times as ratios to the bare passes: `python -m edge_circuits.benchmarks.speed`."""
