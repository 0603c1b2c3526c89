"""`python -m edge_circuits.benchmarks.agreement`: see `study`."""

from edge_circuits.benchmarks.agreement.study import main

raise SystemExit(main())
