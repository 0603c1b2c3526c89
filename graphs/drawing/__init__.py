"""Pictures of circuits: Graphviz' DOT, and an SVG that needs no program."""
