"""How good an answer is: metrics, and the baselines that a model must beat."""
