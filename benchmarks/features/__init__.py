"""Circuits of features for subject-verb agreement: which scores find them best."""
