"""Text encoder by a SentenceTransformer, with a cache on disk."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from tiger.embeddings.base import CHUNK, check_embeddings, read_json, write_json
from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError
from tiger.utils.paths import nearest_hint
from tiger.utils.schema import check_fields, optional, text

DEFAULT_ENCODER = "sentence-transformers/sentence-t5-base"
_SPAN = 64  # rows of a file that are read at once where some of them are wanted: single ones take longer


class SentenceEncoder:
    """Any SentenceTransformer, by name or folder; every text is embedded once and then read from the disk.

    Args:
        name: of a model on the Hub, or a local folder; ``~`` is the home directory.
        revision: branch, tag or commit on the Hub; None: ``main``. Of a branch, the commit that the cache of this
            machine holds, else the newest: vectors of two commits are never mixed.
        batch_size: texts per step.
        device: such as ``"cuda"``; None: the best there is.
        cache_dir: where vectors are kept; None: ``$XDG_CACHE_HOME/tiger``, by default ``~/.cache/tiger``.
        progress: show a bar while embedding.

    The model itself is loaded when the first text is missing in the cache.

    Example::

        encoder = SentenceEncoder("sentence-transformers/sentence-t5-base")
        embeddings = encoder.encode(item_texts(data.items))
    """

    kind = "sentence-transformers"
    self_contained = False

    def __init__(
        self,
        name: str | os.PathLike = DEFAULT_ENCODER,
        *,
        revision: str | None = None,
        batch_size: int = 64,
        device: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        progress: bool = True,
    ) -> None:
        self.name = os.path.expanduser(name)
        self.revision = revision
        self.batch_size = batch_size
        self.device = device
        self.progress = progress
        self.cache_dir = Path(cache_dir) if cache_dir is not None else _default_cache_dir()
        self._model: Any = None
        self._cache: _VectorCache | None = None
        self._refused: str | None = None
        self._commit: str | None = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of the texts: float32 [n, d], in their order.

        Raises:
            DataError: no texts, the model can't be loaded, or it gives vectors of NaN or infinity, which aren't kept.
        """
        if len(texts) == 0:
            raise DataError("no texts to embed.")
        self._check_trusted()
        if self._cache is None:
            slug = re.sub(r"[^A-Za-z0-9.-]+", "-", self.name).strip("-.")[-60:]
            self._cache = _VectorCache(self.cache_dir / f"{slug}-{self._fingerprint()[:16]}")
        rows: dict[bytes, int] = {}
        first = [rows.setdefault(hashlib.sha256(text.encode()).digest(), row) for row, text in enumerate(texts)]
        vectors = np.empty((len(texts), 0), dtype=np.float32)  # filled part by part: all are held once
        missing = dict(rows)
        for found in itertools.chain(self._cache.read(rows), self._embed(missing, texts)):
            if not vectors.shape[1]:
                vectors = np.empty((len(texts), len(next(iter(found.values())))), dtype=np.float32)
            vectors[[rows[key] for key in found]] = list(found.values())
            for key in found:
                missing.pop(key, None)
        repeated = np.flatnonzero(np.array(first) != np.arange(len(texts)))
        vectors[repeated] = vectors[np.array(first)[repeated]]
        return check_embeddings(vectors, f"vectors of {self.name}")

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write ``encoder.json``: the name and revision only, the weights stay where they are.

        Of a branch, the revision is the commit that texts were embedded with, if any were.
        """
        saved = {"kind": self.kind, "name": self.name, "revision": self._commit or self.revision}
        if self._refused is None and _is_local(self.name):
            saved["saved_in"] = str(Path(directory).resolve())
        write_json(directory, saved)

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike, *, device: str | None = None, cache_dir: str | os.PathLike | None = None
    ) -> SentenceEncoder:
        """Read what :meth:`save_pretrained` wrote; the model itself is loaded when it is needed.

        A name that leads out of the working directory is followed only where it was saved: elsewhere, it is that of
        somebody else's folder, and :meth:`load` and :meth:`encode` refuse it.

        Raises:
            DataError: damaged, another encoder's, or it names a folder that came with it.
        """
        saved = read_json(directory)
        if saved["kind"] != cls.kind:
            file = Path(directory) / "encoder.json"
            raise DataError(f"{file} is a {saved['kind']!r} encoder: use load_encoder.")
        place = Path(directory).resolve()
        rules = {"name": lambda value: text(4096)(value) and value.isprintable() and value.strip() != ""}
        check_fields(
            saved, rules, place / "encoder.json", revision=optional(text(300)), saved_in=optional(text(10_000))
        )
        encoder = cls(saved["name"], revision=saved.get("revision"), device=device, cache_dir=cache_dir)
        encoder._refused = _refusal(encoder.name, place, saved.get("saved_in"))
        return encoder

    def _embed(self, rows: dict[bytes, int], texts: Sequence[str]) -> Iterator[dict[bytes, np.ndarray]]:
        """Embed those of the texts at ``rows``, by their hashes, some thousands at a time."""
        if not rows:
            return
        assert self._cache is not None  # encode opens it
        model = self._load()
        # Texts of like length share a batch, so little is padded; the longest first, so that memory runs out at once.
        keys = sorted(rows, key=lambda key: (-len(texts[rows[key]]), key))
        places = dict(rows)  # the caller takes out what it has got
        unsaved: dict[bytes, np.ndarray] = {}
        with tqdm(total=len(keys), desc="embedding", unit="text", disable=not self.progress) as bar:
            for start in range(0, len(keys), self.batch_size):
                batch = keys[start : start + self.batch_size]
                vectors = model.encode(
                    [texts[places[key]] for key in batch], batch_size=len(batch), show_progress_bar=False
                )
                unsaved.update(zip(batch, vectors.astype(np.float32, copy=False), strict=True))
                bar.update(len(batch))
                if len(unsaved) >= CHUNK or start + self.batch_size >= len(keys):
                    # By the thousands: a run that is broken off loses little. What isn't finite is embedded again.
                    self._cache.write({key: vector for key, vector in unsaved.items() if np.isfinite(vector).all()})
                    yield unsaved
                    unsaved = {}

    def load(self) -> None:
        """Read the model now and not with the first texts that the cache lacks.

        Raises:
            DataError: it can't be loaded.
        """
        self._load()

    def _check_trusted(self) -> None:
        if self._refused is not None:
            raise DataError(self._refused)

    def _load(self):
        self._check_trusted()
        if self._model is None:
            if _is_path(self.name) and not Path(self.name).exists():
                raise DataError(
                    f"there is no sentence encoder {self.name}{nearest_hint(self.name)}: give its folder, or the name "
                    "of a SentenceTransformer on the Hub."
                )
            from sentence_transformers import SentenceTransformer  # seconds to import, not needed on a cache hit

            try:
                self._model = SentenceTransformer(
                    self.name, revision=self._commit or self.revision, device=self.device, trust_remote_code=False
                )
            except (OSError, ValueError) as error:
                raise DataError(
                    f"can't load the sentence encoder {self.name!r} ({error}). "
                    "Give the name of a SentenceTransformer on the Hub or the folder of one, or use the LSA encoder."
                ) from error
        return self._model

    def _fingerprint(self) -> str:
        """A hash of the weights: of the files of a local folder, or of a Hub model's name and commit."""
        digest = hashlib.sha256()
        folder = Path(self.name)
        if folder.is_dir():
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
                with open(file, "rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            self._commit = _commit_in_cache(self.name, self.revision)
            if self._commit is None:
                self._load()  # into the Hub's cache
                self._commit = _commit_in_cache(self.name, self.revision)
            digest.update(f"{self.name}\0{self._commit or self.revision}".encode())
        return digest.hexdigest()


class _VectorCache:
    """Vectors by the sha256 of their text, in safetensors files of one folder (one folder an encoder).

    A run adds a file and changes none, so nothing is rewritten for one new item and two processes don't lose each
    other's work. Many small files are merged when they are read.
    """

    max_files = 32
    max_bytes = 1 << 28  # of files that are merged at once: more are not held in memory for it

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, keys: Collection[bytes]) -> Iterator[dict[bytes, np.ndarray]]:
        """Vectors of those of the keys, at least one, that are here, file by file."""
        files = sorted(self.folder.glob("*.safetensors"))
        wanted = np.sort(np.frombuffer(b"".join(keys), dtype="S32"))
        for file in files:
            try:
                if found := self._read_file(file, wanted):
                    yield found
            except FileNotFoundError:
                continue  # another process merged it away
            except (SafetensorError, OSError, ValueError) as error:
                warnings.warn(
                    f"embedding cache {file} can't be read ({error}); its texts are embedded again", stacklevel=4
                )
                with suppress(OSError):
                    file.unlink()
        with suppress(OSError):
            files = [file for file in files if file.stat().st_size < self.max_bytes]
        if len(files) > self.max_files:
            self._merge(files)

    @staticmethod
    def _read_file(file: Path, wanted: np.ndarray) -> dict[bytes, np.ndarray]:
        """Vectors of a file by their hashes, where those are among the wanted ones, S32 [n] in ascending order."""
        with safe_open(file, framework="np") as stored:
            hashes, vectors = stored.get_tensor("hashes"), stored.get_slice("vectors")
            keys = hashes.view("S32").ravel()
            shape = vectors.get_shape()
            if len(shape) != 2 or not len(hashes) == len(keys) == shape[0]:
                raise ValueError("its vectors don't fit its hashes")
            places = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
            rows = np.flatnonzero(wanted[places] == keys)
            found: dict[bytes, np.ndarray] = {}
            if not len(rows):
                return found
            for part in np.split(rows, np.flatnonzero(np.diff(rows // _SPAN)) + 1):
                read = vectors[int(part[0]) : int(part[-1]) + 1][part - part[0]]
                if not np.isfinite(read).all():
                    raise ValueError("its vectors aren't finite")
                found.update(zip(map(bytes, hashes[part]), read, strict=True))
        return found

    def write(self, vectors: dict[bytes, np.ndarray]) -> Path | None:
        """The file written; None where there is nothing to write or, with a warning, the folder can't be written."""
        if not vectors:
            return None
        keys = sorted(vectors)
        file = self.folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:32]}.safetensors"
        tensors = {
            "hashes": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32).copy(),
            "vectors": np.stack([vectors[key] for key in keys]),
        }
        try:
            with disk_errors(file, sum(tensor.nbytes for tensor in tensors.values())):
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
                    save_file(tensors, Path(temporary) / "vectors")
                    os.replace(Path(temporary) / "vectors", file)
        except (OSError, SafetensorError) as error:
            # They have cost hours, perhaps: they are used, and computed again the next time.
            warnings.warn(f"embeddings can't be cached: {error}", stacklevel=5)
            return None
        return file

    def _merge(self, files: list[Path]) -> None:
        """Join the smallest of the files, as many as may be held in memory."""
        merged: dict[bytes, np.ndarray] = {}
        # Another process may merge at the same time: then it is done already. A damaged file may still be there.
        with suppress(OSError, SafetensorError, KeyError, ValueError, TypeError):
            sizes = {file: file.stat().st_size for file in files if file.exists()}
            files = sorted(sizes, key=lambda file: sizes[file])
            held = np.cumsum([sizes[file] for file in files]) <= self.max_bytes
            files = files[: held.sum()]
            if len(files) < 2:
                return
            for file in files:
                if file.exists():
                    stored = load_file(file)
                    merged.update(zip(map(bytes, stored["hashes"]), stored["vectors"], strict=True))
            written = self.write(merged)
            for file in files:
                if written is not None and file != written:
                    file.unlink(missing_ok=True)


