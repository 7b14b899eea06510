"""One object, one directory: everything needed to recommend, and to embed, number and recommend new items."""

from __future__ import annotations

import copy
import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from huggingface_hub import CommitInfo
from transformers import T5ForConditionalGeneration

from tiger.data.sequences import Sequences, pad_rows
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.embeddings.sentence_encoder import SentenceEncoder
from tiger.rankers.click.ranker import CatalogueRanker
from tiger.rankers.two_stage.ranker import TwoStageRanker
from tiger.recommender import hub
from tiger.recommender.catalog_updates import Catalogue, GivenItems
from tiger.recommender.checkpoint import check_saved_together, read_parts, write_recommender
from tiger.recommender.manifest import check_files, read_manifest
from tiger.recommender.model_card import CARD_FILES, model_card, write_card
from tiger.retriever.config import check_pair
from tiger.retriever.search import CatalogPart, SearchOptions, beams_of_users, merge_with_quota
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer
from tiger.semantic_ids.trie import SemanticIdTrie
from tiger.utils.errors import DataError


class TigerRecommender:
    """A T5, the tokenizer it was trained with and, for new items, the encoder of their texts.

    Args:
        model: a T5 over the tokenizer's tokens.
        tokenizer: items and their semantic IDs.
        encoder: what embeds the texts of new items.
        items: the item table, a row an item in the tokenizer's order, with ``item_id`` and for instance ``title``.
        max_history: how many items of a history the model reads.
        training: what is known of the training, kept as it is (any JSON object).
        ranker: orders what the T5 proposes; None: the T5's own order stands.

    Attributes:
        unseen: bool [items], whose semantic ID training never saw: items added, or numbered anew, since.

    The catalogue changes all at once or not at all: new parts are made and take the places of the old ones, which stay
    as they are. ``copy.copy`` of a recommender is therefore a snapshot of its catalogue, and costs nothing.

    Example::

        tiger = TigerRecommender.from_pretrained("runs/demo/model")
        items, scores = tiger.recommend([["item-1", "item-2"]], k=10)
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        tokenizer: SemanticIdTokenizer,
        encoder: SentenceEncoder | LSAEncoder | None = None,
        items: pa.Table | None = None,
        max_history: int = 20,
        training: dict | None = None,
        ranker: CatalogueRanker | TwoStageRanker | None = None,
    ):
        check_pair(model, tokenizer)
        if ranker is not None:
            _check_ranker(ranker, tokenizer)
        if items is not None and items["item_id"].to_pylist() != tokenizer.item_ids:
            raise ValueError("the item table must hold the tokenizer's items in the tokenizer's order")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.items = items
        self.max_history = max_history
        self.training = training or {}
        self.ranker = ranker
        self.unseen = np.zeros(len(tokenizer), dtype=bool)
        self._trie: SemanticIdTrie | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def trie(self) -> SemanticIdTrie:
        """Over the tokenizer's items as they are now."""
        if self._trie is None:
            self._trie = SemanticIdTrie.build(self.tokenizer.token_table)
        self._trie = self._trie.to(self.device)
        return self._trie

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        num_beams: int = 50,
        exclude_history: bool = True,
        temperature: float | None = None,
        seed: int | None = None,
        batch_size: int = 64,
        progress: bool = False,
        rank: bool = True,
        both_scores: bool = False,
        unseen_share: float | None = None,
    ) -> tuple[list[list[str]], np.ndarray]:
        """The items that most probably come next.

        Args:
            histories: a list of item ids a user, oldest first. Unknown ids are named in a warning and left out.
            k: items a user.
            num_beams: candidates kept while decoding; more finds better items and costs more.
            exclude_history: leave out items of the history.
            temperature: None: the most probable items; a number: a sample without replacement, more varied the higher.
            seed: of sampling.
            rank: let the ranker order the beams, where there is one.
            both_scores: give the T5's scores and the ranker's.
            unseen_share: what share of the ``k`` places goes to items that training never saw, from 0 to 1, rounded up
                to whole places (TIGER's epsilon, arXiv 2305.05065, section 4.3); the rest goes to the others, and
                either kind fills in where the other has too few. The T5 knows nothing of the collision tokens of such
                items: they score by their codes, in equal parts where several share them. None: no shares, all items
                compete. Decoding takes twice as long.

        Returns:
            Item ids, a list a user (shorter than ``k`` only where the catalogue is), and scores, float32 [users, k],
            ``-inf`` where there is no item: the ranker's where it has ordered them (a click model's logits, with the
            T5's log-probabilities in them by its ``t5_weight``), else the T5's log-probabilities; with
            ``both_scores`` [users, k, 2], the T5's first.
        """
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise TypeError('histories is a list of histories: [["item-1", "item-2"]], not ["item-1", "item-2"]')
        rows = self._known(histories)
        lengths = [len(known) for known in rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        items = np.concatenate([*rows, np.empty(0, dtype=np.int64)]).astype(np.int32)
        answers, scores = self.recommend_rows(
            Sequences(offsets, items, np.zeros(len(items), dtype=np.int64)),
            k=k,
            num_beams=num_beams,
            exclude_history=exclude_history,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            rank=rank,
            both_scores=both_scores,
            unseen_share=unseen_share,
        )
        ids = self.tokenizer.item_ids
        return [[ids[row] for row in answer if row >= 0] for answer in answers.tolist()], scores

    def recommend_rows(
        self,
        histories: Sequences,
        k: int = 10,
        rank: bool = True,
        both_scores: bool = False,
        unseen_share: float | None = None,
        **search,
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`recommend` in row numbers: ``(int64 [users, k], float32 [users, k])``, -1 and ``-inf`` where none.

        Args:
            search: fields of :class:`tiger.retriever.search.SearchOptions`.
        """
        options = SearchOptions(**search)
        if options.num_beams < k:
            raise ValueError(f"num_beams ({options.num_beams}) must be at least k ({k})")
        if both_scores and (self.ranker is None or not rank):
            raise ValueError("both_scores wants a ranker that ranks: train one with recipes/ranker.py")
        if unseen_share is not None and not 0 <= unseen_share <= 1:
            raise ValueError(f"unseen_share must be from 0 to 1, got {unseen_share}")

        def answer(part: CatalogPart) -> tuple[np.ndarray, np.ndarray]:
            ranked = self.ranker is not None and rank
            count = options.num_beams if ranked else k
            proposed, scores = beams_of_users(
                self.model, self.tokenizer, self.trie, histories, count, options, self.max_history, part
            )
            if not ranked:
                return proposed, scores
            rows, scores, logits = self.ranker.order(
                histories, proposed, scores, k, options.exclude_history, part.rows
            )
            return rows, np.stack([scores, logits], axis=-1) if both_scores else logits

        if unseen_share is None or not 0 < self.unseen.sum() < len(self.unseen):
            return answer(CatalogPart())
        # Collision tokens, or whole IDs as tokens, of items that training never saw mean nothing.
        halves = (CatalogPart(~self.unseen), CatalogPart(self.unseen, self.tokenizer.num_codebooks))
        return merge_with_quota(*map(answer, halves), k=k, quota=math.ceil(unseen_share * k - 1e-9))

    def rank(
        self, histories: Sequence[Sequence[str]], candidates: Sequence[Sequence[str]]
    ) -> tuple[list[list[str]], list[np.ndarray]]:
        """The ranker's order of given candidates, by its logits alone: the T5 is not asked.

        Args:
            histories: a list of item ids a user, oldest first. Unknown ids are named in a warning and left out.
            candidates: a list of item ids a user.

        Returns:
            The candidates, best first, and their logits, a list and a float32 array a user.

        Raises:
            DataError: there is no ranker, or a candidate is unknown.
        """
        if self.ranker is None:
            raise DataError("this recommender has no ranker: train one with recipes/ranker.py.")
        unknown = [item for given in candidates for item in given if self.tokenizer.rows([item], missing=-1)[0] < 0]
        if unknown:
            raise DataError(f"candidates that the catalogue lacks: {', '.join(map(repr, unknown[:5]))}.")
        wanted = pad_rows([self.tokenizer.rows(given) for given in candidates])
        logits = self.ranker.score(self._known(histories), wanted)
        ids, scores = [], []
        for given, values in zip(candidates, logits):
            order = np.argsort(-values[: len(given)], kind="stable")
            ids.append([given[place] for place in order])
            scores.append(values[order])
        return ids, scores

    def _known(self, histories: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Rows of the items of each history; unknown ones are named in a warning and left out."""
        rows = [self.tokenizer.rows(history, missing=-1) for history in histories]
        unknown = [item for ids, known in zip(histories, rows) for item, row in zip(ids, known) if row < 0]
        if unknown:
            names = ", ".join(repr(item) for item in dict.fromkeys(unknown[:5]))
            more = ", ..." if len(set(unknown)) > len(set(unknown[:5])) else ""
            warnings.warn(f"items unknown and left out of the histories: {names}{more}", stacklevel=3)
        return [known[known >= 0] for known in rows]

    def add_items(
        self,
        item_ids: Sequence[str],
        texts: Sequence[str] | None = None,
        table: pa.Table | Sequence[dict] | None = None,
        embeddings: np.ndarray | None = None,
    ) -> list[str]:
        """Make new items recommendable at once: embed, quantise with the frozen quantizer, extend the trie.

        Items that are known already are left as they are, and those that are new keep the IDs of all others as they
        are. If anything fails, nothing has changed.

        Args:
            item_ids: the items' own ids.
            texts: one an item, at most ``tiger.embeddings.MAX_TEXT`` characters each; default: made from the table, as
                :func:`tiger.embeddings.item_texts` made those of the catalogue.
            table: a row an item for the item table (``title``, ...), as an Arrow table or a list of dicts. Columns
                that the item table lacks are left out, those that this one lacks stay empty.
            embeddings: float [m, d], where the encoder's vectors are at hand: it is not asked for them then.

        Returns:
            The ids that were new.

        Raises:
            DataError: an item twice, an empty or an endless text, a column that doesn't fit, or no encoder.
        """
        catalogue, added = self._catalogue.with_items(GivenItems(item_ids, texts, table, embeddings))
        self._take(catalogue)
        return added

    def update_items(
        self,
        item_ids: Sequence[str],
        texts: Sequence[str] | None = None,
        table: pa.Table | Sequence[dict] | None = None,
        embeddings: np.ndarray | None = None,
    ) -> list[str]:
        """Give known items new texts. Where the frozen quantizer finds the same codes, an item keeps its semantic ID.

        Else it gets the ID of its new text and counts as unseen from then on, for training knew it by another. All
        other items keep theirs. If anything fails, nothing has changed.

        Args:
            item_ids, texts, table, embeddings: see :meth:`add_items`. What the table lacks, or null, stays in the item
                table as it was; a text that is made from the table is made from the whole row. Where codes know the
                log, the encoder is asked what the texts were before.

        Returns:
            The items whose semantic ID is another one now.

        Raises:
            DataError: as :meth:`add_items`, or an item is unknown.
        """
        catalogue, changed = self._catalogue.with_news(GivenItems(item_ids, texts, table, embeddings))
        self._take(catalogue)
        return changed

    def remove_items(self, item_ids: Sequence[str]) -> None:
        """Take items out of every future answer.

        Raises:
            DataError: an item is unknown, or none would be left.
        """
        self._take(self._catalogue.without_items(item_ids))

    def embed_items(
        self,
        item_ids: Sequence[str],
        texts: Sequence[str] | None = None,
        table: pa.Table | Sequence[dict] | None = None,
    ) -> np.ndarray:
        """The vectors, float32 [m, d], that :meth:`add_items` would quantise; nothing is added."""
        return self._catalogue.embedded(GivenItems(item_ids, texts, table, None))

    @property
    def _catalogue(self) -> Catalogue:
        """What a change of the catalogue changes."""
        return Catalogue(
            self.tokenizer,
            self.encoder,
            self.training.get("template"),
            self.items,
            self.model,
            self.ranker,
            self.unseen,
            self._trie,
        )

    def _take(self, changed: Catalogue) -> None:
        """Nothing here can fail: a catalogue is the old one or the new one."""
        self.model, self.tokenizer, self.items = changed.model, changed.tokenizer, changed.items
        self.ranker, self.unseen, self._trie = changed.ranker, changed.unseen, changed.trie

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """What to call items in print: their titles where the item table has them, else their ids."""
        if self.items is None or "title" not in self.items.column_names:
            return list(item_ids)
        names = self.items["title"].take(self.tokenizer.rows(item_ids)).to_pylist()
        return [name or item for name, item in zip(names, item_ids)]

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write one directory that holds everything. What was there before stays whole until the new one is."""
        write_recommender(self, folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        include_items: bool = False,
        results: Sequence[dict] = (),
        license: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a tiger recommender",
        create_pr: bool = False,
    ) -> CommitInfo:
        """Publish what :meth:`save_pretrained` writes, with a model card, in one commit.

        A part that the repository has from an earlier push, and this recommender has not, is deleted; files that no
        push of a recommender wrote stay.

        Args:
            repo_id: ``owner/name``; made where there is none.
            include_items: publish the item table, titles and all. Item ids and codes are published in any case; an
                LSA encoder holds the words of the texts it was fitted on, a ranker may hold vectors of them.
            results: rows of results files for the card, see :func:`tiger.recommender.model_card.read_results`.
            license: of the weights, as the Hub spells it (``"apache-2.0"``); None: the card says that none is stated.
            private: of a new repository; None: as the owner's default is. One that exists stays as it is, and a public
                one is refused if this is true.
            token: None: that of ``hf auth login`` or ``$HF_TOKEN``.
            revision: a branch, made where there is none; None: ``main``.
            create_pr: make it a pull request against ``main``.

        Returns:
            The commit: its URL as text, with ``oid`` and ``pr_url``.

        Raises:
            DataError: no connection, no token, no right to write, results that are not of this model, or a ranker that
                reads the texts which are not to be published.
        """
        if isinstance(self.ranker, TwoStageRanker) and not include_items:
            raise DataError(
                "the second stage reads the items' texts, which are not published unasked: give include_items=True "
                "(--with_items), or push the recommender without its ranker."
            )
        if isinstance(self.encoder, SentenceEncoder) and Path(self.encoder.name).is_dir():
            warnings.warn(
                f"the encoder is a folder of this machine, {self.encoder.name}, which is not published: who downloads "
                "this recommender can't add items. Push the encoder to the Hub and name it from there.",
                stacklevel=2,
            )
        model_card(self, repo_id, results, license)  # what is wrong with the results is told before anything is made
        published = copy.copy(self)
        if not include_items:
            published.items = None
        repo_id = hub.create_repository(repo_id, private, token)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            published.save_pretrained(folder)
            write_card(published, folder, repo_id, results, license, revision)
            return hub.upload(
                folder,
                repo_id,
                card_files=CARD_FILES,
                token=token,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        device: str | torch.device = "cpu",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        rank: bool = True,
    ) -> TigerRecommender:
        """Read what :meth:`save_pretrained` or :meth:`push_to_hub` wrote.

        Args:
            name: a directory or, where there is none, a repository on the Hub, ``owner/name``.
            revision: branch, tag or commit on the Hub.
            token: for a private or gated repository; None: that of ``hf auth login`` or ``$HF_TOKEN``.
            cache_dir: of downloads; None: the Hub client's own.
            local_files_only: take a repository from the cache, without the network.
            rank: read the ranker, where there is one.

        Raises:
            DataError: neither directory nor readable repository, half-written, damaged or tampered with, of another
                version, or its parts don't belong together.
        """
        folder = Path(name)
        if folder.is_dir():
            check_files(folder, read_manifest(folder))
        elif hub.is_repo_id(name):
            folder = hub.download(name, revision, token, cache_dir, local_files_only)
        else:
            raise DataError(
                f"{folder} is no directory: give the one that a recipe saved, such as runs/demo/model, or a "
                "repository on the Hub, owner/name."
            )
        parts, trie, unseen = read_parts(folder, device, rank)
        try:
            recommender = cls(**parts)
        except ValueError as error:
            raise DataError(f"{folder}: its parts come from different models ({error}). Save it again.") from error
        check_saved_together(folder, recommender.tokenizer, trie, unseen)
        recommender._trie = trie
        recommender.unseen[unseen] = True
        recommender.model.to(device)
        return recommender


def _check_ranker(ranker: CatalogueRanker | TwoStageRanker, tokenizer: SemanticIdTokenizer) -> None:
    """Refuse a ranker of other semantic IDs, or over another catalogue."""
    if ranker.fingerprint and ranker.fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"this ranker was made for semantic IDs {ranker.fingerprint}, not {tokenizer.fingerprint}: "
            "use the tokenizer that it was made with"
        )
    if len(ranker) != len(tokenizer):
        raise ValueError(f"this ranker knows {len(ranker)} items, the tokenizer {len(tokenizer)}")
