import pyarrow.compute as pc

from tiger.semantic_ids import text_search as module
from tiger.semantic_ids.text_search import TextSearch


def test_a_repeated_word_is_searched_once_and_counted_as_often(monkeypatch):
    searched, match = [], pc.match_substring_regex

    def counting(texts, pattern):
        searched.append(pattern)
        return match(texts, pattern)

    monkeypatch.setattr(module.pc, "match_substring_regex", counting)
    rows, own = TextSearch(["a tent", "lamps", "a lamp"]).find(["a", "lamp", "a", "a"])
    assert rows.tolist() == [1, 2] and own.tolist() == [0, 4] and len(searched) == 2
