"""Generative retrieval for recommenders: semantic IDs, a T5 that writes them, answers that are always real items."""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "DataError": "data",
    "EvaluationExamples": "examples",
    "LSAEncoder": "embeddings",
    "RQVAE": "rqvae",
    "RecommendationData": "data",
    "ResidualKMeans": "residual_kmeans",
    "SemanticIdTokenizer": "tokenizer",
    "SemanticIdTrie": "trie",
    "SentenceEncoder": "embeddings",
    "Sequences": "data",
    "TigerRecommender": "recommender",
    "TigerTrainer": "retriever",
    "TrainingExamples": "examples",
    "beam_search": "generation",
    "item_texts": "embeddings",
    "t5_config": "retriever",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """Import on first use: torch and transformers take seconds, `tiger --help` should not."""
    if name in _HOMES:
        return getattr(import_module(f"tiger.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tiger' has no attribute {name!r}")
