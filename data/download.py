"""Fetch a gzip or zip file: resumed where it broke off, whole or not at all, with its SHA-256 on record."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from tiger.utils.errors import DataError
from tiger.utils.files import write_atomically

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60


def download(url: str, path: str | os.PathLike, sha256: str | None = None) -> Path:
    """Fetch a gzip or zip file to ``path``, going on from ``<path>.part`` where an earlier try stopped.

    The file takes its name only when its length is the server's, its own checksum holds and its SHA-256 is ``sha256``
    (if given). The SHA-256 is recorded in ``<path>.sha256``, in the format of ``sha256sum``. A file that is there
    already is not fetched again but checked against ``sha256`` or that record.

    Raises:
        DataError: the server can't be reached or refuses, the connection broke (what came is kept), or a check failed.
    """
    path = Path(path)
    if path.exists():
        if not verify(path, sha256):
            _refuse_damaged(path)
            _record_sha256(path, _sha256(path))
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    _fetch(url, part)
    try:
        _refuse_damaged(part)
    except DataError:
        part.unlink()  # its length was right, so that going on from it can't mend it
        raise
    digest = _sha256(part)
    if sha256 and digest != sha256.lower():
        part.unlink()
        raise DataError(f"{url}: SHA-256 is {digest}, expected {sha256}. Download again, or check the expected value.")
    _record_sha256(path, digest)
    os.replace(part, path)
    return path


def verify(path: str | os.PathLike, sha256: str | None = None) -> bool:
    """Compare a file with ``sha256``, or else with the record beside it; False if there is nothing to compare with.

    Raises:
        DataError: the file's SHA-256 is another, or the record can't be read.
    """
    path = Path(path)
    record = _record_of(path)
    source = "--sha256"
    if not sha256:
        if not record.exists():
            return False
        source = str(record)
        words = record.read_text().split()
        if not words or not re.fullmatch("[0-9a-fA-F]{64}", words[0]):
            raise DataError(f"{record} doesn't start with a SHA-256. Delete it to have it written again.")
        sha256 = words[0]
    digest = _sha256(path)
    if digest != sha256.lower():
        raise DataError(
            f"{path}: SHA-256 is {digest}, but {source} says {sha256}. Delete the file and download it again; "
            "if it was replaced on purpose, delete or correct the record."
        )
    return True


def _fetch(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks of ``url``; on return its length is what the server promised."""
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    except ValueError as error:
        raise DataError(f"{url}: {error}. Check --base-url.") from error
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            if response.status == 206:
                if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                    raise DataError(f"{url}: asked for bytes from {have}, got others. Delete {part} and run again.")
            else:
                have = 0  # the server sends the whole file
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            _copy(response, part, have, total)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise DataError(
                f"{url}: the server says {error.code} {error.reason}. Check the category and --base-url, or get the "
                "file by other means and name its directory with --raw."
            ) from error
        promised = error.headers.get("Content-Range", "").rpartition("/")[2]
        if promised.isdigit() and int(promised) != have:
            part.unlink()  # longer than the file: not a part of it
            _fetch(url, part)
        return  # nothing after the last byte: the part is whole, which its gzip checksum will confirm
    except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{url}: {reason}. Run again to go on from where it stopped, or get the file by other means and name its "
            "directory with --raw."
        ) from error
    if total is not None and part.stat().st_size < total:
        raise DataError(
            f"{url}: the connection ended after {part.stat().st_size:,} of {total:,} bytes. "
            f"Run again to go on from there ({part})."
        )


def _copy(response: http.client.HTTPResponse, part: Path, have: int, total: int | None) -> None:
    name = part.name.removesuffix(".part")
    with (
        open(part, "ab" if have else "wb") as file,
        tqdm(desc=name, initial=have, total=total, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            bar.update(len(chunk))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _record_sha256(path: Path, digest: str) -> None:
    write_atomically(_record_of(path), f"{digest}  {path.name}\n")


def _refuse_damaged(path: Path) -> None:
    """Read a file to its end, which checks its checksums."""
    if path.name.removesuffix(".part").endswith(".zip"):
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path} is damaged or no zip file ({error}). Delete it and download it again.") from error
        if damaged:
            raise DataError(f"{path} is damaged ({damaged}). Delete it and download it again.")
        return
    with gzip_errors(path), gzip.open(path) as file:
        while file.read(CHUNK_BYTES):
            pass
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes). Delete it and download it again.")


@contextlib.contextmanager
def gzip_errors(path: Path) -> Iterator[None]:
    """Says which file it was and what to do when gzip data end early or are damaged."""
    try:
        yield
    except EOFError as error:
        remedy = "" if path.suffix == ".part" else f", or rename it to {path.name}.part to resume the download"
        raise DataError(
            f"{path} is cut short: its gzip data end early. Delete it and download it again{remedy}."
        ) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or not gzip ({error}). Delete it and download it again.") from error
