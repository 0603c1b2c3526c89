"""`python -m edge_circuits`: the command `edge-circuits`."""

from edge_circuits.command.line import main

raise SystemExit(main())
