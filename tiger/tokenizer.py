"""Item <-> semantic ID <-> tokens, both ways and in bulk.

A *semantic ID* is an item's codes, one a level, and a collision token that tells apart items with the same codes.
*Tokens* are what T5 reads and writes, one a level; 0 pads and starts the decoder. There are two kinds:

- ``codes``, as in TIGER: each level has a range of tokens of its own. The collision level comes last, so that a
  catalogue that outgrows it extends the vocabulary at its end.
- ``prefixes``: every prefix that occurs in the catalogue is a token. The last one of an item stands for the whole ID,
  so a history takes one token an item, and what may follow a prefix are its extensions and nothing else. (Prefixes
  as inputs of a ranker: arXiv 2504.02137.) New prefixes extend the vocabulary at its end.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tiger.data import DataError
from tiger.files import write_atomically
from tiger.residual_kmeans import ResidualKMeans
from tiger.rqvae import RQVAE, load_quantizer

FILE_NAME = "semantic_ids.safetensors"
QUANTIZER_FOLDER = "quantizer"
FORMAT = 1
PAD_TOKEN = 0
TOKENS = ("codes", "prefixes")


class SemanticIdTokenizer:
    """The two-way map between a catalogue's items and their tokens.

    Args:
        codes: integers [n, num_codebooks], each from 0 to ``codebook_size`` - 1.
        item_ids: the ``n`` items' own ids, distinct.
        codebook_size: codes a level.
        collision_size: values that the collision token has room for (default: ``codebook_size``, more if needed).
        quantizer: what made the codes, wanted by :meth:`add_items` with embeddings.
        tokens: ``codes`` or ``prefixes``, see above.

    Example:
        >>> tokenizer = SemanticIdTokenizer(np.array([[1, 2], [1, 2], [0, 3]]), ["a", "b", "c"], codebook_size=4)
        >>> tokenizer.semantic_ids.tolist()
        [[1, 2, 0], [1, 2, 1], [0, 3, 0]]
        >>> tokenizer.decode(tokenizer.encode([2, 0])).tolist()
        [2, 0]
    """

    def __init__(
        self,
        codes: np.ndarray,
        item_ids: Iterable[str],
        codebook_size: int,
        collision_size: int | None = None,
        quantizer: RQVAE | ResidualKMeans | None = None,
        tokens: str = "codes",
    ):
        if tokens not in TOKENS:
            raise DataError(f"tokens must be one of {', '.join(TOKENS)}, got {tokens!r}.")
        codes = _checked_codes(codes, codebook_size)
        item_ids = check_ids(item_ids, len(codes))
        collisions = _number_within_groups(_keys(codes, codebook_size), item_ids)
        self.tokens = tokens
        self._set(np.column_stack([codes, collisions]).astype(np.int32), item_ids, codebook_size, collision_size)
        self.quantizer = quantizer
        layout = f"{self.num_codebooks}x{codebook_size}".encode()
        self.fingerprint = hashlib.sha256(layout + self.semantic_ids.tobytes()).hexdigest()[:16]

    def _set(
        self,
        semantic_ids: np.ndarray,
        item_ids: list[str],
        codebook_size: int,
        collision_size: int | None,
        token_table: np.ndarray | None = None,
        num_prefixes: int | None = None,
    ) -> None:
        """All that follows from semantic IDs. Prefixes are numbered level by level, in order, unless ``token_table``
        and ``num_prefixes`` say how they have been numbered before."""
        self.semantic_ids = semantic_ids
        self.item_ids = item_ids
        self.codebook_size = codebook_size
        needed = int(semantic_ids[:, -1].max(initial=-1)) + 1
        self.collision_size = max(needed, codebook_size if collision_size is None else collision_size)
        keys = self.pack(semantic_ids)
        self._key_order = np.argsort(keys)
        self._sorted_keys = keys[self._key_order]
        self._rows: dict[str, int] | None = None
        self._num_prefixes = num_prefixes
        if self.tokens == "codes":
            token_table = semantic_ids + self.level_offsets
        elif token_table is None:
            token_table, self._num_prefixes = self._prefix_tokens(keys)
        # The last row pads, so that row -1, "no item", reads as padding.
        self._tokens = np.zeros((len(semantic_ids) + 1, self.depth), dtype=np.int32)
        self._tokens[:-1] = token_table

    @classmethod
    def fit(
        cls,
        embeddings: np.ndarray,
        item_ids: Iterable[str],
        num_codebooks: int = 3,
        codebook_size: int = 256,
        quantizer: str = "rqvae",
        **fit_options,
    ) -> SemanticIdTokenizer:
        """Fit a quantizer to item embeddings and number the items with it.

        Args:
            embeddings: float [n, d], a row an item.
            item_ids: the items' own ids.
            num_codebooks: levels of codes.
            codebook_size: codes a level.
            quantizer: ``rqvae`` or ``residual-kmeans``.
            fit_options: passed to the quantizer's ``fit`` (``seed``, ``progress``, ...).
        """
        kinds = {"rqvae": RQVAE, "residual-kmeans": ResidualKMeans}
        if quantizer not in kinds:
            raise DataError(f"quantizer must be one of {', '.join(kinds)}, got {quantizer!r}.")
        fitted = kinds[quantizer].fit(
            embeddings, num_codebooks=num_codebooks, codebook_size=codebook_size, **fit_options
        )
        return cls(fitted.encode(embeddings), item_ids, codebook_size, quantizer=fitted)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def depth(self) -> int:
        """Tokens an item: the codes and the collision token."""
        return self.semantic_ids.shape[1]

    @property
    def num_codebooks(self) -> int:
        return self.depth - 1

    @property
    def codes(self) -> np.ndarray:
        """int32 [n, num_codebooks]."""
        return self.semantic_ids[:, :-1]

    @property
    def level_offsets(self) -> np.ndarray:
        """int64 [depth]: the token of value 0 on each level, where tokens are codes."""
        return 1 + self.codebook_size * np.arange(self.depth)

    @property
    def vocab_size(self) -> int:
        """Tokens in all, padding included."""
        if self.tokens == "prefixes":
            return 1 + self._num_prefixes
        return 1 + self.num_codebooks * self.codebook_size + self.collision_size

    @property
    def history_depth(self) -> int:
        """Tokens that an item takes in a history."""
        return 1 if self.tokens == "prefixes" else self.depth

    @property
    def token_table(self) -> np.ndarray:
        """int32 [n, depth]: every item's tokens."""
        return self._tokens[:-1]

    def rows(self, item_ids: Sequence[str], missing: int | None = None) -> np.ndarray:
        """int64 [n]: the rows of items by their own ids; ``missing`` stands in for unknown ones.

        Raises:
            KeyError: an id is unknown and ``missing`` is None.
        """
        if self._rows is None:
            self._rows = dict(zip(self.item_ids, range(len(self.item_ids))))
        if missing is not None:
            return np.array([self._rows.get(item, missing) for item in item_ids], dtype=np.int64)
        return np.array([self._rows[item] for item in item_ids], dtype=np.int64)

    def encode(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Rows, int [...], to tokens, int64 [..., depth]. Row -1 becomes padding."""
        return self._tokens[np.asarray(rows, dtype=np.int64)].astype(np.int64)

    def encode_history(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Rows, int [..., n], to a history's tokens, int64 [..., n * history_depth]. Row -1 becomes padding."""
        tokens = self._tokens[np.asarray(rows, dtype=np.int64), self.depth - self.history_depth :].astype(np.int64)
        return tokens.reshape(*tokens.shape[:-2], -1)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens, int [..., depth], to rows, int64 [...]; -1 where no item has these tokens."""
        if self.tokens == "prefixes":
            tokens = np.asarray(tokens, dtype=np.int64)
            owners = np.full(self.vocab_size, -1)
            owners[self._tokens[:-1, -1]] = np.arange(len(self))
            known = (tokens[..., -1] >= 0) & (tokens[..., -1] < self.vocab_size)
            rows = np.where(known, owners[np.where(known, tokens[..., -1], 0)], -1)
            return np.where((self._tokens[rows] == tokens).all(axis=-1), rows, -1)
        values = np.asarray(tokens, dtype=np.int64) - self.level_offsets
        sizes = np.append(np.full(self.num_codebooks, self.codebook_size), self.collision_size)
        valid = ((values >= 0) & (values < sizes)).all(axis=-1)
        keys = self.pack(np.where(valid[..., None], values, 0))
        at = np.minimum(np.searchsorted(self._sorted_keys, keys), len(self) - 1)
        return np.where(valid & (self._sorted_keys[at] == keys), self._key_order[at], -1)

    def pack(self, semantic_ids: np.ndarray) -> np.ndarray:
        """Semantic IDs, int [..., depth], as one uint64 each: codes from the highest bit down, the collision token
        lowest.

        Packed IDs sort as the tuples do.

        Raises:
            ValueError: the codes of one item need more than 60 bits, or its collision token more than what they leave.
        """
        rest = self._bits()[1]
        highest = int(semantic_ids[..., -1].max(initial=0))
        if highest >= 2**rest:
            raise ValueError(f"{highest + 1} items share their codes, more than {rest} bits can tell apart")
        return self._pack_codes(semantic_ids[..., :-1]) | semantic_ids[..., -1].astype(np.uint64)

    def _pack_codes(self, codes: np.ndarray) -> np.ndarray:
        """Codes [..., num_codebooks] as in :meth:`pack`, with the collision token's bits 0."""
        bits, rest = self._bits()
        key = np.zeros(codes.shape[:-1], dtype=np.uint64)
        for level in range(self.num_codebooks):
            key = (key << np.uint64(bits)) | codes[..., level].astype(np.uint64)
        return key << np.uint64(rest)

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`pack`: uint64 [...] to int32 [..., depth]."""
        bits, rest = self._bits()
        packed = np.asarray(packed, dtype=np.uint64)
        shifts = [rest + bits * level for level in reversed(range(self.num_codebooks))]
        codes = [(packed >> np.uint64(shift)) & np.uint64(2**bits - 1) for shift in shifts]
        return np.stack([*codes, packed & np.uint64(2**rest - 1)], axis=-1).astype(np.int32)

    def add_items(
        self, item_ids: Sequence[str], embeddings: np.ndarray | None = None, codes: np.ndarray | None = None
    ) -> np.ndarray:
        """Number new items; those that are known already keep their IDs and are left as they are.

        Args:
            item_ids: the new items' own ids.
            embeddings: float [m, d], quantised by the frozen quantizer; or
            codes: int [m, num_codebooks], where the codes are at hand.

        Returns:
            int64 [m], the items' rows. If :attr:`vocab_size` has grown, a model over it wants its embeddings resized.
        """
        if (embeddings is None) == (codes is None):
            raise ValueError("give either embeddings or codes")
        item_ids = check_ids(item_ids, len(embeddings if codes is None else codes))
        known = self.rows(item_ids, missing=-1)
        new = np.flatnonzero(known < 0)
        if len(new) == 0:
            return known
        if codes is None:
            if self.quantizer is None:
                raise ValueError("this tokenizer has no quantizer to turn embeddings into codes: pass codes instead")
            codes = np.full((len(item_ids), self.num_codebooks), 0)
            codes[new] = self.quantizer.encode(embeddings[new])
        new_ids = [item_ids[index] for index in new]
        self._append(self._numbered(np.asarray(codes)[new], new_ids), new_ids)
        known[new] = np.arange(len(self) - len(new), len(self))
        return known

    def update_items(
        self, item_ids: Sequence[str], embeddings: np.ndarray | None = None, codes: np.ndarray | None = None
    ) -> np.ndarray:
        """Number items anew from new embeddings or codes. Rows stay; where the codes stay, so does the whole ID.

        Args:
            item_ids: known items.
            embeddings: float [m, d], quantised by the frozen quantizer; or
            codes: int [m, num_codebooks].

        Returns:
            bool [m]: whose ID is another one now. No item gets an ID that another has just given up.

        Raises:
            KeyError: an id is unknown.
        """
        if (embeddings is None) == (codes is None):
            raise ValueError("give either embeddings or codes")
        item_ids = check_ids(item_ids, len(embeddings if codes is None else codes))
        rows = self.rows(item_ids)
        if codes is None:
            if self.quantizer is None:
                raise ValueError("this tokenizer has no quantizer to turn embeddings into codes: pass codes instead")
            codes = self.quantizer.encode(embeddings)
        codes = _checked_codes(codes, self.codebook_size)
        changed = (codes != self.codes[rows]).any(axis=1)
        if changed.any():
            ids = [item for item, other in zip(item_ids, changed) if other]
            semantic_ids, token_table = self.semantic_ids.copy(), self.token_table.copy()
            semantic_ids[rows[changed]] = self._numbered(codes[changed], ids)
            num_prefixes = None
            if self.tokens == "prefixes":
                keys = self.pack(semantic_ids[rows[changed]])
                token_table[rows[changed]], num_prefixes = self._prefix_tokens(keys)
            self._set(semantic_ids, self.item_ids, self.codebook_size, self.collision_size, token_table, num_prefixes)
        return changed

    def _prefix_tokens(self, keys: np.ndarray) -> tuple[np.ndarray, int]:
        """Tokens of the prefixes of packed IDs, int32 [m, depth]: those that known items have, and new ones from the
        end of the vocabulary on for the others, level by level, in order; and how many prefixes there are then."""
        bits, rest = self._bits()
        known = self._sorted_keys if self._num_prefixes else keys[:0]
        tokens, count = np.zeros((len(keys), self.depth), dtype=np.int32), self._num_prefixes or 0
        for level in range(self.depth):
            below = np.uint64(0 if level == self.num_codebooks else rest + bits * (self.num_codebooks - 1 - level))
            prefixes = keys >> below
            at = np.searchsorted(known, prefixes << below)
            found = at < len(known)
            found[found] = known[at[found]] >> below == prefixes[found]
            tokens[found, level] = self._tokens[self._key_order[at[found]], level] if found.any() else 0
            fresh, numbers = np.unique(prefixes[~found], return_inverse=True)
            tokens[~found, level] = 1 + count + numbers
            count += len(fresh)
        return tokens, count

    def _numbered(self, codes: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
        """Semantic IDs, int32 [m, depth], for items to come: codes and the first free collision tokens."""
        codes = _checked_codes(codes, self.codebook_size)
        # The first number after the highest that the tuple's items hold: packed IDs are in order, the collision token
        # lowest, so that the last one below the next tuple tells.
        keys = self._pack_codes(codes)
        last = np.searchsorted(self._sorted_keys, keys | np.uint64(2 ** self._bits()[1] - 1), side="right") - 1
        highest = self._sorted_keys[np.maximum(last, 0)]
        taken = self.semantic_ids[self._key_order[np.maximum(last, 0)], -1] + 1
        shared = (last >= 0) & (highest >= keys)
        collisions = np.where(shared, taken, 0) + _number_within_groups(keys, item_ids)
        return np.column_stack([codes, collisions]).astype(np.int32)

    def _append(self, semantic_ids: np.ndarray, item_ids: list[str]) -> None:
        """What :meth:`_set` does, for items that are added to many."""
        keys = self.pack(semantic_ids)
        if self.tokens == "prefixes":
            tokens, self._num_prefixes = self._prefix_tokens(keys)
        else:
            tokens = (semantic_ids + self.level_offsets).astype(np.int32)
        order = np.argsort(keys)
        at = np.searchsorted(self._sorted_keys, keys[order])
        self._key_order = np.insert(self._key_order, at, len(self) + order)
        self._sorted_keys = np.insert(self._sorted_keys, at, keys[order])
        if self._rows is not None:
            # No array, list or dict is changed in place: a shallow copy of a tokenizer stays as it is.
            self._rows = self._rows | dict(zip(item_ids, range(len(self), len(self) + len(item_ids))))
        self._tokens = np.concatenate([self._tokens[:-1], tokens, self._tokens[-1:]])
        self.semantic_ids = np.concatenate([self.semantic_ids, semantic_ids])
        self.item_ids = self.item_ids + item_ids
        self.collision_size = max(self.collision_size, int(semantic_ids[:, -1].max()) + 1)

    def remove_items(self, item_ids: Sequence[str]) -> np.ndarray:
        """Take items out; the rest keep their IDs and move up. A later item may get an ID that has become free.

        Returns:
            int64 [n left]: the rows, before removal, of the items that stay.

        Raises:
            KeyError: an id is unknown.
            ValueError: nothing would be left.
        """
        keep = np.ones(len(self), dtype=bool)
        keep[self.rows(item_ids)] = False
        if not keep.any():
            raise ValueError("a catalogue can't lose all its items")
        stay = np.flatnonzero(keep)
        self._set(
            self.semantic_ids[stay],
            [self.item_ids[row] for row in stay],
            self.codebook_size,
            self.collision_size,
            self.token_table[stay],
            self._num_prefixes,
        )
        return stay

    def with_tokens(self, tokens: str) -> SemanticIdTokenizer:
        """The same semantic IDs as tokens of another kind, ``codes`` or ``prefixes``."""
        if tokens == self.tokens:
            return self
        if tokens not in TOKENS:
            raise DataError(f"tokens must be one of {', '.join(TOKENS)}, got {tokens!r}.")
        other = copy.copy(self)
        other.tokens = tokens
        other._set(self.semantic_ids, self.item_ids, self.codebook_size, self.collision_size)
        return other

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write ``semantic_ids.safetensors`` and, where there is a quantizer, its folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(self.item_ids).encode()
        ends = np.cumsum([len(item.encode()) for item in self.item_ids], dtype=np.int64)
        arrays = {
            "semantic_ids": self.semantic_ids,
            "item_id_bytes": np.frombuffer(text, dtype=np.uint8),
            "item_id_ends": ends,
        }
        header = {
            "format": FORMAT,
            "codebook_size": self.codebook_size,
            "collision_size": self.collision_size,
            "fingerprint": self.fingerprint,
        }
        if self.tokens == "prefixes":
            arrays["prefix_tokens"] = self.token_table
            header |= {"tokens": self.tokens, "num_prefixes": self._num_prefixes}
        # One key: a safetensors header with several writes them in an order that differs between processes.
        write_atomically(folder / FILE_NAME, save(arrays, metadata={"tokenizer": json.dumps(header)}))
        if self.quantizer is not None:
            self.quantizer.save_pretrained(folder / QUANTIZER_FOLDER)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike) -> SemanticIdTokenizer:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            DataError: the file is missing, cut short, or of another version.
        """
        file = Path(folder) / FILE_NAME
        if not file.exists():
            raise DataError(f"{file} is missing: {folder} holds no tokenizer, or a half-written one.")
        try:
            with safe_open(file, "np") as opened:
                header = json.loads((opened.metadata() or {}).get("tokenizer", "{}"))
                if header.get("format") != FORMAT:
                    raise DataError(
                        f"{file} has format {header.get('format')}, this version of tiger reads {FORMAT}: "
                        "fit the tokenizer again or install the version that wrote it."
                    )
                semantic_ids = opened.get_tensor("semantic_ids")
                text, ends = opened.get_tensor("item_id_bytes").tobytes(), opened.get_tensor("item_id_ends")
                tokens = header.get("tokens", "codes")
                token_table = opened.get_tensor("prefix_tokens") if tokens == "prefixes" else None
        except SafetensorError as error:
            raise DataError(f"{file} is damaged ({error}): restore it or fit the tokenizer again.") from error
        starts = np.concatenate([[0], ends[:-1]])
        item_ids = [text[start:end].decode() for start, end in zip(starts.tolist(), ends.tolist())]
        self = cls.__new__(cls)
        self.tokens = tokens
        sizes = header["codebook_size"], header["collision_size"]
        self._set(semantic_ids, item_ids, *sizes, token_table, header.get("num_prefixes"))
        self.fingerprint = header["fingerprint"]
        quantizer = Path(folder) / QUANTIZER_FOLDER
        self.quantizer = load_quantizer(quantizer) if quantizer.is_dir() else None
        return self

    def _bits(self) -> tuple[int, int]:
        """Bits of a code, and bits left for the collision token."""
        bits = max(1, (self.codebook_size - 1).bit_length())
        rest = min(64 - bits * self.num_codebooks, 32)
        if rest < 4:
            raise ValueError(
                f"{self.num_codebooks} codes of {bits} bits and a collision token do not fit into 64 bits: "
                "use fewer levels or smaller codebooks"
            )
        return bits, rest


def _checked_codes(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise DataError(f"codes must be integers [items, levels], got {codes.dtype} {codes.shape}.")
    wrong = (codes < 0) | (codes >= codebook_size)
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        raise DataError(f"row {row}: codes {codes[row].tolist()} are not all within 0..{codebook_size - 1}.")
    return codes.astype(np.int32)


def check_ids(item_ids: Iterable[str], count: int) -> list[str]:
    """The ids as a list.

    Raises:
        DataError: other than ``count``, no text, half a character, or one of them twice.
    """
    item_ids = list(item_ids)
    if len(item_ids) != count:
        raise DataError(f"{len(item_ids)} item ids for {count} rows: there must be one a row.")
    other = next((item for item in item_ids if not isinstance(item, str)), None)
    if other is not None:
        raise DataError(f"item ids must be strings, got {other!r}: turn them into text.")
    try:
        "".join(item_ids).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"item ids hold half a character, {error.object[error.start]!r}: drop it.") from error
    if len(set(item_ids)) < len(item_ids):
        twice = pd.Series(item_ids).duplicated().to_numpy().argmax()
        raise DataError(f"item id {item_ids[twice]!r} occurs more than once: keep one row an item.")
    return item_ids


def _keys(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """Codes [n, levels] as int64 [n], equal where the tuples are."""
    keys = np.zeros(len(codes), dtype=np.int64)
    for level in range(codes.shape[1]):
        keys = keys * codebook_size + codes[:, level]
    return keys


def _number_within_groups(keys: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
    """int64 [n]: 0, 1, 2, ... within each group of equal keys.

    The order is that of a fixed hash of the item ids: the same for every order of the rows, and without the order of
    the ids themselves, which in product codes tells when an item came to the shop.
    """
    hashes = pd.util.hash_array(np.asarray(item_ids, dtype=object), categorize=False)
    order = np.lexsort((hashes, keys))
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[order][1:] != keys[order][:-1]
    at = np.arange(len(keys))
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = at - np.maximum.accumulate(np.where(first, at, 0))
    return numbers
