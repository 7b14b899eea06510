"""tiger: generative retrieval for recommenders."""

__version__ = "0.1.0"
