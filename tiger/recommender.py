"""One object, one directory: everything needed to recommend, and to embed, number and recommend new items."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import T5ForConditionalGeneration

from tiger import __version__
from tiger.catalogue_ranker import CatalogueRanker
from tiger.data import DataError, Sequences
from tiger.embeddings import LSAEncoder, SentenceEncoder, load_encoder
from tiger.examples import EvaluationCollator, EvaluationExamples, pad_rows
from tiger.files import replaced_folder
from tiger.generation import beam_search
from tiger.retriever import check_pair
from tiger.tokenizer import SemanticIdTokenizer
from tiger.trie import SemanticIdTrie

MANIFEST = "tiger.json"
TRIE = "trie.safetensors"
RANKER = "ranker"
FORMAT = 1


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
        ranker: CatalogueRanker | None = None,
    ):
        check_pair(model, tokenizer)
        if items is not None and items["item_id"].to_pylist() != tokenizer.item_ids:
            raise ValueError("the item table must hold the tokenizer's items in the tokenizer's order")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.items = items
        self.max_history = max_history
        self.training = training or {}
        self.ranker = ranker
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
        batch_size: int = 256,
        progress: bool = False,
        rank: bool = True,
        both_scores: bool = False,
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

        Returns:
            Item ids, a list a user (shorter than ``k`` only where the catalogue is), and scores, float32 [users, k],
            ``-inf`` where there is no item: the ranker's logits where it has ordered them, else the T5's
            log-probabilities; with ``both_scores`` [users, k, 2], the T5's first.
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
        )
        ids = self.tokenizer.item_ids
        return [[ids[row] for row in answer if row >= 0] for answer in answers.tolist()], scores

    def recommend_rows(
        self,
        histories: Sequences,
        k: int = 10,
        num_beams: int = 50,
        exclude_history: bool = True,
        temperature: float | None = None,
        seed: int | None = None,
        batch_size: int = 256,
        progress: bool = False,
        rank: bool = True,
        both_scores: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`recommend` in row numbers: ``(int64 [users, k], float32 [users, k])``, -1 and ``-inf`` where none."""
        if num_beams < k:
            raise ValueError(f"num_beams ({num_beams}) must be at least k ({k})")
        if both_scores and (self.ranker is None or not rank):
            raise ValueError("both_scores wants a ranker that ranks: train one with recipes/ranker.py")
        if self.ranker is not None and rank:
            proposed, beams = self.recommend_rows(
                histories, num_beams, num_beams, exclude_history, temperature, seed, batch_size, progress, rank=False
            )
            logits = self.ranker.score(list(histories), proposed)
            order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
            rows, beams, logits = (np.take_along_axis(array, order, 1) for array in (proposed, beams, logits))
            return rows, np.stack([beams, logits], axis=-1) if both_scores else logits
        examples = EvaluationExamples(histories, np.zeros(len(histories), dtype=np.int64), self.max_history)
        collate = EvaluationCollator(self.tokenizer)
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        answers = np.full((len(examples), k), -1, dtype=np.int64)
        scores = np.full((len(examples), k), -np.inf, dtype=np.float32)
        # Users with histories of one length share a batch, so that nothing is padded.
        order = examples.by_length()
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        trie = self.trie

        def decode(users: np.ndarray) -> int:
            batch = collate([examples[user] for user in users])
            beams = beam_search(
                self.model,
                trie,
                batch["input_ids"].to(self.device),
                num_beams=num_beams,
                k=k,
                excluded=batch["seen"].to(self.device) if exclude_history else None,
                temperature=temperature,
                generator=generator,
            )
            answers[users], scores[users] = beams.rows.cpu().numpy(), beams.scores.cpu().numpy()
            return len(users)

        # Random numbers are drawn batch after batch, or a seed would not say what comes.
        workers = _each_core_a_batch if self.device.type == "cpu" and temperature is None else map
        with tqdm(total=len(order), desc="recommending", unit="user", disable=not progress) as bar:
            for count in workers(decode, batches):
                bar.update(count)
        return answers, scores

    def rank(
        self, histories: Sequence[Sequence[str]], candidates: Sequence[Sequence[str]]
    ) -> tuple[list[list[str]], list[np.ndarray]]:
        """The ranker's order of given candidates.

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

    def copy(self) -> TigerRecommender:
        """Another with the same items, whose updates this one does not see: it may go on answering meanwhile.

        The weights are copied, because an update may resize them; tables that are only ever replaced are shared.
        """
        tokenizer = self.tokenizer.copy()
        ranker = None if self.ranker is None else copy.copy(self.ranker)
        model = copy.deepcopy(self.model)
        other = TigerRecommender(model, tokenizer, self.encoder, self.items, self.max_history, self.training, ranker)
        other._trie = self._trie
        return other

    def add_items(self, item_ids: Sequence[str], texts: Sequence[str]) -> None:
        """Make new items recommendable at once: embed, quantise with the frozen quantizer, extend the trie.

        Items that are known already are left as they are.
        """
        if self.encoder is None:
            raise ValueError("this recommender was saved without a text encoder, so it can't embed new items")
        embeddings = self.encoder.encode(list(texts))
        count, trie = len(self.tokenizer), self.trie
        rows = self.tokenizer.add_items(item_ids, embeddings)
        if self.tokenizer.vocab_size > self.model.config.vocab_size:
            with torch.random.fork_rng():
                torch.manual_seed(self.tokenizer.vocab_size)  # equal additions to equal models give equal models
                self.model.resize_token_embeddings(self.tokenizer.vocab_size)
        if self.items is not None:
            new = pa.table(
                {"item_id": pa.array(self.tokenizer.item_ids[count:], self.items.schema.field("item_id").type)}
            )
            self.items = pa.concat_tables([self.items, new], promote_options="default")
        self._trie = trie.insert(self.tokenizer.token_table[count:])
        if self.ranker is not None:
            self.ranker.add_items(self.tokenizer, embeddings[rows >= count])

    def remove_items(self, item_ids: Sequence[str]) -> None:
        """Take items out of every future answer."""
        stay = self.tokenizer.remove_items(item_ids)
        if self.items is not None:
            self.items = self.items.take(stay)
        if self.ranker is not None:
            self.ranker.keep_items(stay)
        self._trie = None

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """What to call items in print: their titles where the item table has them, else their ids."""
        if self.items is None or "title" not in self.items.column_names:
            return list(item_ids)
        names = self.items["title"].take(self.tokenizer.rows(item_ids)).to_pylist()
        return [name or item for name, item in zip(names, item_ids)]

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write one directory that holds everything. What was there before stays whole until the new one is."""
        with replaced_folder(folder, MANIFEST) as fresh:
            self.model.save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh)
            self.trie.save(fresh / TRIE)
            if self.encoder is not None:
                self.encoder.save_pretrained(fresh / "encoder")
            if self.items is not None:
                pq.write_table(self.items, fresh / "items.parquet")
            if self.ranker is not None:
                self.ranker.save_pretrained(fresh / RANKER)
            manifest = {
                "format": FORMAT,
                "tiger": __version__,
                "semantic_ids": self.tokenizer.fingerprint,
                "max_history": self.max_history,
                "training": self.training,
                "parts": sorted(path.name for path in fresh.iterdir()),
            }
            # Written last: a directory without it is half-written.
            (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, device: str | torch.device = "cpu") -> TigerRecommender:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            DataError: the directory is missing, half-written, damaged, of another version, or its parts don't belong
                together.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"{folder} is no directory: give the one that a recipe saved, such as runs/demo/model.")
        if not (folder / MANIFEST).exists():
            raise DataError(f"{folder} has no {MANIFEST}: it is half-written or no saved recommender. Save it again.")
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
        except json.JSONDecodeError as error:
            raise DataError(f"{folder / MANIFEST} is damaged ({error}): save the recommender again.") from error
        if manifest.get("format") != FORMAT:
            raise DataError(
                f"{folder} has format {manifest.get('format')} (written by tiger {manifest.get('tiger')}), this is "
                f"tiger {__version__}, which reads format {FORMAT}: install that version, or train again."
            )
        missing = [part for part in manifest["parts"] if not (folder / part).exists()]
        if missing:
            raise DataError(f"{folder} lacks {', '.join(missing)}: it is half-written. Save the recommender again.")
        try:
            tokenizer = SemanticIdTokenizer.from_pretrained(folder)
            # Directories from before the trie was saved have none: it is built when it is needed.
            trie = SemanticIdTrie.load(folder / TRIE) if (folder / TRIE).exists() else None
            model = T5ForConditionalGeneration.from_pretrained(folder, use_safetensors=True)
            encoder = load_encoder(folder / "encoder") if (folder / "encoder").is_dir() else None
            table = folder / "items.parquet"
            items = pq.read_table(table) if table.exists() else None
            ranker = (
                CatalogueRanker.from_pretrained(folder / RANKER, tokenizer) if (folder / RANKER).is_dir() else None
            )
        except (OSError, SafetensorError, json.JSONDecodeError, pa.ArrowInvalid) as error:
            raise DataError(f"{folder} can't be read ({error}). Save the recommender again.") from error
        if tokenizer.fingerprint != manifest["semantic_ids"] or len(trie or tokenizer) != len(tokenizer):
            raise DataError(f"{folder}: semantic IDs and {MANIFEST} come from different models. Save it again.")
        recommender = cls(model, tokenizer, encoder, items, manifest["max_history"], manifest["training"], ranker)
        recommender._trie = trie
        recommender.model.to(device)
        if ranker is not None:
            ranker.ranker.to(device)
        return recommender


def _each_core_a_batch(decode: Callable[[np.ndarray], int], batches: list[np.ndarray]) -> Iterator[int]:
    """``map``, with as many batches at a time as torch has threads, one thread each.

    The products of a small model are too short to share: two threads on one batch take longer than one.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(batches) == 1:
        yield from map(decode, batches)
        return
    # Autocast belongs to a thread, and these are new ones.
    autocast = {"dtype": torch.get_autocast_dtype("cpu"), "enabled": torch.is_autocast_enabled("cpu")}

    def run(users: np.ndarray) -> int:
        with torch.autocast("cpu", **autocast):
            return decode(users)

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(run, batches)
    finally:
        torch.set_num_threads(threads)
