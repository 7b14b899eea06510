"""Tokenizers on the Hub: in a repository of their own, or within a recommender's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi

from tiger.semantic_ids.directory import FILE_NAME, QUANTIZER_FOLDER
from tiger.utils.errors import DataError
from tiger.utils.hub import DownloadOptions, create_repository, download_errors, fetch, upload_errors
from tiger.utils.paths import is_repo_id

# Nothing else is ever fetched: no pickle, no code.
_FILES = (FILE_NAME, f"{QUANTIZER_FOLDER}/*.json", f"{QUANTIZER_FOLDER}/*.safetensors")
_RECOMMENDER = "tiger.json"  # a recommender's repository has one


class HubTokenizer:
    """Base of a tokenizer that can be pushed to the Hub."""

    def push_to_hub(
        self: Any,
        repo_id: str,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload semantic IDs",
        create_pr: bool = False,
    ) -> CommitInfo:
        """Publish semantic IDs, item ids and quantizer in one commit; other files of the repository stay.

        Args:
            repo_id: ``owner/name``; made where there is none.
            private: of a new repository; None: as the owner's default is.
            token: None: that of ``hf auth login`` or ``$HF_TOKEN``.
            revision: a branch; None: ``main``.
            create_pr: make it a pull request.

        Raises:
            DataError: no connection, no right to write, or the repository is a recommender's: its T5 knows its own
                semantic IDs only.
        """
        repo_id = create_repository(repo_id, private, token)
        api = HfApi(token=token)
        with upload_errors(repo_id), tempfile.TemporaryDirectory() as scratch:
            if revision is not None and not revision.startswith("refs/"):
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            if api.file_exists(repo_id, _RECOMMENDER, revision=revision):
                raise DataError("a recommender is there, whose parts belong together. Push all of it.")
            self.save_pretrained(scratch)
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=scratch,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
                delete_patterns=[f"{QUANTIZER_FOLDER}/*"],
            )


def tokenizer_folder(name: str | os.PathLike, options: DownloadOptions) -> Path:
    """The directory of a tokenizer, from the Hub where ``name`` is none here.

    Raises:
        DataError: neither directory nor readable repository, or a repository without a tokenizer.
    """
    folder = Path(name) / options.subfolder
    if Path(name).is_dir() or not is_repo_id(name):
        return folder
    with download_errors(name, options):
        patterns = [options.within(pattern) for pattern in _FILES]
        folder = fetch(name, patterns, options, options.revision) / options.subfolder
    if not (folder / FILE_NAME).exists():
        raise DataError(f"{name} has no {options.within(FILE_NAME)}: it holds no tokenizer saved by tiger.")
    return folder
