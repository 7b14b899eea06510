"""Baselines that a model must beat: popularity, transition, content, and their training-free hybrid.

Nothing is trained by gradients. All four are fitted on the training log alone, for the test too: the validation item
then belongs to the history, but counts are not updated, as no model is retrained. What learns from validation targets,
as the second stage does, is to be compared with ``hybrid-with-validation``, whose counts include them.

Two rules prevent leakage on datasets such as the 5-core Amazon ones, where row numbers and counts reveal the answer:

* *Ties* are broken in a seeded random order of the catalog, never by row number, because item tables are often
  sorted by a product code that reveals when an item was listed.
* *Counts below 5* are not distinguished: where every item was filtered to have five events or more, a lower training
  count reveals that an event was held out. Popularity reads ``max(count, 5)``, also for items that the log lacks.
  Transition sums over pairs of items, and no total of an item enters it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from tiger._moved import old_names
from tiger.data.cooccurrence import COUNT_FLOOR, floored_totals, follower_counts
from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.evaluation.evaluator import NextItemEvaluation, evaluate, metrics_only
from tiger.evaluation.training_split import SUFFIX
from tiger.utils.growing_rows import GrowingRows, with_empty

TRANSITION_WEIGHT = 0.5  # of the hybrid
_CHUNK_SCORES = 2**24  # scores held at once, 64 MiB of float32


class Popularity:
    """The items with the most events in the training log.

    Args:
        seed: of the random order that breaks ties.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, train: Sequences, num_items: int) -> Popularity:
        """Count the events of each item, all counts up to 5 being alike."""
        self.counts = floored_totals(train, num_items)
        shuffled = np.random.default_rng(self.seed).permutation(num_items)
        # Columns of every score matrix lie in this order: most popular first, at random among the equally popular.
        self.order = shuffled[np.argsort(-self.counts[shuffled], kind="stable")]
        self.place = np.argsort(self.order)  # the column of each item
        return self

    def extended(self, count: int) -> Popularity:
        """With so many items more that have no events, behind all others."""
        grown, known = copy.copy(self), len(self.order)
        grown.counts = np.append(self.counts, np.full(count, COUNT_FLOOR, dtype=np.float32))
        grown.order, grown.place = (
            np.append(rows, np.arange(known, known + count)) for rows in (self.order, self.place)
        )
        return grown

    def recommend(
        self, histories: Sequences, k: int = 10, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best items of each history.

        Args:
            histories: n sequences of item rows.
            k: length of the answer.
            exclude_history: leave out items that the history holds.

        Returns:
            items int32 [n, k], best first, -1 where the catalog holds too few, and scores float32 [n, k]: counts,
            ``-inf`` beside -1.
        """
        return recommend_by_score(
            lambda part: np.tile(self.counts[self.order], (len(part), 1)), self.order, histories, k, exclude_history
        )


class Transition:
    """Items that followed the last items of the history in other users' histories.

    ``score(j)`` = sum over the last 5 items i, newest first, of .8^age * sum over gaps 1, 2, 3 of count(i, then j) /
    gap. Counts are raw: not divided by any total.

    Args:
        max_gap: how many steps ahead an item counts as a follower, with weight 1 / gap.
        last: how many items of the history are read.
        decay: weight of an item relative to the next newer one.
        log_counts: take ``log(1 + weight)`` of the summed weights, so that a few frequent pairs don't drown the rest.
        seed: of the random order that breaks ties.
    """

    def __init__(self, max_gap: int = 3, last: int = 5, decay: float = 0.8, log_counts: bool = False, seed: int = 0):
        self.max_gap, self.last, self.decay, self.log_counts, self.seed = max_gap, last, decay, log_counts, seed

    def fit(self, train: Sequences, num_items: int) -> Transition:
        """Count followers in the training log: a sparse matrix of at most ``max_gap`` entries per event."""
        popularity = Popularity(self.seed).fit(train, num_items)
        return self.from_counts(follower_counts(train, num_items, self.max_gap), popularity)

    def from_counts(self, counts: sparse.csr_matrix, popularity: Popularity) -> Transition:
        """Use counts of followers, float32 [items, items], that were made before."""
        self.popularity = popularity
        followers = counts[:, popularity.order]
        self.followers = followers.log1p() if self.log_counts else followers
        return self

    def extended(self, popularity: Popularity) -> Transition:
        """The same counts over items to which :meth:`Popularity.extended` has added some."""
        grown = copy.copy(self)
        grown.popularity, grown.followers = popularity, with_empty(self.followers, len(popularity.order))
        return grown

    def recommend(
        self, histories: Sequences, k: int = 10, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``Popularity.recommend``; where fewer than ``k`` items ever followed, popular ones come last, at 0."""
        return recommend_by_score(self.scores, self.popularity.order, histories, k, exclude_history)

    def scores(self, histories: Sequences) -> np.ndarray:
        """float32 [n, items], columns in popularity's order."""
        return (recency(histories, self.last, self.decay, self.followers.shape[0]) @ self.followers).toarray()


class Content:
    """Items whose text is like that of the last items of the history.

    ``score(j)`` = sum over the last 3 items i, newest first, of .6^age * cosine(tfidf(i), tfidf(j)), with
    scikit-learn's TF-IDF as it comes: lower-cased words of two characters or more, plain term counts, smoothed idf,
    unit length.

    Args:
        last: how many items of the history are read.
        decay: weight of an item relative to the next newer one.
        seed: of the random order that breaks ties.
    """

    def __init__(self, last: int = 3, decay: float = 0.6, seed: int = 0):
        self.last, self.decay, self.seed = last, decay, seed

    def fit(self, train: Sequences, texts: list[str], required: bool = True) -> Content:
        """Learn word weights from the whole catalog's ``texts``, one per item; ``train`` serves the fallback alone.

        Args:
            required: False: where no text holds a word, no item is like another.

        Raises:
            ValueError: no text holds a word.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.popularity = Popularity(self.seed).fit(train, len(texts))
        self._vectorizer = TfidfVectorizer(dtype=np.float32)
        try:
            self._rows = GrowingRows(self._vectorizer.fit_transform(texts))
        except ValueError:
            if required:
                raise
            self._vectorizer = None
            self._rows = GrowingRows(_no_words(texts))
        columns = self.vectors[self.popularity.order].T.tocsr()
        # Words in more than 1/16 of the items go through a dense product: they are few and make up most of the work.
        frequent = np.diff(columns.indptr) > len(texts) / 16
        self.frequent, self.rare = np.flatnonzero(frequent), np.flatnonzero(~frequent)
        # By words, and for those items by which extended() has added to the catalog.
        self._columns = [(columns[self.frequent].toarray(), columns[self.rare])]
        return self

    @property
    def vectors(self) -> sparse.csr_matrix:
        """float32 [items, words], TF-IDF."""
        return self._rows.matrix

    def extended(self, texts: list[str]) -> Content:
        """With more items, one text for each, that have no events. Word weights stay; words that no item had count
        nothing."""
        grown, known = copy.copy(self), self._columns[0][1].shape[1]
        grown.popularity = self.popularity.extended(len(texts))
        grown._rows = self._rows.append(self._vectorizer.transform(texts) if self._vectorizer else _no_words(texts))
        columns = grown.vectors[known:].T.tocsr()
        grown._columns = [self._columns[0], (columns[self.frequent].toarray(), columns[self.rare])]
        return grown

    def recommend(
        self, histories: Sequences, k: int = 10, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``Popularity.recommend``; where fewer than ``k`` items share a word, popular ones come last, at 0."""
        return recommend_by_score(self.scores, self.popularity.order, histories, k, exclude_history)

    def scores(self, histories: Sequences) -> np.ndarray:
        """float32 [n, items], columns in popularity's order."""
        return self.similarity(recency(histories, self.last, self.decay, len(self.popularity.order)))

    def similarity(self, weights: sparse.csr_matrix) -> np.ndarray:
        """Cosines to items, summed with ``weights`` [n, items]: float32 [n, items], columns in popularity's order."""
        profiles = (weights @ self.vectors).tocsc()
        frequent, rare = profiles[:, self.frequent].toarray(), profiles[:, self.rare].tocsr()
        parts = []
        for frequent_columns, rare_columns in self._columns:
            parts.append((rare @ rare_columns).toarray())
            parts[-1] += frequent @ frequent_columns
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def similarity_to(self, rows: np.ndarray, *weights: sparse.csr_matrix) -> list[np.ndarray]:
        """:meth:`similarity` to given items alone: for each of the ``weights`` [n, items], float32 of the shape of
        ``rows`` [n, C]. What it costs doesn't depend on the number of items."""
        own, found = self.vectors[rows.ravel()], []
        users = np.repeat(np.arange(rows.size) // max(rows.shape[1], 1), np.diff(own.indptr))
        for weight in weights:
            profiles = (weight @ self.vectors).tocoo()
            words, columns = np.unique(profiles.col, return_inverse=True)
            table = np.zeros((len(rows), len(words) + 1), dtype=np.float32)  # the last column: no such word
            table[profiles.row, columns] = profiles.data
            place = np.full(own.shape[1], len(words))
            place[words] = np.arange(len(words))
            products = own.data * table[users, place[own.indices]]
            sums = sparse.csr_matrix((products, own.indices, own.indptr), shape=own.shape).sum(axis=1)
            found.append(np.asarray(sums, dtype=np.float32).reshape(rows.shape))
        return found


class Hybrid:
    """Training-free hybrid: half of ``Transition``'s score plus ``Content``'s.

    Args:
        transition_weight: factor of the transition score.
        transition, content: the two parts; the defaults are those described in their own docstrings.
    """

    def __init__(
        self,
        transition_weight: float = TRANSITION_WEIGHT,
        transition: Transition | None = None,
        content: Content | None = None,
    ):
        self.transition_weight = transition_weight
        self.transition, self.content = transition or Transition(), content or Content()
        if self.transition.seed != self.content.seed:
            raise ValueError("transition and content must break ties by the same seed")

    def fit(self, train: Sequences, texts: list[str]) -> Hybrid:
        """Fit both parts on the training log and the catalog's ``texts``, one per item."""
        self.transition.fit(train, len(texts))
        self.content.fit(train, texts)
        return self

    def baselines(self) -> dict[str, Popularity | Transition | Content | Hybrid]:
        """All that has been fitted, by the names that tables have: ``popularity``, both parts, and ``hybrid``."""
        return {
            "popularity": self.content.popularity,
            "transition": self.transition,
            "content": self.content,
            "hybrid": self,
        }

    def recommend(
        self, histories: Sequences, k: int = 10, exclude_history: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``Popularity.recommend``; an empty history gets the popular items, with score 0."""
        return recommend_by_score(self.scores, self.content.popularity.order, histories, k, exclude_history)

    def scores(self, histories: Sequences) -> np.ndarray:
        """float32 [n, items], columns in popularity's order."""
        return self.content.scores(histories) + self.transition_weight * self.transition.scores(histories)


def _no_words(texts: list[str]) -> sparse.csr_matrix:
    """TF-IDF of texts where no word is known: float32 [texts, 0]."""
    return sparse.csr_matrix((len(texts), 0), dtype=np.float32)


Baseline = Popularity | Transition | Content | Hybrid


def fitted_baselines(train: Sequences, texts: Sequence[str], seed: int = 0) -> dict[str, Baseline]:
    """The baselines of a log by name, the strongest last; where no text holds a word, those that read none.

    Args:
        train: the log that they count.
        texts: one per item, see :func:`baseline_evaluations`.
        seed: of the order that breaks ties.
    """
    try:
        return Hybrid(transition=Transition(seed=seed), content=Content(seed=seed)).fit(train, list(texts)).baselines()
    except ValueError:  # no text holds a word
        transition = Transition(seed=seed).fit(train, len(texts))
        return {"popularity": transition.popularity, "transition": transition}


def baseline_evaluations(
    split: LeaveOneOut,
    texts: list[str],
    part: str = "test",
    ks: Sequence[int] = (5, 10),
    exclude_history: bool = True,
    seed: int = 0,
    only: Sequence[str] = (),
) -> dict[str, NextItemEvaluation]:
    """Evaluations of the baselines, by name, the simplest first; their seconds are of the answers, not of the fit.

    The second stage learns from validation targets, which the baselines don't count. On the test,
    ``hybrid-with-validation`` is the hybrid fitted on training and validation events; where no text holds a word,
    ``transition-with-validation`` stands in its place.

    Args:
        split: from ``RecommendationData.leave_one_out``.
        texts: one per item, such as ``tiger.embeddings.item_texts`` gives.
        part: ``"test"`` or ``"valid"``; for both, all but ``hybrid-with-validation`` are fitted on ``split.train``.
        ks: cut-offs.
        exclude_history: whether items of the history are left out.
        seed: of the order that breaks ties.
        only: names of those that are measured; none: all.
    """
    histories, targets = split.part(part)
    baselines = fitted_baselines(split.train, texts, seed)
    *_, strongest = baselines
    if part == "test" and (not only or strongest + SUFFIX in only):
        baselines[strongest + SUFFIX] = fitted_baselines(split.test_histories, texts, seed)[strongest]
    return {
        name: evaluate(baseline.recommend, histories, targets, ks, exclude_history)
        for name, baseline in baselines.items()
        if not only or name in only
    }


# ``{"popularity": {"recall@5": ..., ...}, ...}``
evaluate_baselines = metrics_only(baseline_evaluations)


def recency(histories: Sequences, last: int, decay: float, num_items: int) -> sparse.csr_matrix:
    """decay^age at each of the ``last`` newest items of a history, summed where one recurs: float32 [n, num_items]."""
    recent = histories.keep_last(last)
    weights = np.power(decay, recent.ages, dtype=np.float32)
    matrix = sparse.csr_matrix((weights, recent.items, recent.offsets), shape=(len(recent), num_items))
    matrix.sum_duplicates()
    return matrix


def recommend_by_score(
    score: Callable[[Sequences], np.ndarray], order: np.ndarray, histories: Sequences, k: int, exclude_history: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Top ``k`` by ``score``, in chunks of users that bound memory.

    Args:
        score: of n histories: float32 [n, items], written to; 0 where nothing is known.
        order: int [items], the item of each column of ``score``. Of equal scores, the first column's comes first.

    Returns:
        See :meth:`Popularity.recommend`.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    items = np.full((len(histories), k), -1, dtype=np.int32)
    scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
    column = np.argsort(order)
    # Items without evidence queue behind all others, the most popular first.
    queue = -np.arange(1, len(order) + 1, dtype=np.float32)
    kept = min(k, len(order))
    for users, part in histories.in_parts(_CHUNK_SCORES // len(order)):
        values = score(part)
        np.copyto(values, queue, where=values == 0)
        if exclude_history:
            values[part.users, column[part.items]] = -np.inf
        best, found = best_columns(values, kept)
        items[users, :kept] = np.where(found == -np.inf, -1, order[best])
        scores[users, :kept] = np.where((found < 0) & (found > -np.inf), 0, found)
    return items, scores


def best_columns(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` columns of the largest values of each row, best first, and these values: both [n, k]."""
    # torch's selection is six times faster than numpy's argpartition.
    best = np.sort(torch.topk(torch.from_numpy(values), k, dim=1, sorted=False).indices.numpy(), axis=1)
    found = np.take_along_axis(values, best, axis=1)
    ranking = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(best, ranking, axis=1), np.take_along_axis(found, ranking, axis=1)


if not TYPE_CHECKING:  # to a type checker, old names are errors
    __getattr__ = old_names(__name__)
