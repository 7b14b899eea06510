"""Recommenders on the Hub: one repository per recommender, one commit per push."""

from __future__ import annotations

import glob
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

from tiger.embeddings.base import is_local_folder
from tiger.recommender.card_block import Readme, merged
from tiger.recommender.checkpoint import check_weights, write_state
from tiger.recommender.manifest import MANIFEST, check_files, read_manifest
from tiger.recommender.model_card import CARD, CARD_FILES, model_card, write_card
from tiger.recommender.state import RecommenderState
from tiger.utils.digests import changed_files
from tiger.utils.errors import DataError
from tiger.utils.hub import (
    DownloadOptions,
    at_revision,
    create_repository,
    download_errors,
    fetch,
    upload_errors,
)

# Nothing else is ever fetched: no pickle, no code.
SUFFIXES = (".json", ".parquet", ".safetensors")


@dataclass(frozen=True)
class PushOptions:
    """Options of a push.

    Args:
        include_items: publish the item table, titles and all. Item ids and codes are published in any case; an LSA
            encoder holds the words of the texts it was fitted on, a ranker may hold vectors of them.
        results: rows of results files for the card, see :func:`tiger.recommender.model_card.read_results`.
        license: of the weights, as the Hub spells it (``"apache-2.0"``); None: as the repository's card has it, or
            the card says that none is stated.
        datasets: on the Hub that it was trained on, ``owner/name``.
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
    datasets: Sequence[str] = ()
    private: bool | None = None
    token: str | bool | None = None
    revision: str | None = None
    commit_message: str = "Upload a tiger recommender"
    create_pr: bool = False


def push(state: RecommenderState, repo_id: str, options: PushOptions) -> CommitInfo:
    """Publish a recommender, see :meth:`tiger.TigerRecommender.push_to_hub`. A README that is not ours stays."""
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
    check_weights(state.model, "nothing is pushed")
    # An error in the results comes before anything is made.
    model_card(state, repo_id, options.results, options.license, options.revision, options.datasets)
    published = state if options.include_items else replace(state, items=None)
    repo_id = create_repository(repo_id, options.private, options.token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_state(published, folder)
        with_card = _write_card(published, folder, repo_id, options)
        return upload(
            folder,
            repo_id,
            card_files=CARD_FILES if with_card else (),
            token=options.token,
            revision=options.revision,
            commit_message=options.commit_message,
            create_pr=options.create_pr,
        )


def _write_card(state: RecommenderState, folder: Path, repo_id: str, options: PushOptions) -> bool:
    """Write the card, with what is kept of the repository's; False, with a warning, where that is not ours."""
    with upload_errors(repo_id):
        found = _published_text(HfApi(token=options.token), repo_id, CARD, options.revision)
    old = None if found is None else Readme.parse(found)
    if found is not None and (old is None or not old.is_ours):
        warnings.warn(
            f"the {CARD} of {repo_id} was not written by tiger and stays as it is: to have a model card, remove it "
            "and push again.",
            stacklevel=5,
        )
        return False
    license = options.license or (None if old is None else old.metadata.get("license"))
    card = model_card(state, repo_id, options.results, license, options.revision, options.datasets)
    new = Readme.parse(card)
    assert new is not None  # it is ours
    write_card(state, folder, card if old is None else merged(old, new).render())
    return True


def download(repo_id: str, options: DownloadOptions = DownloadOptions()) -> Path:
    """A recommender's files in the local cache, fetched as far as they are not there.

    Args:
        repo_id: ``owner/name``.

    Raises:
        DataError: no such repository or revision, no right to read it, not a recommender's, or neither network nor
            cache have all of it.
    """
    at = at_revision(repo_id, options)
    with download_errors(repo_id, options):
        # The manifest first: of another library's repository, not a gigabyte is downloaded before it is refused.
        repository = fetch(repo_id, [glob.escape(options.within(MANIFEST))], options, options.revision)
        folder = repository / options.subfolder
        if not (folder / MANIFEST).exists():
            raise DataError(f"{at} has no {options.within(MANIFEST)}: it is not a recommender saved by tiger.")
        manifest = read_manifest(folder)
        files = [glob.escape(name) for name in manifest.get("files", {}) if name.endswith(SUFFIXES)]
        patterns = [MANIFEST, *(files or [f"*{suffix}" for suffix in SUFFIXES])]
        # All else from the same commit: a push that comes between does not mix two models.
        fetch(repo_id, [options.within(pattern) for pattern in patterns], options, repository.name)
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
    with upload_errors(repo_id), warnings.catch_warnings():
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
    content = _published_text(api, repo_id, MANIFEST, revision)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / MANIFEST).write_text(content or "", encoding="utf-8")
        try:
            return list(read_manifest(scratch).get("files", {}))
        except DataError:
            return []


def _published_text(api: HfApi, repo_id: str, name: str, revision: str | None) -> str | None:
    """A text file of a repository, of ``main`` where there is no such branch yet; None: there is none."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            file = api.hf_hub_download(repo_id, name, revision=revision, local_dir=scratch)
        except EntryNotFoundError:
            return None
        except RevisionNotFoundError:
            return None if revision is None else _published_text(api, repo_id, name, None)
        return Path(file).read_text(encoding="utf-8", errors="replace")
