"""`python -m edge_circuits.benchmarks.needs`: see `study`."""

from edge_circuits.benchmarks.needs.study import main

raise SystemExit(main())
