"""`python -m edge_circuits.benchmarks.roc`: see `study`."""

from edge_circuits.benchmarks.roc.study import main

raise SystemExit(main())
