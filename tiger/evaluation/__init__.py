"""Metrics of answers, and the baselines that a model must beat."""
