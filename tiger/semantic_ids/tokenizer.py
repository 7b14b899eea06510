"""The tokenizer: items to semantic IDs to tokens, and back, in bulk.

A *semantic ID* is an item's codes, one per level, and a collision token that distinguishes items with the same codes.
*Tokens* are the T5's inputs and outputs, one per level: codes, or prefixes of semantic IDs (see
:mod:`tiger.semantic_ids.vocabulary`).
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tiger._moved import old_arguments
from tiger.quantizers.base import Quantizer
from tiger.semantic_ids.directory import read_directory, write_directory
from tiger.semantic_ids.fitting import Cooccurrence, fit_codes
from tiger.semantic_ids.hub import HubTokenizer, tokenizer_folder
from tiger.semantic_ids.item_ids import ItemIds
from tiger.semantic_ids.numbering import check_codes, check_ids, either_of, number_within_groups
from tiger.semantic_ids.packing import PackedIds, Packing
from tiger.semantic_ids.storage import PREFIX_TABLE
from tiger.semantic_ids.vocabulary import PAD_TOKEN, CodeVocabulary, PrefixVocabulary, empty_vocabulary
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.growing import Growing
from tiger.utils.hub import download_options


class SemanticIdTokenizer(HubTokenizer):
    """Map between a catalog's items, their semantic IDs and their tokens.

    Args:
        codes: integers [n, num_codebooks], each from 0 to ``codebook_size`` - 1.
        item_ids: the ``n`` items' own ids, distinct.
        codebook_size: codes per level.
        collision_size: values that the collision token has room for (default: ``codebook_size``, more if needed).
        quantizer: the one that made the codes; :meth:`add_items` needs it for embeddings.
        tokens: ``codes``, ``prefixes`` or ``hashed_prefixes``.
        learned_split: the split of the log, such as ``{"shuffle_ties": None}``, whose training events the codes were
            learned from; None: from no events.

    Example:
        >>> tokenizer = SemanticIdTokenizer(np.array([[1, 2], [1, 2], [0, 3]]), ["a", "b", "c"], codebook_size=4)
        >>> tokenizer.semantic_ids.tolist()
        [[1, 2, 1], [1, 2, 0], [0, 3, 0]]
        >>> tokenizer.decode(tokenizer.encode([2, 0])).tolist()
        [2, 0]
    """

    def __init__(
        self,
        codes: np.ndarray,
        item_ids: Iterable[str],
        codebook_size: int,
        collision_size: int | None = None,
        quantizer: Quantizer | None = None,
        tokens: str = "codes",
        learned_split: dict | None = None,
    ):
        codes = check_codes(codes, codebook_size)
        item_ids = check_ids(item_ids, len(codes))
        packing = Packing(codes.shape[1], codebook_size)
        collisions = number_within_groups(packing.pack_codes(codes), item_ids)
        self._set(np.column_stack([codes, collisions]).astype(np.int32), ItemIds(item_ids), codebook_size)
        self._collision_size = collision_size
        self._number_tokens(tokens)
        self.quantizer = quantizer
        self.learned_split = learned_split
        layout = f"{self.num_codebooks}x{codebook_size}".encode()
        self.fingerprint = hashlib.sha256(layout + self.semantic_ids.tobytes()).hexdigest()[:16]

    def _set(self, semantic_ids: np.ndarray, item_ids: ItemIds, codebook_size: int) -> None:
        """Set everything that follows from the semantic IDs except their tokens."""
        self._semantic_ids = Growing(semantic_ids)
        self.item_ids = item_ids
        self.codebook_size = codebook_size
        self._ids = PackedIds(Packing(semantic_ids.shape[1] - 1, codebook_size), semantic_ids)

    @property
    def semantic_ids(self) -> np.ndarray:
        """int32 [n, depth]: codes and the collision token."""
        return self._semantic_ids.values

    def _number_tokens(self, kind: str) -> None:
        """Number the tokens of the present semantic IDs, as a new vocabulary."""
        packing = self._ids.packing
        empty = empty_vocabulary(kind, packing, self._collision_size)
        nobody = np.zeros((0, self.depth), dtype=np.int32)
        table, vocabulary = empty.extended(self.semantic_ids, PackedIds(packing, nobody), nobody)
        self._set_tokens(table, vocabulary)

    def _set_tokens(self, table: np.ndarray, vocabulary: CodeVocabulary | PrefixVocabulary) -> None:
        self.vocabulary = vocabulary
        self._tokens = Growing(table)

    @classmethod
    @old_arguments(log="cooccurrence", log_weight="cooccurrence_weight")
    def fit(
        cls,
        embeddings: np.ndarray,
        item_ids: Iterable[str],
        num_codebooks: int = 3,
        codebook_size: int = 256,
        quantizer: str | type[Quantizer] | Quantizer = "rqvae",
        cooccurrence: Cooccurrence | np.ndarray | None = None,
        **options: Any,
    ) -> SemanticIdTokenizer:
        """Fit a quantizer to item embeddings and give each item its semantic ID.

        With ``cooccurrence`` the codes also reflect which items are bought together. Items without interactions have
        no such vector, so the quantizer that is kept reads the embeddings' part of the codebooks alone.

        Args:
            embeddings: float [n, d], a row per item.
            item_ids: the items' own ids.
            num_codebooks: levels of codes.
            codebook_size: codes per level.
            quantizer: a name (``rqvae``, ``residual-kmeans`` or one that you registered), a class with the methods of
                :class:`tiger.quantizers.base.Quantizer`, or one that is fitted already, whose sizes count then.
            cooccurrence: vectors from the training log and their weight; or the vectors alone, with
                ``cooccurrence_weight`` and ``learned_split`` as options.
            options: passed to the quantizer's ``fit`` (``seed``, ``progress``, ...).

        Raises:
            DataError: the quantizer is unknown, or can't do without co-occurrence for new items; or too many levels.
        """
        own = {name: options.pop(name) for name in ("cooccurrence_weight", "learned_split") if name in options}
        if isinstance(cooccurrence, np.ndarray):
            cooccurrence = Cooccurrence.of(cooccurrence, **own)
        codes, fitted = fit_codes(quantizer, embeddings, cooccurrence, num_codebooks, codebook_size, **options)
        split = own.get("learned_split") if cooccurrence is None else cooccurrence.learned_split
        return cls(codes, item_ids, fitted.codebook_size, quantizer=fitted, learned_split=split)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def depth(self) -> int:
        """Tokens per item: the codes and the collision token."""
        return self.semantic_ids.shape[1]

    @property
    def num_codebooks(self) -> int:
        return self.depth - 1

    @property
    def codes(self) -> np.ndarray:
        """int32 [n, num_codebooks]."""
        return self.semantic_ids[:, :-1]

    @property
    def tokens(self) -> str:
        """``codes``, ``prefixes`` or ``hashed_prefixes``."""
        return self.vocabulary.kind

    @property
    def vocab_size(self) -> int:
        """Tokens in all, padding included."""
        return self.vocabulary.size

    @property
    def history_depth(self) -> int:
        """Tokens that an item takes in a history."""
        return self.vocabulary.history_depth

    @property
    def token_table(self) -> np.ndarray:
        """int32 [n, depth]: every item's tokens."""
        return self._tokens.values

    def rows(self, item_ids: Sequence[str], missing: int | None = None) -> np.ndarray:
        """int64 [n]: the rows of items by their own ids; ``missing`` stands in for unknown ones.

        Raises:
            KeyError: an id is unknown and ``missing`` is None.
        """
        rows = self.item_ids.rows(item_ids)
        unknown = np.flatnonzero(rows < 0)
        if len(unknown) and missing is None:
            raise KeyError(list(item_ids)[unknown[0]])
        rows[unknown] = -1 if missing is None else missing
        return rows

    def encode(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Rows, int [...], to tokens, int64 [..., depth]. Row -1 becomes padding."""
        return self._tokens_of(rows, 0)

    def encode_history(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Rows, int [..., n], to a history's tokens, int64 [..., n * history_depth]. Row -1 becomes padding."""
        tokens = self._tokens_of(rows, self.depth - self.history_depth)
        return tokens.reshape(*tokens.shape[:-2], -1)

    def _tokens_of(self, rows: np.ndarray | Sequence[int], start: int) -> np.ndarray:
        """Tokens of rows, int64 [..., depth - start], from level ``start`` on."""
        rows = np.asarray(rows, dtype=np.int64)
        tokens = self.token_table[rows, start:].astype(np.int64)
        tokens[rows < 0] = PAD_TOKEN
        return tokens

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens, int [..., depth], to rows, int64 [...]; -1 where no item has these tokens."""
        return self.vocabulary.rows(np.asarray(tokens, dtype=np.int64), self._ids, self.token_table)

    def pack(self, semantic_ids: np.ndarray) -> np.ndarray:
        """Semantic IDs, int [..., depth], as one uint64 each: see :class:`tiger.semantic_ids.packing.Packing`."""
        return self._ids.packing.pack(semantic_ids)

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`pack`: uint64 [...] to int32 [..., depth]."""
        return self._ids.packing.unpack(packed)

    def add_items(
        self, item_ids: Sequence[str], embeddings: np.ndarray | None = None, codes: np.ndarray | None = None
    ) -> np.ndarray:
        """Assign semantic IDs to new items; those that are known already keep their IDs and are left as they are.

        Args:
            item_ids: the new items' own ids.
            embeddings: float [m, d], quantized by the frozen quantizer; or
            codes: int [m, num_codebooks], where the codes are at hand.

        Returns:
            int64 [m], the items' rows. If :attr:`vocab_size` has grown, resize the embeddings of models over it.
        """
        given = either_of(embeddings, codes)
        item_ids = check_ids(item_ids, len(given))
        known = self.rows(item_ids, missing=-1)
        new = np.flatnonzero(known < 0)
        if len(new) == 0:
            return known
        if codes is None:
            quantizer = self._own_quantizer()
            codes = np.full((len(item_ids), self.num_codebooks), 0)
            codes[new] = quantizer.encode(given[new])
        new_ids = [item_ids[index] for index in new]
        self._append(self._numbered(np.asarray(codes)[new], new_ids), new_ids)
        known[new] = np.arange(len(self) - len(new), len(self))
        return known

    def check_split(self, shuffle_ties: int | None, held_out: bool = True) -> None:
        """Raise an error for codes learned from another split's training events, some of which are held out here, if
        any are (``held_out``).

        Raises:
            DataError: they were.
        """
        if not held_out:
            return
        if self.learned_split is not None and self.learned_split.get("all"):
            raise DataError("these codes were learned from all events, held-out ones among them: give split all.")
        if self.learned_split is not None and self.learned_split["shuffle_ties"] != shuffle_ties:
            raise DataError(
                f"these codes were learned from the log with shuffle_ties {self.learned_split['shuffle_ties']}, which "
                f"includes events tested with {shuffle_ties}: fit a tokenizer with shuffle_ties {shuffle_ties}."
            )

    def update_items(
        self,
        item_ids: Sequence[str],
        embeddings: np.ndarray | None = None,
        codes: np.ndarray | None = None,
        before: np.ndarray | None = None,
    ) -> np.ndarray:
        """Update semantic IDs from new embeddings or codes. Rows stay; where the codes stay, so does the whole ID.

        Args:
            item_ids: known items.
            embeddings: float [m, d], quantized by the frozen quantizer; or
            codes: int [m, num_codebooks].
            before: float [m, d], the embeddings that the items had, NaN where that is unknown: where the quantizer
                gives them the codes that it gives the new ones, codes stay. It matters for codes that were not made
                from embeddings alone.

        Returns:
            bool [m]: whose ID is another one now. No item gets an ID that another has just given up.

        Raises:
            KeyError: an id is unknown.
        """
        given = either_of(embeddings, codes)
        item_ids = check_ids(item_ids, len(given))
        rows = self.rows(item_ids)
        codes = check_codes(self._own_quantizer().encode(given) if codes is None else given, self.codebook_size)
        known = self.codes[rows]
        has_previous = np.zeros(len(rows), dtype=bool) if before is None else ~np.isnan(before).any(axis=1)
        if before is not None and has_previous.any():
            known[has_previous] = self._own_quantizer().encode(before[has_previous])
        changed = (codes != known).any(axis=1) & (codes != self.codes[rows]).any(axis=1)
        if changed.any():
            ids = [item for item, other in zip(item_ids, changed) if other]
            numbered = self._numbered(codes[changed], ids)
            semantic_ids, table = self.semantic_ids.copy(), self.token_table.copy()
            table[rows[changed]], vocabulary = self.vocabulary.extended(numbered, self._ids, table)
            semantic_ids[rows[changed]] = numbered
            self._set(semantic_ids, self.item_ids, self.codebook_size)
            self._set_tokens(table, vocabulary)
        return changed

    def _numbered(self, codes: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
        """Semantic IDs, int32 [m, depth], for new items: codes and the first free collision tokens."""
        codes = check_codes(codes, self.codebook_size)
        within = number_within_groups(self._ids.packing.pack_codes(codes), item_ids)
        return np.column_stack([codes, self._ids.next_collisions(codes) + within]).astype(np.int32)

    def _append(self, semantic_ids: np.ndarray, item_ids: list[str]) -> None:
        """Do the work of :meth:`_set` when few items are added to many."""
        ids = self._ids.insert(semantic_ids)  # what can fail comes first
        tokens, vocabulary = self.vocabulary.extended(semantic_ids, self._ids, self.token_table)
        # No array is changed in place: a shallow copy of a tokenizer stays as it is.
        self._ids, self.item_ids = ids, self.item_ids.append(item_ids)
        self._semantic_ids = self._semantic_ids.append(semantic_ids)
        self.vocabulary, self._tokens = vocabulary, self._tokens.append(tokens)

    def remove_items(self, item_ids: Sequence[str]) -> np.ndarray:
        """Remove items; the rest keep their IDs and move up. A later item may get an ID that has become free.

        Returns:
            int64 [n left]: the rows, before removal, of the items that stay.

        Raises:
            KeyError: an id is unknown.
            ValueError: nothing would be left.
        """
        keep = np.ones(len(self), dtype=bool)
        keep[self.rows(item_ids)] = False
        if not keep.any():
            raise ValueError("a catalog can't lose all its items")
        stay = np.flatnonzero(keep)
        self._ids, self.item_ids = self._ids.keep(keep), self.item_ids.keep(stay)
        self._semantic_ids = Growing(self.semantic_ids[stay])
        self._set_tokens(self.token_table[stay], self.vocabulary)
        return stay

    def with_tokens(self, tokens: str) -> SemanticIdTokenizer:
        """The same semantic IDs as tokens of another kind, see :attr:`tokens`."""
        if tokens == self.tokens:
            return self
        other = copy.copy(self)
        other._number_tokens(tokens)
        return other

    def _own_quantizer(self) -> Quantizer:
        if self.quantizer is None:
            raise DataError("this tokenizer has no quantizer to turn embeddings into codes: pass codes instead")
        return self.quantizer

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write ``semantic_ids.safetensors`` and, where there is a quantizer, its folder.

        Raises:
            DiskError: the disk is full, read-only or denied.
        """
        folder = Path(folder)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        header = {
            "codebook_size": self.codebook_size,
            "fingerprint": self.fingerprint,
            "tokens": self.tokens,
            "collision_size": self._collision_size,
            "learned_split": self.learned_split,
        }
        arrays = {"semantic_ids": self.semantic_ids}
        if isinstance(self.vocabulary, PrefixVocabulary):
            arrays[PREFIX_TABLE] = self.token_table
            header["num_prefixes"] = self.vocabulary.num_prefixes
        else:
            header["collision_size"] = self.vocabulary.collision_size
        write_directory(folder, arrays, self.item_ids, header, self.quantizer)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, **options: Any) -> SemanticIdTokenizer:
        """Read what :meth:`save_pretrained` or :meth:`push_to_hub` wrote, or a recommender's.

        Args:
            name: a directory; or, where there is none, a repository on the Hub, ``owner/name``.
            options: fields of :class:`tiger.utils.hub.DownloadOptions` (``revision``, ``token``, ``subfolder``, ...).

        Raises:
            DataError: the file is missing, cut short, or of another version, or the repository can't be read.
        """
        arrays, item_ids, header, quantizer = read_directory(tokenizer_folder(name, download_options(options)))
        self = cls.__new__(cls)
        self._collision_size = header.get("collision_size")
        self._set(arrays["semantic_ids"], item_ids, header["codebook_size"])
        if PREFIX_TABLE in arrays:
            self._set_tokens(arrays[PREFIX_TABLE], PrefixVocabulary(header["num_prefixes"]))
        else:
            self._number_tokens(header.get("tokens", CodeVocabulary.kind))
        self.fingerprint = header["fingerprint"]
        self.learned_split = header.get("learned_split")
        self.quantizer = quantizer
        return self
