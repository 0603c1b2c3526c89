"""`python -m edge_circuits.benchmarks.features`: see `study`."""

from edge_circuits.benchmarks.features.study import main

raise SystemExit(main())
