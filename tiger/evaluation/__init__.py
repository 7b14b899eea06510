"""Metrics, baselines and the evaluation of recommenders."""
