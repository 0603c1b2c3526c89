"""ROC curves, correlations and their intervals."""
