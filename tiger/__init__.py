"""Generative retrieval for recommenders: semantic IDs, a T5 that writes them, answers that are always real items."""

from tiger import _moved
from tiger.utils.lazy import lazy_names

__version__ = "0.1.0"

# Imported on first use: torch and transformers take seconds, `tiger --help` should not.
__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "DataError": "tiger.utils.errors",
        "EvaluationExamples": "tiger.retriever.dataset",
        "LSAEncoder": "tiger.embeddings.lsa_encoder",
        "RQVAE": "tiger.quantizers.rqvae",
        "RecommendationData": "tiger.data.dataset",
        "ResidualKMeans": "tiger.quantizers.residual_kmeans",
        "SemanticIdTokenizer": "tiger.semantic_ids.tokenizer",
        "SemanticIdTrie": "tiger.semantic_ids.trie",
        "SentenceEncoder": "tiger.embeddings.sentence_encoder",
        "Sequences": "tiger.data.sequences",
        "TigerRecommender": "tiger.recommender.recommender",
        "TigerT5": "tiger.retriever.model",
        "TigerTrainer": "tiger.retriever.trainer",
        "TrainingExamples": "tiger.retriever.dataset",
        "beam_search": "tiger.retriever.beam_search",
        "item_texts": "tiger.embeddings.item_text",
        "t5_config": "tiger.retriever.config",
    },
)
_moved.install()
