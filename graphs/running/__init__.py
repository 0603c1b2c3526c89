"""Running a model with edges cut: what a cut is, the plan of a circuit, cached runs and what follows from further cuts."""
