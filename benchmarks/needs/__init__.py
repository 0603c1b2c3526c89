"""What scoring a model of some size needs: `python -m edge_circuits.benchmarks.needs`."""
