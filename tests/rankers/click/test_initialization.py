"""Rows of codes that start at the centroids of their items."""

import numpy as np
import torch
from transformers import set_seed

from tiger.rankers.click.features import ItemFeatures
from tiger.rankers.click.initialization import start_at_centroids
from tiger.rankers.click.model import TABLE_STD, SemanticIdRanker, ranker_config


def test_rows_are_means_of_their_items_and_others_stay():
    random = np.random.default_rng(0)
    codes, vectors = random.integers(0, 4, (50, 2)), random.normal(size=(50, 6))
    codes[codes[:, 0] == 3, 0] = 2  # nobody has the code 3 on the first level
    features = ItemFeatures.fit("random_hash+unigram", 40, codes, 4)
    rows = features.rows([f"i{row}" for row in range(50)], codes)
    set_seed(0)
    ranker = SemanticIdRanker(ranker_config(features, d_model=5))
    before = ranker.table.weight.detach().clone()
    start_at_centroids(ranker, features, rows, vectors, seed=3)
    after = ranker.table.weight.detach()
    first = features.share  # of unigram's rows, behind those of random_hash
    assert torch.equal(after[:first], before[:first]) and torch.equal(after[first + 3], before[first + 3])
    assert not after[features.budget].any()
    projected = (vectors - vectors.mean(axis=0)) @ np.random.default_rng(3).normal(size=(6, 5))
    wanted = np.stack(
        [projected[codes[:, level] == code].mean(axis=0) for level in (0, 1) for code in range(4 - (level == 0))]
    )
    found = torch.cat([after[first : first + 3], after[first + 4 : first + 8]]).numpy()
    np.testing.assert_allclose(found, wanted * TABLE_STD / wanted.std(), rtol=1e-3, atol=1e-5)
    assert abs(float(found.std()) - TABLE_STD) < 1e-4
