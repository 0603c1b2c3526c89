"""Benchmarks: tasks, metrics, known circuits, and measures of how well a method finds them."""
