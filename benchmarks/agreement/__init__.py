"""Agreement of scores with exact patching: `python -m edge_circuits.benchmarks.agreement`."""
