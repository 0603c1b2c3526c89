"""Running a model with edges cut: what a cut is, the plan of a circuit, runs that are kept and asked again."""
