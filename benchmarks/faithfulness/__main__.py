"""`python -m edge_circuits.benchmarks.faithfulness`: see `study`."""

from edge_circuits.benchmarks.faithfulness.study import main

raise SystemExit(main())
