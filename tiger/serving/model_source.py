"""Source of a service's model, from which it can be loaded again while the service answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tiger.recommender import hub
from tiger.recommender.manifest import MANIFEST, find_folder
from tiger.recommender.recommender import TigerRecommender
from tiger.utils.errors import DataError
from tiger.utils.hub import DownloadOptions
from tiger.utils.paths import is_repo_id

ATTEMPTS = 3  # to read a directory that another process replaces meanwhile


@dataclass(frozen=True)
class LoadedModel:
    """A recommender and the manifest of the directory that it was read from."""

    recommender: TigerRecommender
    manifest: bytes

    @property
    def digest(self) -> str:
        """First 16 digits of the SHA-256 of ``tiger.json``, which holds the digests of all other files."""
        return manifest_digest(self.manifest)


@dataclass(frozen=True)
class ModelSource:
    """A directory, or a repository on the Hub.

    Args:
        name: as for :meth:`TigerRecommender.from_pretrained`.
        revision: branch, tag or commit on the Hub.
        read: reads a directory.
    """

    name: str
    revision: str | None = None
    read: Callable[[str], TigerRecommender] = TigerRecommender.from_pretrained

    def load(self) -> LoadedModel:
        """Read the recommender as it is now; of a branch on the Hub, its newest commit.

        Raises:
            DataError: it can't be read, or is replaced again and again meanwhile.
        """
        for _ in range(ATTEMPTS):
            folder = self.folder()
            before = read_manifest_bytes(folder)
            recommender = self.read(str(folder))
            if before is not None and read_manifest_bytes(folder) == before:
                return LoadedModel(recommender, before)
        raise DataError(f"{self.name} was replaced {ATTEMPTS} times while it was read: wait until nobody writes it.")

    def folder(self) -> Path:
        """The directory, downloaded where it is the Hub's. If there is none, whoever reads it says so."""
        folder = find_folder(self.name)
        if not folder.is_dir() and is_repo_id(self.name):
            return hub.download(self.name, DownloadOptions(revision=self.revision))
        return folder


def manifest_digest(manifest: bytes) -> str:
    """First 16 digits of a manifest's SHA-256."""
    return hashlib.sha256(manifest).hexdigest()[:16]


def read_manifest_bytes(folder: Path) -> bytes | None:
    """The manifest of a saved recommender, which holds the digests of all its files; None: there is none."""
    try:
        return (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
