import re

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.recommender.test_recommender import fitted, recommender  # noqa: F401
from tiger.semantic_ids.code_tree import CodeTree
from tiger.serving.page import item_map
from tiger.serving.page.item_map import ItemMap, color_of, map_html


def test_places_are_the_principal_components(recommender):  # noqa: F811
    found = ItemMap(recommender)
    tokens = torch.from_numpy(recommender.tokenizer.token_table).long()
    vectors = recommender.model.shared.weight[tokens].mean(1).detach().double().numpy()
    vectors -= vectors.mean(0)
    values, axes = np.linalg.eigh(vectors.T @ vectors)
    assert found.share == pytest.approx(values[-2:].sum() / values.sum(), rel=1e-4)
    places = found.places(np.arange(40))
    assert places.min() == 0 and places.max() == 1 and places.shape == (40, 2)
    for axis in (0, 1):
        expected = vectors @ axes[:, -1 - axis]
        assert abs(np.corrcoef(places[:, axis], expected)[0, 1]) == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(ItemMap(recommender).places([3, 4]), places[3:5])


def test_a_large_catalog_is_sampled_and_what_is_marked_is_there(recommender, monkeypatch):  # noqa: F811
    monkeypatch.setattr(item_map, "MAX_POINTS", 10)
    found = ItemMap(recommender)
    left_out = next(row for row in range(40) if row not in found.rows)
    html = map_html(CodeTree(recommender.tokenizer, recommender.items), found, [left_out], [])
    assert html.count("<circle") == 10 and "a sample of the 40" in html
    assert html.count('class="mark history"') == 1 and f"history 1: {recommender.titles([f'i{left_out}'])[0]}" in html


def test_the_map_in_shapes_and_in_words(recommender):  # noqa: F811
    titles = recommender.items["title"].to_pylist()
    titles[2] = '<script>"x"</script>'
    table = recommender.items.set_column(1, "title", pa.array(titles))
    tree = CodeTree(recommender.tokenizer, table)
    html = map_html(tree, ItemMap(recommender), [2], [5, 6])
    assert html.count("<circle cx") == 40 + 2 and html.count('tabindex="0" role="img"') == 3
    assert "<script>" not in html and html.count("<title>") == 43
    assert f'aria-label="answer 2: {titles[6]}"' in html
    code = int(tree.codes[5, 0])
    words = html.split("<summary>")[1]
    assert f"First code {code}" in words and f"answer 1, {titles[5]}" in words and "history 1, &lt;script" in words
    places = [float(number) for number in re.findall(r'c[xy]="([\d.]+)"', html)]
    assert min(places) >= item_map.MARGIN and max(places) <= item_map.WIDTH - item_map.MARGIN
    assert "Choose a history" in map_html(tree, ItemMap(recommender), [], [])
    assert len({color_of(code) for code in range(32)}) == 32
