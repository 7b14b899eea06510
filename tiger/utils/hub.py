"""The Hub's client: options of a download, repositories to push to, and its errors in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # httpx's own, of whichever version the client uses
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tiger.utils.errors import DataError, first_line
from tiger.utils.paths import nearest_hint


@dataclass(frozen=True)
class DownloadOptions:
    """Options of a download from the Hub.

    Args:
        revision: branch, tag or commit; None: ``main``.
        token: for a private or gated repository; None: that of ``hf auth login`` or ``$HF_TOKEN``.
        cache_dir: of downloads; None: the Hub client's own.
        local_files_only: take what is in the cache, without the network.
        force_download: download again what is in the cache.
        subfolder: of a repository or directory, the folder that holds what is loaded; empty: the repository itself.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | os.PathLike | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""

    def __post_init__(self):
        if os.path.isabs(self.subfolder) or ".." in Path(self.subfolder).parts:
            raise DataError(f"subfolder {self.subfolder!r} leads out of the repository: give a folder within it.")

    def within(self, name: str) -> str:
        """The path in the repository of a file of the subfolder."""
        return f"{Path(self.subfolder).as_posix()}/{name}" if self.subfolder else name


def download_options(given: Mapping[str, Any]) -> DownloadOptions:
    """Options by name, as ``from_pretrained`` of any class takes them.

    Args:
        given: None is the default; what a program passes on for its own use, its name begun with an underscore, is
            left out.

    Raises:
        TypeError: one is unknown, naming it.
    """
    named = {name: value for name, value in given.items() if not name.startswith("_") and value is not None}
    if unknown := named.keys() - {field.name for field in fields(DownloadOptions)}:
        raise TypeError(f"from_pretrained got options that it does not have: {', '.join(sorted(unknown))}")
    return DownloadOptions(**named)


def fetch(repo_id: str, patterns: Sequence[str], options: DownloadOptions, revision: str | None) -> Path:
    """Files of a repository in the local cache, fetched as far as they are not there; returns the repository's folder.

    Args:
        patterns: of their paths in the repository.
        revision: in the place of that of ``options``.
    """
    return Path(
        snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=list(patterns),
            token=options.token,
            cache_dir=None if options.cache_dir is None else os.fspath(options.cache_dir),
            local_files_only=options.local_files_only,
            force_download=options.force_download,
        )
    )


@contextmanager
def download_errors(repo_id: str, options: DownloadOptions) -> Iterator[None]:
    """Turn errors of the Hub client into one line.

    Raises:
        DataError: no such repository or revision, no right to read it, or neither network nor cache have all of it.
    """
    at = at_revision(repo_id, options)
    try:
        yield
    except GatedRepoError as error:
        raise DataError(
            f"{repo_id} is gated: ask for access on its page on the Hub, then `hf auth login` or give a token."
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(
            f"{repo_id} has no revision {options.revision!r}: give a branch, a tag or a commit of it."
        ) from error
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"{at} is not a directory here{nearest_hint(repo_id)}, not in the cache as a whole, and the Hub "
            f"{'was not to be asked' if options.local_files_only else 'could not be reached'}: load it once with a "
            "connection."
        ) from error
    except (HTTPError, OSError, RuntimeError) as error:
        if isinstance(error, RepositoryNotFoundError) or _status(error) in (401, 403):
            raise DataError(
                f"{repo_id} is neither a directory here{nearest_hint(repo_id)} nor a repository on the Hub that you "
                "may read. Check the name; for a private one, `hf auth login` or give a token."
            ) from error
        raise DataError(
            f"the download of {at} broke off ({first_line(error)}). Load it again: whole files are kept."
        ) from error


def at_revision(repo_id: str, options: DownloadOptions) -> str:
    """A repository as messages name it."""
    return f"{repo_id} at revision {options.revision}" if options.revision else repo_id


def create_repository(repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
    """Make sure that there is a repository to push to.

    Args:
        repo_id: ``owner/name``, or a name, of your own.
        private: of a new repository; None: as the owner's default is. One that exists stays as it is.

    Returns:
        ``owner/name``.

    Raises:
        DataError: the name is none, there is no right to write, no token or no connection; or it was to be private
            and is there as a public one.
    """
    api = HfApi(token=token)
    with upload_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.repo_info(repo_id).private:
            raise DataError("it is there already, and public. Make it private on its settings page first.")
    return repo_id


@contextmanager
def upload_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub client into one line.

    Raises:
        DataError: no right to write, no connection, or the Hub finds fault with what is pushed.
    """
    try:
        yield
    except HFValidationError as error:
        raise DataError(f"{repo_id!r} can't name a repository: give owner/name.") from error
    except (HTTPError, OSError, RuntimeError) as error:
        refused = _status(error) in (401, 403, 404)
        remedy = "`hf auth login` with a token that may write, or give one." if refused else "Try again."
        raise DataError(f"can't push to {repo_id} ({first_line(error)}). {remedy}") from error
    except ValueError as error:
        raise DataError(f"can't push to {repo_id}: {' '.join(str(error).split())}") from error


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None
