"""Training: recipes as functions, settings from YAML and the command line, resumable runs."""
