"""Tables of a data set on the Hub, and of the ``datasets`` library's objects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from tiger.utils.errors import DataError, first_line
from tiger.utils.paths import nearest_hint

TABLES = ("items", "interactions")


def hub_table(path: str, name: str, config: str | None, revision: str | None) -> Any:
    """One table of a data set on the Hub, as a ``datasets.Dataset``: ``items.parquet``, or shards ``items/*.parquet``.

    Args:
        path: ``owner/name``.
        name: ``items`` or ``interactions``.
        config: a folder of the repository; None: the repository itself.
        revision: branch, tag or commit.

    Raises:
        DataError: it can't be read.
    """
    import datasets

    within = f"{config}/" if config else ""
    whole, shards = f"{within}{name}.parquet", f"{within}{name}/*.parquet"
    with _hub_errors(path):
        files = _files(path, revision)
        options: dict[str, Any] = {}
        if files is None:  # from the cache alone: `datasets` would ask six times, half a minute long
            options["download_config"] = datasets.DownloadConfig(local_files_only=True)
        elif whole not in files and not any(file.startswith(f"{within}{name}/") for file in files):
            raise DataError(f"{path} has no {whole} and no {shards}: it holds no data set of this library.")
        wanted = whole if files is None or whole in files else shards
        return datasets.load_dataset(path, data_files=wanted, split="train", revision=revision, **options)


def _files(path: str, revision: str | None) -> set[str] | None:
    """Names of a data set's files, by one request; None where the Hub can't be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        found = HfApi().dataset_info(path, revision=revision, timeout=10).siblings or []
    except HfHubHTTPError:
        raise
    except (HTTPError, OSError):
        return None
    return {file.rfilename for file in found}


@contextmanager
def _hub_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn what the clients say of a data set that they can't load into one line."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except DataError:
        raise
    except (DatasetsError, HTTPError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} is neither a directory here{nearest_hint(path)} nor a data set on the Hub that can be read "
            f"({first_line(error)}). Check the name; for a private one, `hf auth login`."
        ) from error


def arrow_table(table: Any, name: str) -> pa.Table:
    """An Arrow table, or what can be made one: a ``datasets.Dataset``, a data frame.

    Args:
        name: what error messages call it.

    Raises:
        DataError: it is neither, or streamed.
    """
    if isinstance(table, pa.Table):
        return table
    if hasattr(table, "with_format") and hasattr(table, "features"):
        if not hasattr(table, "__len__"):
            raise DataError(f"{name}: a streamed data set has to be read several times. Load it without streaming.")
        return table.with_format("arrow")[:]
    try:
        return pa.table(table)
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{name}: a {type(table).__name__} is no table ({first_line(error)}).") from error


def pair_of_tables(data: Any) -> tuple[pa.Table, pa.Table]:
    """Items and interactions of a ``datasets.DatasetDict`` or another mapping of these names, or of a pair.

    Raises:
        DataError: it holds other tables.
    """
    if isinstance(data, Mapping):
        if missing := [name for name in TABLES if name not in data]:
            raise DataError(f"the data has no {missing[0]!r} (it has {', '.join(map(str, data))}). Add or rename it.")
        data = [data[name] for name in TABLES]
    if not isinstance(data, list | tuple) or len(data) != 2:
        raise DataError(
            f"the data is a {type(data).__name__}: give a directory, owner/name, or items and interactions."
        )
    items, interactions = (arrow_table(table, name) for table, name in zip(data, TABLES))
    return items, interactions
