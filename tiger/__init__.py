"""Generative retrieval for recommenders: semantic IDs, and a T5 that generates the semantic ID of the next item."""

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
        "RankerArguments": "tiger.training.click_ranker",
        "RankerTrainer": "tiger.rankers.click.trainer",
        "RecommendationData": "tiger.data.dataset",
        "ResidualKMeans": "tiger.quantizers.residual_kmeans",
        "RetrieverArguments": "tiger.training.retriever",
        "SearchOptions": "tiger.retriever.search",
        "SemanticIdRanker": "tiger.rankers.click.model",
        "SemanticIdTokenizer": "tiger.semantic_ids.tokenizer",
        "SemanticIdTrie": "tiger.semantic_ids.trie",
        "SentenceEncoder": "tiger.embeddings.sentence_encoder",
        "Sequences": "tiger.data.sequences",
        "TigerRecommender": "tiger.recommender.recommender",
        "TigerT5": "tiger.retriever.model",
        "TigerTrainer": "tiger.retriever.trainer",
        "TokenizerArguments": "tiger.training.tokenizer",
        "TrainingExamples": "tiger.retriever.dataset",
        "TwoStageArguments": "tiger.training.two_stage",
        "TwoStageRanker": "tiger.rankers.two_stage.ranker",
        "beam_search": "tiger.retriever.beam_search",
        "drift_report": "tiger.semantic_ids.drift",
        "evaluate": "tiger.evaluation.evaluator",
        "item_texts": "tiger.embeddings.item_text",
        "load_encoder": "tiger.embeddings.auto",
        "load_quantizer": "tiger.quantizers.auto",
        "load_ranker": "tiger.rankers.auto",
        "next_item_metrics": "tiger.evaluation.metrics",
        "register_encoder": "tiger.embeddings.auto",
        "register_quantizer": "tiger.quantizers.auto",
        "register_ranker": "tiger.rankers.auto",
        "t5_config": "tiger.retriever.config",
        "train": "tiger.training.pipeline",
        "train_click_ranker": "tiger.training.click_ranker",
        "train_retriever": "tiger.training.retriever",
        "train_tokenizer": "tiger.training.tokenizer",
        "train_two_stage": "tiger.training.two_stage",
    },
)
_moved.install()
