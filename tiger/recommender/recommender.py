"""TigerRecommender: recommend items, add new ones, save and load everything together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from huggingface_hub import CommitInfo
from transformers import T5ForConditionalGeneration

from tiger.data.sequences import Sequences, id_lists
from tiger.embeddings.base import ItemEncoder
from tiger.rankers.base import Ranker
from tiger.recommender import hub
from tiger.recommender.answers import AnswerOptions, answer_histories, rank_candidates
from tiger.recommender.catalog_updates import (
    ItemBatch,
    embed_items,
    with_items,
    with_updated_items,
    without_items,
)
from tiger.recommender.checkpoint import write_state
from tiger.recommender.filters import CompiledFilter, Filter, NamedFilter, compile_aloud
from tiger.recommender.histories import Moments, Times, known_histories
from tiger.recommender.loading import LoadOptions, load_options, load_state
from tiger.recommender.parts import RecommenderParts
from tiger.recommender.state import RecommenderState
from tiger.retriever.memory import ItemMemory
from tiger.retriever.search_options import SearchOptions
from tiger.retriever.user_tokens import user_array
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer


class TigerRecommender(RecommenderParts):
    """A T5, the tokenizer it was trained with and, for new items, the encoder of their texts.

    Args:
        model: a T5 over the tokenizer's tokens.
        tokenizer: items and their semantic IDs.
        encoder: embeds the texts of new items.
        items: the item table, a row per item in the tokenizer's order, with ``item_id`` and for instance ``title``.
        max_history: how many items of a history the model reads.
        training: a record of the training, saved unchanged (any JSON object).
        ranker: orders the T5's candidates; None: the T5's own order.
        memory: what followed each item in the log, mixed with the T5's probabilities; None: the T5 alone.

    Attributes:
        state: all of these, and ``unseen`` and ``trie``, as one :class:`tiger.recommender.state.RecommenderState`.
        unseen: bool [items]: True for items added, or given a new semantic ID, since training.

    A state never changes: each update of the catalog makes a new one, which replaces the old one only if the update
    succeeds. ``copy.copy`` of a recommender is therefore a cheap snapshot.

    Example::

        tiger = TigerRecommender.from_pretrained("runs/demo/model")
        items, scores = tiger.recommend([["item-1", "item-2"]], k=10)
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        tokenizer: SemanticIdTokenizer,
        encoder: ItemEncoder | None = None,
        items: pa.Table | None = None,
        max_history: int = 20,
        training: dict | None = None,
        ranker: Ranker | None = None,
        memory: ItemMemory | None = None,
    ):
        self.state = RecommenderState(
            model, tokenizer, encoder, items, ranker, max_history=max_history, training=training or {}, memory=memory
        )
        self.state.check()
        model.eval()

    @classmethod
    def from_state(cls, state: RecommenderState) -> TigerRecommender:
        """Create a recommender from a checked state."""
        recommender = cls.__new__(cls)
        recommender.state = state
        return recommender

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        timestamps: Times | None = None,
        at: Moments | None = None,
        rank: bool = True,
        both_scores: bool = False,
        unseen_share: float | None = None,
        user_ids: Sequence[str | None] | None = None,
        filter: Filter | Sequence[Filter | None] | None = None,
        **search: Any,
    ) -> tuple[list[list[str]], np.ndarray]:
        """Recommend the most probable next items.

        Args:
            histories: a list of item ids per user, oldest first. Unknown ids are named in a warning and left out.
            k: items per user.
            timestamps: seconds since 1970 of each history's events, a list or None per user; for the second stage.
            at: seconds since 1970 at which recommendations are wanted, for all or per user; None: at the last event.
            rank: let the ranker order the beams, where there is one.
            both_scores: give the T5's scores and the ranker's.
            unseen_share: share of the ``k`` places for items that training never saw, from 0 to 1, rounded up
                to whole places (TIGER's epsilon, arXiv 2305.05065, section 4.3); the rest goes to the others, and
                either kind fills in where the other has too few. The T5 has not learned the collision tokens of such
                items: they score by their codes, in equal parts where several share them. Decoding takes twice as
                long. None: all items compete.
            user_ids: one per history, or None for an unknown user, where the model has user tokens; default: None.
            filter: which items may be recommended: an expression over the item table, such as
                ``pyarrow.compute.field("price") < 20``, the same in words (``"price < 20"``), the name of a filter of
                :meth:`add_filter`, a list of item ids, or what :meth:`compile_filter` returned; or a list of such
                filters, or None, one per history. Texts in a list are ids: names are ``tiger.filters["in stock"]``
                there. Where ``k`` items are allowed and not left out with the history, there are ``k`` answers.
            search: fields of :class:`tiger.retriever.search.SearchOptions`: ``num_beams``, ``exclude_history``,
                ``temperature``, ``seed``, ``batch_size``, ``progress``.

        Returns:
            Item ids, one list per user (shorter than ``k`` only where the catalog, or what a filter allows of it,
            is), and scores, float32 [users, k], ``-inf`` where there is no item: the ranker's where it has ordered
            them (a click model's logits, with the T5's log-probabilities in them by its ``t5_weight``), else the T5's
            log-probabilities, or what they are mixed to where there is a memory; with ``both_scores`` [users, k, 2],
            the T5's first.

        Raises:
            DataError: times, users or filters that don't fit the histories, or a filter that can't be read.
        """
        histories = id_lists(histories, "histories")
        options = AnswerOptions(SearchOptions(**search), k, rank, both_scores, unseen_share)
        state = self.state  # of one moment, whatever becomes of the catalog meanwhile
        sequences = known_histories(state.tokenizer, histories, timestamps, at)
        sequences = replace(sequences, user_ids=user_array(state.model, user_ids, len(histories)))
        filters = state.filters.choose(filter, len(histories))
        answers, scores = answer_histories(state, sequences, options, filters)
        ids = state.tokenizer.item_ids
        return [[ids[row] for row in answer if row >= 0] for answer in answers.tolist()], scores

    def recommend_rows(
        self,
        histories: Sequences,
        k: int = 10,
        rank: bool = True,
        both_scores: bool = False,
        unseen_share: float | None = None,
        filter: Filter | Sequence[Filter | None] | None = None,
        **search,
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`recommend` in row numbers: ``(int64 [users, k], float32 [users, k])``, -1 and ``-inf`` where none.

        Args:
            search: fields of :class:`tiger.retriever.search.SearchOptions`.
        """
        options = AnswerOptions(SearchOptions(**search), k, rank, both_scores, unseen_share)
        state = self.state
        return answer_histories(state, histories, options, state.filters.choose(filter, len(histories)))

    def rank(
        self,
        histories: Sequence[Sequence[str]],
        candidates: Sequence[Sequence[str]],
        *,
        timestamps: Times | None = None,
        at: Moments | None = None,
        filter: Filter | Sequence[Filter | None] | None = None,
    ) -> tuple[list[list[str]], list[np.ndarray]]:
        """The ranker's order of given candidates, by its logits alone: the T5 is not used.

        Args:
            histories: a list of item ids per user, oldest first. Unknown ids are named in a warning and left out.
            candidates: a list of item ids per user.
            timestamps, at, filter: see :meth:`recommend`; candidates that the filter does not allow are left out.

        Returns:
            The candidates, best first, and their logits, one list and one float32 array per user.

        Raises:
            DataError: there is no ranker, a candidate is unknown, or times don't fit.
        """
        histories, candidates = id_lists(histories, "histories"), id_lists(candidates, "candidates")
        state = self.state
        sequences = known_histories(state.tokenizer, histories, timestamps, at)
        return rank_candidates(state, sequences, candidates, state.filters.choose(filter, len(histories)))

    @property
    def filters(self) -> Mapping[str, NamedFilter]:
        """Filters by the names that :meth:`add_filter` gave them; each may be given as a filter."""
        return MappingProxyType(self.state.filters.named)

    def add_filter(self, name: str, filter: Filter) -> CompiledFilter:
        """Keep a filter by a name, in place of one that had it, while this recommender is in memory; it isn't saved.

        An expression is evaluated anew when the catalog changes; ids stay as they are.

        Args:
            name: by which :meth:`recommend` finds it, before it reads a text as an expression in words.
            filter: an expression, one in words, or item ids, see :meth:`recommend`. They are copied.

        Returns:
            What it allows now, see :meth:`compile_filter`.

        Raises:
            DataError: the filter can't be read.
        """
        state = self.state
        self.state = state = replace(state, filters=state.filters.add(name, filter))
        return compile_aloud(state.filters, name)

    def remove_filter(self, name: str) -> None:
        """Forget a filter.

        Raises:
            DataError: none has the name.
        """
        state = self.state
        self.state = replace(state, filters=state.filters.remove(name))

    def compile_filter(self, filter: Filter) -> CompiledFilter:
        """The items that a filter allows: ``mask``, bool [items], ``count``, and ``unknown`` ids.

        Until the catalog changes, it may be given as a filter; it is not warned of again.

        Raises:
            DataError: the filter can't be read.
        """
        return compile_aloud(self.state.filters, filter)

    def add_items(
        self,
        item_ids: Sequence[str],
        texts: Sequence[str] | None = None,
        table: pa.Table | Sequence[dict] | None = None,
        embeddings: np.ndarray | None = None,
    ) -> list[str]:
        """Make new items recommendable at once: embed, quantize with the frozen quantizer, extend the trie.

        Items that are known already are left as they are, and those that are new keep the IDs of all others as they
        are. If anything fails, nothing has changed.

        Args:
            item_ids: the items' own ids.
            texts: one per item, at most ``tiger.embeddings.MAX_TEXT`` characters each; default: made from the table,
                as :func:`tiger.embeddings.item_texts` made those of the catalog.
            table: a row per item for the item table (``title``, ...), as an Arrow table or a list of dicts. Columns
                that the item table lacks are left out, those that this one lacks stay empty.
            embeddings: float [m, d], where the encoder's vectors are at hand: it is not asked for them then.

        Returns:
            The ids that were new.

        Raises:
            DataError: an item twice, an empty or an endless text, a column that doesn't fit, or no encoder.
        """
        self.state, added = with_items(self.state, ItemBatch(item_ids, texts, table, embeddings))
        return added

    def update_items(
        self,
        item_ids: Sequence[str],
        texts: Sequence[str] | None = None,
        table: pa.Table | Sequence[dict] | None = None,
        embeddings: np.ndarray | None = None,
    ) -> list[str]:
        """Update the texts of known items. Where the frozen quantizer finds the same codes, an item keeps its ID.

        Else it gets the ID of its new text and counts as unseen from then on, for training knew it by another. All
        other items keep theirs. If anything fails, nothing has changed. A memory stays as it is: what the log says of
        the item still holds, and the items that its old text was like still count as near it until the next training.

        Args:
            item_ids, texts, table, embeddings: see :meth:`add_items`. What the table lacks, or null, stays in the item
                table as it was; a text that is made from the table is made from the whole row. Where codes know the
                log, the encoder is asked what the texts were before.

        Returns:
            The ids of the items whose semantic ID changed.

        Raises:
            DataError: as :meth:`add_items`, or an item is unknown.
        """
        self.state, changed = with_updated_items(self.state, ItemBatch(item_ids, texts, table, embeddings))
        return changed

    def remove_items(self, item_ids: Sequence[str]) -> None:
        """Remove items from the catalog.

        Raises:
            DataError: an item is unknown, or none would be left.
        """
        self.state = without_items(self.state, item_ids)

    def embed_items(
        self,
        item_ids: Sequence[str],
        texts: Sequence[str] | None = None,
        table: pa.Table | Sequence[dict] | None = None,
    ) -> np.ndarray:
        """The vectors, float32 [m, d], that :meth:`add_items` would quantize; nothing is added."""
        return embed_items(self.state, ItemBatch(item_ids, texts, table, None))

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """Names of items for people: their titles where the item table has them, else their ids."""
        state, item_ids = self.state, list(item_ids)
        if state.items is None or "title" not in state.items.column_names:
            return item_ids
        names = state.items["title"].take(state.tokenizer.rows(item_ids)).to_pylist()
        return [name or item for name, item in zip(names, item_ids)]

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write one directory that holds everything. What was there before stays whole until the new one is."""
        write_state(self.state, folder)

    def push_to_hub(
        self,
        repo_id: str,
        options: hub.PushOptions | None = None,
        **fields: Any,
    ) -> CommitInfo:
        """Publish what :meth:`save_pretrained` writes, with a model card, in one commit.

        A part that the repository has from an earlier push, and this recommender has not, is deleted; files that no
        push of a recommender wrote stay.

        Args:
            repo_id: ``owner/name``; made where there is none.
            options: what is published and how.
            fields: fields of :class:`tiger.recommender.hub.PushOptions` (``include_items``, ``results``, ``license``,
                ``datasets``, ``private``, ``token``, ``revision``, ``commit_message``, ``create_pr``), over those of
                ``options``.

        Returns:
            The commit: its URL as text, with ``oid`` and ``pr_url``.

        Raises:
            DataError: no connection, no token, no right to write, results that are not of this model, a ranker that
                reads the texts which are not to be published, weights that are NaN or infinite, or adapters that are
                not merged into them.
        """
        return hub.push(self.state, repo_id, replace(options or hub.PushOptions(), **fields))

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        device: str | int | torch.device | None = None,
        *,
        options: LoadOptions | None = None,
        **fields: Any,
    ) -> TigerRecommender:
        """Read what :meth:`save_pretrained` or :meth:`push_to_hub` wrote. No code of a repository is run.

        Args:
            name: a directory, a recommender's or a run's with its ``model``; or, where there is none, a repository on
                the Hub, ``owner/name``; or ``demo``, a small one that comes with the library.
            device: of the model and the ranker; None: the CPU.
            options: from where, in which precision, with which parts.
            fields: fields of :class:`tiger.recommender.loading.LoadOptions` (``revision``, ``token``, ``cache_dir``,
                ``local_files_only``, ``force_download``, ``subfolder``, ``rank``, ``dtype``, ``device_map``,
                ``attn_implementation``), over those of ``options``; ``torch_dtype`` is ``dtype``.

        Raises:
            DataError: neither directory nor readable repository, half-written, damaged or tampered with, of another
                version, or its parts don't belong together; or an option is unknown, or the device is not there.
        """
        return cls.from_state(load_state(name, device, load_options(options, fields)))
