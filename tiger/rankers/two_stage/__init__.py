"""Candidates of several sources, and trees that order them."""
