"""`python -m edge_circuits.benchmarks.refine`: see `study`."""

from edge_circuits.benchmarks.refine.study import main

raise SystemExit(main())
