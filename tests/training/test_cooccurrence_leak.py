"""Co-occurrence vectors that reach the quantizer and the T5's embeddings don't tell which events are held out."""

import numpy as np

from tests.recipes.test_ranking_experiment import write_dataset
from tiger.data.dataset import RecommendationData
from tiger.evaluation.metrics import auc
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.training.retriever import RetrieverArguments, known_of_items
from tiger.training.tokenizer import TokenizerArguments, train_tokenizer


def test_vectors_of_codes_and_of_the_initialization_have_unit_length(tmp_path, monkeypatch):
    dataset = str(write_dataset(tmp_path / "data", users=120))
    data = RecommendationData.load(dataset)
    split = data.leave_one_out()
    few = np.bincount(split.train.items, minlength=data.num_items) < 5
    assert 10 < few.sum() < data.num_items - 10

    seen, fit = [], SemanticIdTokenizer.fit
    monkeypatch.setattr(
        SemanticIdTokenizer,
        "fit",
        lambda *args, **options: (seen.append(options["cooccurrence"]), fit(*args, **options))[1],
    )
    settings = {"embedding_dim": 8, "codebook_size": 8, "num_codebooks": 2, "quantizer": "residual-kmeans"}
    arguments = TokenizerArguments(dataset, str(tmp_path / "ids"), encoder="lsa", cooccurrence_weight=1.0, **settings)
    tokenizer = train_tokenizer(arguments)
    embeddings = np.zeros((data.num_items, 2)) + np.eye(2)[np.arange(data.num_items) % 2]
    joined = seen[0].joined_to(embeddings)[:, 2:]

    retriever = RetrieverArguments(dataset, str(tmp_path / "ids"), str(tmp_path / "model"), start_from="log:1,codes:1")
    initial = known_of_items(retriever, tokenizer, data, split)[0]
    for vectors in (seen[0].vectors, joined, initial):
        lengths = np.linalg.norm(vectors, axis=1)
        assert lengths.min() > 0 and np.allclose(lengths, lengths[0], rtol=1e-5)
        assert auc(few, np.round(lengths / lengths[0], 4)) == 0.5
    assert np.allclose(np.linalg.norm(initial, axis=1), 1, atol=1e-5)
