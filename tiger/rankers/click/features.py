"""Item features: each item is a few rows of one embedding table, whose vectors are summed.

Hashing gives each item random rows, so the rows of a new item are untrained. Codes, their n-grams, their prefixes or
the pieces of a learned vocabulary (Singh et al., arXiv 2306.08121; Zheng et al., arXiv 2504.02137) are shared by
similar items, so the rows of a new item are trained already. All kinds can use the same number of rows.

Two kinds have no rows: ``dense`` reads an item's content vector, which is stored with the ranker, and
``dense_from_codes`` the vector that the tokenizer's quantizer decodes from the item's codes, which takes no storage
(after arXiv 2607.24865). Where codes were learned from text and co-occurrence (``cooccurrence_weight`` above 0), the
quantizer that a tokenizer keeps has the text's part of the codebooks, and that part is what it decodes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.trainers import UnigramTrainer

from tiger.rankers.click.hashes import mix, mix_columns
from tiger.rankers.click.saved_features import MAX_HASHES, read_settings
from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

FILE_NAME = "item_features.json"
FORMAT = 1
CODE_KINDS = ("unigram", "ngram", "prefix_ngram", "spm")
VECTOR_KINDS = ("dense", "dense_from_codes")
KINDS = ("random_hash", *CODE_KINDS, *VECTOR_KINDS)
PRIVATE_USE = 0xF0000  # where Unicode keeps 65,534 characters for private use: one for each code of each level
_CHUNK = 50_000


class ItemFeatures:
    """Items to rows of an embedding table.

    Made by :meth:`fit`. Nothing in it depends on which items there are, but for the pieces of ``spm``, learned once
    from what training has seen.

    Args:
        kind: one of :data:`KINDS`, or several joined by ``+``, which then share the budget equally. ``spm`` leaves
            rows unused where the tuples of codes share fewer pieces than it has rows. ``dense`` and
            ``dense_from_codes`` exclude each other.
        budget: rows of the table in all. A further one, number ``budget``, pads and is always zero.
        num_codebooks, codebook_size: of the codes.
        n: length of an n-gram.
        num_hashes: rows of an item under ``random_hash``, at most 64.
        seed: of the hashes.
        pieces: the vocabulary of ``spm``: each piece, one character per code, and its score.

    Example:
        >>> features = ItemFeatures("prefix_ngram", budget=1000, num_codebooks=2, codebook_size=4)
        >>> rows = features.rows(["a", "b"], np.array([[1, 2], [1, 3]]))
        >>> rows.shape, bool(rows[0, 0] == rows[1, 0]), bool(rows[0, 1] == rows[1, 1])
        ((2, 2), True, False)
    """

    def __init__(
        self,
        kind: str,
        budget: int,
        num_codebooks: int,
        codebook_size: int,
        n: int = 2,
        num_hashes: int = 2,
        seed: int = 0,
        pieces: dict[str, float] | None = None,
    ):
        self.kinds = kind.split("+")
        unknown = [part for part in self.kinds if part not in KINDS]
        if unknown or len(set(self.kinds)) < len(self.kinds):
            raise DataError(f"kind must be one of {', '.join(KINDS)}, or several joined by +, got {kind!r}.")
        if set(VECTOR_KINDS) <= set(self.kinds):
            raise DataError(f"an item has one content vector, stored or decoded: {kind} names both.")
        self.tables = _tables(self.kinds)
        if budget < max(1, len(self.tables)):
            raise DataError(f"a budget of {budget} rows is too small for {kind}.")
        if num_codebooks * codebook_size > 65_534:
            raise DataError(f"{num_codebooks} levels of {codebook_size} codes are more than 65,534 codes in all.")
        if "ngram" in self.kinds and not 1 <= n <= num_codebooks:
            raise DataError(f"n must be between 1 and the number of levels, {num_codebooks}, got {n}.")
        if not 1 <= num_hashes <= MAX_HASHES:
            raise DataError(f"num_hashes must be between 1 and {MAX_HASHES}, got {num_hashes}.")
        self.kind, self.budget = kind, budget
        self.num_codebooks, self.codebook_size = num_codebooks, codebook_size
        self.n, self.num_hashes, self.seed = n, num_hashes, seed
        if "spm" in self.kinds and pieces is None:
            raise DataError("spm has a vocabulary to learn first: use ItemFeatures.fit.")
        self._pieces = None if pieces is None else _Pieces(pieces, codebook_size)

    @classmethod
    def fit(
        cls,
        kind: str,
        budget: int,
        codes: np.ndarray,
        codebook_size: int,
        impressions: np.ndarray | None = None,
        **options,
    ) -> ItemFeatures:
        """Learn what there is to learn: for ``spm``, the pieces.

        Args:
            codes: int [items, levels].
            impressions: int [items], how often training showed each item: what the pieces are learned from. Items
                that it never showed must be 0, or absent from both. Default: once each.
            options: ``n``, ``num_hashes``, ``seed``.
        """
        codes = np.asarray(codes)
        pieces = None
        if "spm" in kind.split("+"):
            share = budget // max(1, len(_tables(kind.split("+"))))
            counts = np.ones(len(codes), dtype=np.int64) if impressions is None else np.asarray(impressions)
            pieces = _learn_pieces(codes, codebook_size, counts, share)
        return cls(kind, budget, codes.shape[1], codebook_size, pieces=pieces, **options)

    @property
    def uses_dense(self) -> bool:
        """Whether the item's content vector is wanted too."""
        return "dense" in self.kinds

    @property
    def decodes(self) -> bool:
        """Whether the vector that a quantizer decodes from the item's codes is wanted too."""
        return "dense_from_codes" in self.kinds

    @property
    def reads_codes(self) -> bool:
        """Whether anything is made of codes."""
        return self.decodes or any(kind in CODE_KINDS for kind in self.kinds)

    @property
    def own_columns(self) -> list[int]:
        """Columns of :meth:`rows` that hold an item's own rows: hashed ones, and that of its whole tuple of codes."""
        own: list[int] = []
        column = 0
        for kind in self.tables:
            width = self._width(kind)
            if kind == "random_hash":
                own += range(column, column + width)
            elif kind == "prefix_ngram" and self.num_codebooks > 1:
                own.append(column + width - 1)
            column += width
        return own

    @property
    def share(self) -> int:
        """Rows of the table that each part has."""
        return self.budget // max(1, len(self.tables))

    @property
    def num_pieces(self) -> int:
        """Pieces in the vocabulary of ``spm``: fewer than its share where items share no more."""
        return 0 if self._pieces is None else len(self._pieces.scores)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._to_json().encode()).hexdigest()[:16]

    def rows(self, item_ids: Sequence[str], codes: np.ndarray | None = None) -> np.ndarray:
        """The table's rows of any items, seen before or not: int32 [n, width], padded with ``budget``.

        Args:
            item_ids: read by ``random_hash`` alone.
            codes: int [n, num_codebooks]; a row that holds -1 is an item without codes.

        Raises:
            DataError: an item without codes, and no content vector in its place.
        """
        known = np.zeros(len(item_ids), dtype=bool)
        if self.reads_codes:
            codes = self._checked(codes, len(item_ids))
            known = np.all(codes >= 0, axis=1)
            if not known.all() and not self.uses_dense:
                row = int(np.flatnonzero(~known)[0])
                raise DataError(
                    f"item {item_ids[row]!r} has no codes, and {self.kind} knows a new item by nothing else: quantize "
                    "its embedding first, or use a kind with dense."
                )
        rows = np.full((len(item_ids), self.width), self.budget, dtype=np.int32)
        for start in range(0, len(item_ids), _CHUNK):
            part, column = slice(start, start + _CHUNK), 0
            for place, kind in enumerate(self.tables):
                width = self._width(kind)
                block = rows[part, column : column + width]
                if kind == "random_hash":
                    block[:] = self._random_hash(item_ids[part]) + place * self.share
                else:
                    assert codes is not None  # checked above: the kind reads codes
                    found = getattr(self, f"_{kind}")(codes[part][known[part]])
                    block[known[part]] = np.where(found < 0, self.budget, found + place * self.share)
                column += width
        return rows

    @property
    def width(self) -> int:
        """Rows of an item, at most."""
        return sum(self._width(kind) for kind in self.tables)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write ``item_features.json``."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(folder) / FILE_NAME, self._to_json())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike) -> ItemFeatures:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            DataError: the file is missing, damaged or of another version.
        """
        file = Path(folder) / FILE_NAME
        if not file.exists():
            raise DataError(f"{file} is missing: {folder} holds no item features.")
        settings = read_settings(file, FORMAT, PRIVATE_USE)
        features = cls(**settings)
        if features.num_pieces and features.num_pieces >= features.share:
            raise DataError(f"{file} is damaged: {features.num_pieces} pieces in {features.share} rows.")
        return features

    def _to_json(self) -> str:
        names = ("kind", "budget", "num_codebooks", "codebook_size", "n", "num_hashes", "seed")
        settings = {"format": FORMAT} | {name: getattr(self, name) for name in names}
        settings["pieces"] = None if self._pieces is None else self._pieces.scores
        return json.dumps(settings, ensure_ascii=True, indent=1) + "\n"

    def _checked(self, codes: np.ndarray | None, count: int) -> np.ndarray:
        if codes is None or np.shape(codes) != (count, self.num_codebooks):
            raise DataError(
                f"{self.kind} needs codes [{count}, {self.num_codebooks}], "
                f"got {None if codes is None else np.shape(codes)}."
            )
        codes = np.asarray(codes)
        if codes.max(initial=0) >= self.codebook_size:
            raise DataError(f"codes go up to {codes.max()}, the features are made for {self.codebook_size} per level.")
        return codes

    def _width(self, kind: str) -> int:
        return {
            "random_hash": self.num_hashes,
            "unigram": self.num_codebooks,
            "ngram": self.num_codebooks - self.n + 1,
            "prefix_ngram": self.num_codebooks,
            "spm": self.num_codebooks,
        }[kind]

    def _random_hash(self, item_ids: Sequence[str]) -> np.ndarray:
        import pandas as pd

        names = np.asarray(item_ids, dtype=object)
        keys = pd.util.hash_array(names, categorize=False)
        return np.stack([self._hash(keys, salt) for salt in range(self.num_hashes)], axis=1)

    def _unigram(self, codes: np.ndarray) -> np.ndarray:
        return self._fold(codes[:, :, None])

    def _ngram(self, codes: np.ndarray) -> np.ndarray:
        return self._fold(np.stack([codes[:, at : at + self.n] for at in range(self._width("ngram"))], axis=1))

    def _prefix_ngram(self, codes: np.ndarray) -> np.ndarray:
        spaces = [self.codebook_size ** (level + 1) for level in range(self.num_codebooks)]
        if sum(spaces) <= self.share:
            starts, prefix, found = np.cumsum([0, *spaces]), np.zeros(len(codes), dtype=codes.dtype), []
            for level in range(self.num_codebooks):
                prefix = prefix * self.codebook_size + codes[:, level]
                found.append(starts[level] + prefix)
            return np.stack(found, axis=1)
        # A long prefix is no number of 64 bits: each key mixes the shorter prefix's with one more code.
        keys, found = np.zeros(len(codes), dtype=np.uint64), []
        for column in codes.T:
            keys = mix(keys + column.astype(np.uint64))
            found.append(self._hash(keys, salt=0))
        return np.stack(found, axis=1)

    def _spm(self, codes: np.ndarray) -> np.ndarray:
        assert self._pieces is not None  # spm has a vocabulary
        return self._pieces.cut(codes)

    def _fold(self, grams: np.ndarray) -> np.ndarray:
        """Position-aware n-grams, int [items, positions, n], to rows: as they are where they fit, else hashed."""
        positions, length = grams.shape[1:]
        space = self.codebook_size**length
        if positions * space <= self.share:
            powers = self.codebook_size ** np.arange(length)[::-1]
            return (grams * powers).sum(-1) + space * np.arange(positions)
        places = np.broadcast_to(np.arange(1, positions + 1, dtype=np.uint64), grams.shape[:2])
        return self._hash(mix_columns(np.moveaxis(grams, -1, 0), places), salt=0)

    def _hash(self, keys: np.ndarray, salt: int) -> np.ndarray:
        mixed = mix(keys ^ mix(np.full((), 1 + salt + 1000 * self.seed, dtype=np.uint64)))
        return (mixed % np.uint64(self.share)).astype(np.int64)


def _tables(kinds: Sequence[str]) -> list[str]:
    """Those of some kinds that have rows."""
    return [kind for kind in kinds if kind not in VECTOR_KINDS]


class _Pieces:
    """A Unigram vocabulary (Kudo, arXiv 1804.10959) and the best cut of any tuple of codes into its pieces.

    The cut is that of ``tokenizers``' Unigram model, for all tuples at once: a million of them take seconds.
    """

    def __init__(self, scores: dict[str, float], codebook_size: int):
        self.scores, self._codebook_size = scores, codebook_size
        pieces = (np.array([[ord(character) - PRIVATE_USE] for character in piece]) for piece in scores)
        keys = np.array([mix_columns(piece)[0] for piece in pieces])
        order = np.argsort(keys)
        self._keys, self._ids = keys[order], order + 1  # row 0 is that of the unknown
        self._scores = np.array(list(scores.values()))[order]

    def cut(self, codes: np.ndarray) -> np.ndarray:
        """int64 [n, L]: the rows of each tuple's pieces, first to last, padded with -1."""
        count, length = codes.shape
        columns = (codes + self._codebook_size * np.arange(length)).T
        best = np.full((length + 1, count), -np.inf)
        best[0] = 0.0
        start_of = np.zeros((length + 1, count), dtype=np.int8)
        piece_of = np.zeros((length + 1, count), dtype=np.int64)
        for end in range(1, length + 1):
            for start in range(end):
                keys = mix_columns(columns[start:end])
                at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
                score = np.where(self._keys[at] == keys, best[start] + self._scores[at], -np.inf)
                better = score > best[end]
                best[end][better] = score[better]
                start_of[end][better] = start
                piece_of[end][better] = self._ids[at[better]]
        found = np.full((count, length), -1, dtype=np.int64)
        ends, rows = np.full(count, length), np.arange(count)
        for place in reversed(range(length)):
            left = ends > 0
            found[rows[left], place] = piece_of[ends[left], rows[left]]
            ends = np.where(left, start_of[ends, rows], 0)
        # What was filled from the back moves to the front.
        return np.take_along_axis(found, np.argsort(found < 0, axis=1, kind="stable"), axis=1)


