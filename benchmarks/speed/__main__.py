"""`python -m edge_circuits.benchmarks.speed`: see `study`."""

from edge_circuits.benchmarks.speed.study import main

raise SystemExit(main())