def _commit_in_cache(name: str, revision: str | None) -> str | None:
    """Commit of a model that the Hub's cache of this machine holds for a revision; None: it holds none."""
    place = os.environ.get("SENTENCE_TRANSFORMERS_HOME")  # where SentenceTransformer keeps models
    names = [name] if "/" in name else [f"sentence-transformers/{name}", name]  # in the order that it tries
    for repository, file in itertools.product(names, ("modules.json", "config.json")):
        with suppress(ValueError):  # no name that a repository can have
            found = try_to_load_from_cache(repository, file, cache_dir=place, revision=revision)
            if isinstance(found, str):
                return Path(found).parent.name
    return None


def _is_local(name: str) -> bool:
    """Whether a name is a path of this machine, there or not, and can't be a model's on the Hub."""
    path = Path(name)
    return path.is_absolute() or name.startswith("~") or ".." in path.parts or path.is_symlink() or path.exists()


def _is_path(name: str) -> bool:
    """Whether a name can't be that of a model on the Hub, ``owner/name`` or ``name``."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _refusal(name: str, place: Path, saved_in: str | None) -> str | None:
    """Why a name in the ``encoder.json`` of a folder is not followed; None: it is.

    Raises:
        DataError: it names what came with the folder: a stranger's model, which may run code when it is loaded.
    """
    if not _is_local(name):
        return None
    path, file = Path(name), place / "encoder.json"
    # A recommender's or a tokenizer's folder holds the encoder's.
    within = place.parent if (place.parent / "semantic_ids.safetensors").exists() else place
    if path.resolve().is_relative_to(within):
        raise DataError(f"{file} names {name!r}, a folder that came with it: don't trust {within}.")
    plain = path.is_dir() and not path.is_symlink()
    outside = path.is_absolute() or name.startswith("~") or ".." in path.parts
    if plain and (not outside or saved_in == str(place)):
        return None
    return (
        f"{file} names the encoder {name!r}, a path that was not saved here: it may be another's. If it is yours, "
        "give it yourself: recommender.encoder = SentenceEncoder(...), and save."
    )


def _default_cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiger"
