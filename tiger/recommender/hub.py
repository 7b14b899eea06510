"""Recommenders on the Hub: one repository per recommender, one commit per push."""

from __future__ import annotations

import glob
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # httpx's own, of whichever version the client uses
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tiger.embeddings.base import is_local_folder
from tiger.recommender.checkpoint import write_state
from tiger.recommender.manifest import MANIFEST, check_files, read_manifest
from tiger.recommender.model_card import CARD_FILES, model_card, write_card
from tiger.recommender.state import RecommenderState
from tiger.utils.digests import changed_files
from tiger.utils.errors import DataError, first_line
from tiger.utils.paths import nearest_hint

# Nothing else is ever fetched: no pickle, no code.
SUFFIXES = (".json", ".parquet", ".safetensors")


@dataclass(frozen=True)
class PushOptions:
    """Options of a push.

    Args:
        include_items: publish the item table, titles and all. Item ids and codes are published in any case; an LSA
            encoder holds the words of the texts it was fitted on, a ranker may hold vectors of them.
        results: rows of results files for the card, see :func:`tiger.recommender.model_card.read_results`.
        license: of the weights, as the Hub spells it (``"apache-2.0"``); None: the card says that none is stated.
        private: of a new repository; None: as the owner's default is. One that exists stays as it is, and a public one
            is refused if this is true.
        token: None: that of ``hf auth login`` or ``$HF_TOKEN``.
        revision: a branch, made where there is none; None: ``main``.
        commit_message: the commit's.
        create_pr: make it a pull request against ``main``.
    """

    include_items: bool = False
    results: Sequence[dict] = ()
    license: str | None = None
    private: bool | None = None
    token: str | bool | None = None
    revision: str | None = None
    commit_message: str = "Upload a tiger recommender"
    create_pr: bool = False


def push(state: RecommenderState, repo_id: str, options: PushOptions) -> CommitInfo:
    """Publish a recommender, see :meth:`tiger.TigerRecommender.push_to_hub`."""
    if state.ranker is not None and state.ranker.reads_items and not options.include_items:
        raise DataError(
            "the ranker reads the items' texts, which are not published unasked: give include_items=True "
            "(--with_items), or push the recommender without its ranker."
        )
    if state.encoder is not None and is_local_folder(state.encoder):
        warnings.warn(
            f"the encoder is a folder of this machine, {state.encoder.name}, which is not published: who downloads "
            "this recommender can't add items. Push the encoder to the Hub and name it from there.",
            stacklevel=3,
        )
    model_card(
        state, repo_id, options.results, options.license
    )  # an error in the results comes before anything is made
    published = state if options.include_items else replace(state, items=None)
    repo_id = create_repository(repo_id, options.private, options.token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_state(published, folder)
        write_card(published, folder, repo_id, options.results, options.license, options.revision)
        return upload(
            folder,
            repo_id,
            card_files=CARD_FILES,
            token=options.token,
            revision=options.revision,
            commit_message=options.commit_message,
            create_pr=options.create_pr,
        )


def download(
    repo_id: str,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
) -> Path:
    """A recommender's files in the local cache, fetched as far as they are not there.

    Args:
        repo_id: ``owner/name``.
        revision: branch, tag or commit; None: ``main``.
        token: for a private or gated repository; None: that of ``hf auth login`` or ``$HF_TOKEN``.
        cache_dir: None: the Hub client's own.
        local_files_only: don't use the network.

    Raises:
        DataError: no such repository or revision, no right to read it, not a recommender's, or neither network nor
            cache have all of it.
    """

    def fetch(revision: str | None, patterns: str | list[str]) -> Path:
        cache = None if cache_dir is None else os.fspath(cache_dir)
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=patterns,
                token=token,
                cache_dir=cache,
                local_files_only=local_files_only,
            )
        )

    at = f"{repo_id} at revision {revision}" if revision else repo_id
    with _download_errors(repo_id, at, revision, local_files_only):
        # The manifest first: of another library's repository, not a gigabyte is downloaded before it is refused.
        folder = fetch(revision, MANIFEST)
        if not (folder / MANIFEST).exists():
            raise DataError(f"{at} has no {MANIFEST}: it is not a recommender saved by tiger.")
        manifest = read_manifest(folder)
        files = [glob.escape(name) for name in manifest.get("files", {}) if name.endswith(SUFFIXES)]
        # All else from the same commit: a push that comes between does not mix two models.
        fetch(folder.name, [MANIFEST, *(files or [f"*{suffix}" for suffix in SUFFIXES])])
    try:
        check_files(folder, manifest)
    except DataError as error:
        # The client compares sizes alone, and never fetches again what is in the cache.
        for name in changed_files(folder, manifest.get("files", {})):
            (folder / name).resolve().unlink()
            (folder / name).unlink(missing_ok=True)
        raise DataError(
            f"{error} What differs has left the cache of {at}: load it again, and if that does not help, the "
            "repository itself is damaged."
        ) from error
    return folder


@contextmanager
def _download_errors(repo_id: str, at: str, revision: str | None, local_files_only: bool) -> Iterator[None]:
    """Turn errors of the Hub client into readable messages."""
    try:
        yield
    except GatedRepoError as error:
        raise DataError(
            f"{repo_id} is gated: ask for access on its page on the Hub, then `hf auth login` or give a token."
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(f"{repo_id} has no revision {revision!r}: give a branch, a tag or a commit of it.") from error
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"{at} is not a directory here{nearest_hint(repo_id)}, not in the cache as a whole, and the Hub "
            f"{'was not to be asked' if local_files_only else 'could not be reached'}: load it once with a connection."
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
    with _upload_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.repo_info(repo_id).private:
            raise DataError("it is there already, and public. Make it private on its settings page first.")
    return repo_id


def upload(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    card_files: tuple[str, ...],
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str,
    create_pr: bool = False,
) -> CommitInfo:
    """Make one commit after which the repository holds a recommender's directory.

    What the manifest of the commit before names, and this one does not, is deleted. Other files stay: they are the
    owner's.

    Args:
        folder: the directory.
        repo_id: of a repository that exists.
        card_files: what belongs to the card and may have vanished too.
        revision: a branch, made from ``main`` where there is none; None: ``main``.
        create_pr: make it a pull request against ``main``.

    Raises:
        DataError: as for :func:`create_repository`, or the Hub finds fault with the card's metadata.
    """
    api = HfApi(token=token)
    with _upload_errors(repo_id), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=Path(folder),
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            delete_patterns=[glob.escape(name) for name in (*_published_files(api, repo_id, revision), *card_files)],
        )


def _published_files(api: HfApi, repo_id: str, revision: str | None) -> list[str]:
    """Names of files in a repository's manifest; none where it has no manifest of ours."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            api.hf_hub_download(repo_id, MANIFEST, revision=revision, local_dir=scratch)
            return list(read_manifest(scratch).get("files", {}))
        except (EntryNotFoundError, DataError):
            return []


@contextmanager
def _upload_errors(repo_id: str) -> Iterator[None]:
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
