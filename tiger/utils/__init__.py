"""Utilities for all other packages: errors, files, Markdown, registries."""
