"""Generative retrieval for recommenders: semantic IDs, and a T5 that generates the semantic ID of the next item."""

from typing import TYPE_CHECKING

from tiger import _moved
from tiger.utils.auto_classes import note_types
from tiger.utils.lazy import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tiger.data.dataset import RecommendationData as RecommendationData
    from tiger.data.sequences import Sequences as Sequences
    from tiger.embeddings.auto import load_encoder as load_encoder
    from tiger.embeddings.auto import register_encoder as register_encoder
    from tiger.embeddings.item_text import item_texts as item_texts
    from tiger.embeddings.lsa_encoder import LSAEncoder as LSAEncoder
    from tiger.embeddings.sentence_encoder import SentenceEncoder as SentenceEncoder
    from tiger.evaluation.evaluator import evaluate as evaluate
    from tiger.evaluation.metrics import next_item_metrics as next_item_metrics
    from tiger.quantizers.auto import load_quantizer as load_quantizer
    from tiger.quantizers.auto import register_quantizer as register_quantizer
    from tiger.quantizers.residual_kmeans import ResidualKMeans as ResidualKMeans
    from tiger.quantizers.rqvae import RQVAE as RQVAE
    from tiger.rankers.auto import load_ranker as load_ranker
    from tiger.rankers.auto import register_ranker as register_ranker
    from tiger.rankers.click.model import SemanticIdRanker as SemanticIdRanker
    from tiger.rankers.click.trainer import RankerTrainer as RankerTrainer
    from tiger.rankers.two_stage.ranker import TwoStageRanker as TwoStageRanker
    from tiger.recommender.recommender import TigerRecommender as TigerRecommender
    from tiger.retriever.beam_search import beam_search as beam_search
    from tiger.retriever.config import t5_config as t5_config
    from tiger.retriever.dataset import EvaluationExamples as EvaluationExamples
    from tiger.retriever.dataset import TrainingExamples as TrainingExamples
    from tiger.retriever.model import TigerT5 as TigerT5
    from tiger.retriever.repository_generation import generate_items as generate_items
    from tiger.retriever.search import SearchOptions as SearchOptions
    from tiger.retriever.trainer import TigerTrainer as TigerTrainer
    from tiger.semantic_ids.drift import drift_report as drift_report
    from tiger.semantic_ids.tokenizer import SemanticIdTokenizer as SemanticIdTokenizer
    from tiger.semantic_ids.trie import SemanticIdTrie as SemanticIdTrie
    from tiger.training.click_ranker import RankerArguments as RankerArguments
    from tiger.training.click_ranker import train_click_ranker as train_click_ranker
    from tiger.training.pipeline import train as train
    from tiger.training.retriever import RetrieverArguments as RetrieverArguments
    from tiger.training.retriever import train_retriever as train_retriever
    from tiger.training.tokenizer import TokenizerArguments as TokenizerArguments
    from tiger.training.tokenizer import train_tokenizer as train_tokenizer
    from tiger.training.two_stage import TwoStageArguments as TwoStageArguments
    from tiger.training.two_stage import train_two_stage as train_two_stage
    from tiger.utils.errors import DataError as DataError
else:
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
            "generate_items": "tiger.retriever.repository_generation",
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
note_types(
    {
        "tiger-t5": "tiger.retriever.model:TigerT5Config",
        "tiger-rqvae": "tiger.quantizers.rqvae:RQVAEConfig",
        "semantic_id_ranker": "tiger.rankers.click.model:RankerConfig",
    }
)