def _unique_rows(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows and, for each row, which of them it is."""
    _, first, inverse = np.unique(mix_columns(codes.T), return_index=True, return_inverse=True)
    if not np.array_equal(codes[first][inverse], codes):  # two rows with one key: a chance of 1 in 10^7 at 10^6 rows
        unique, inverse = np.unique(codes, axis=0, return_inverse=True)
        return unique, inverse.ravel()
    return codes[first], inverse


def _as_text(codes: np.ndarray, codebook_size: int) -> list[str]:
    """One character per code, and a range of characters per level."""
    characters = (PRIVATE_USE + codes + codebook_size * np.arange(codes.shape[1])).astype("<u4")
    return np.ascontiguousarray(characters).view(f"<U{codes.shape[1]}").ravel().tolist()


def _learn_pieces(codes: np.ndarray, codebook_size: int, impressions: np.ndarray, budget: int) -> dict[str, float]:
    """A Unigram vocabulary over the codes of impressed items, each counted as often as it was shown."""
    shown = (impressions > 0) & (codes >= 0).all(axis=1)
    if not shown.any():
        raise DataError("spm learns its pieces from items that training has shown, and there are none.")
    alphabet = codebook_size * codes.shape[1]
    if budget < alphabet + 1:
        raise DataError(
            f"spm needs a row for each of {alphabet} codes and one for the unknown, its budget is {budget}: give it "
            "more, or use fewer or smaller codebooks."
        )
    unique, inverse = _unique_rows(codes[shown])
    counts = np.bincount(inverse, weights=impressions[shown]).astype(np.int64)
    words = _as_text(unique, codebook_size)
    tokenizer = Tokenizer(Unigram())
    trainer = UnigramTrainer(
        vocab_size=budget,
        unk_token="<unk>",
        special_tokens=["<unk>"],
        initial_alphabet=[chr(PRIVATE_USE + code) for code in range(alphabet)],
        max_piece_length=codes.shape[1],
        show_progress=False,
    )
    # What occurs in one tuple alone is no piece, however often that is shown: pieces are what different tuples share.
    # Were whole tuples pieces, the shorter ones would go unused and unlearned, and a new item would find single codes.
    tokenizer.train_from_iterator((word for word, count in zip(words, counts) for _ in range(count)), trainer)
    pieces = sorted(set(tokenizer.get_vocab()) - {"<unk>"})
    # The trainer's own scores vary in the last digits from run to run. These are of the same kind, and don't: logs
    # of how often each piece is used by the best cut of all showings, found by cutting again and again.
    scores = {piece: -1.0 / len(piece) for piece in pieces}
    for _ in range(4):
        cut = _Pieces(scores, codebook_size).cut(unique)
        used = np.full(len(pieces) + 1, 0.1)
        np.add.at(used, cut[cut >= 0], np.broadcast_to(counts[:, None], cut.shape)[cut >= 0])
        scores = dict(zip(pieces, np.log(used[1:] / used[1:].sum()).round(9).tolist()))
    # The trainer overshoots a budget that is hardly larger than the alphabet: its least likely pieces go.
    longer = sorted((piece for piece in pieces if len(piece) > 1), key=lambda piece: (-scores[piece], piece))
    for piece in longer[budget - 1 - alphabet :]:
        del scores[piece]
    return scores
