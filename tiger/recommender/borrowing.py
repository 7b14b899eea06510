"""From which items a new one borrows what the memory knows: those whose words are like its own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy import sparse

from tiger.embeddings.item_neighbors import ItemTexts, truncated, word_vectors
from tiger.embeddings.item_text import item_texts
from tiger.recommender.state import RecommenderState
from tiger.retriever.memory import NEAREST, row_shares
from tiger.semantic_ids.neighbors import code_neighbors, items_around
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer

# Texts that a new one is compared with: what an item costs doesn't grow with the catalog. Not tuned.
_COMPARED = 1000


def lenders(state: RecommenderState, tokenizer: SemanticIdTokenizer, texts: list[str] | None) -> sparse.csr_matrix:
    """Shares of known items in what each new item borrows.

    An item's words are compared with those of about a thousand items whose first codes are its own or near it. Where
    nothing is known of the words, items that share the longest prefix of codes lend alike.

    Args:
        state: the catalog so far.
        tokenizer: with the new items behind.
        texts: one per new item, empty where there is none; None: nothing is known of any.

    Returns:
        float32 [new, items so far], the rows' sums being 1, or 0 where no item lends.
    """
    shares = code_neighbors(state.tokenizer, tokenizer)
    if state.items is None or texts is None:
        return shares
    alike = _by_words(state, texts, tokenizer.codes[len(state.tokenizer) :, 0])
    unlike = np.diff(alike.indptr) == 0
    return (alike + sparse.diags(unlike.astype(np.float32)) @ shares).tocsr()


def _by_words(state: RecommenderState, texts: list[str], first_codes: np.ndarray) -> sparse.csr_matrix:
    """float32 [new, items]: squared similarities of the nearest, each row divided by its sum."""
    assert state.items is not None  # the caller has looked
    known, codes = len(state.tokenizer), np.unique(first_codes)
    around = {code: items_around(state.tokenizer, int(code), _COMPARED) for code in codes}
    union = np.unique(np.concatenate(list(around.values())))
    of_union = item_texts(state.items.take(pa.array(union)), state.template, required=False)
    words = word_vectors([*of_union, *texts])
    found = sparse.lil_matrix((len(texts), known), dtype=np.float32)
    if words is not None:
        # What is in every text, such as a column's name, says nothing; alone it would make all alike.
        compared = ItemTexts(words[:, words.getnnz(axis=0) < words.shape[0]])
        for code in codes:
            new = np.flatnonzero(first_codes == code)
            similar = compared.similarity(len(union) + new, np.searchsorted(union, around[code]))
            found[np.ix_(new, around[code])] = similar
    nearest = truncated(found.tocsr(), NEAREST)
    return row_shares(nearest.power(2).tocsr())
