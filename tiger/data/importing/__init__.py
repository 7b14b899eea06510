"""Other people's tables to a dataset directory: ``tiger import``."""
