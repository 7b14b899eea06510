"""Folders on a disk, or in object storage by a URL of fsspec: a file appears there whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from tiger.utils.disk import disk_errors
from tiger.utils.errors import DataError, first_line
from tiger.utils.files import FILE_MODE, sync, write_atomically, written_whole
from tiger.utils.json_files import parse_json


class Store(Protocol):
    """A folder, whose files are named by paths within it.

    Attributes:
        place: its path or URL.
    """

    place: str

    def read(self, name: str) -> bytes | None:
        """Content of a file; None: there is none."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in place of one that is there: by a rename on a disk, by a completed upload elsewhere."""
        ...

    def put(self, name: str, file: Path) -> None:
        """:meth:`write` the content of a file of this machine."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there; False, and nothing happens, where it is, also if another process was
        faster."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None: there is none."""
        ...

    def version(self, name: str) -> str | None:
        """Text that is another one once the file was written again, without reading it; None: there is no file."""
        ...

    def open(self, name: str) -> Any:
        """A file to read parts of.

        Raises:
            DataError: there is none, or it can't be read.
        """
        ...

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in it, or below a folder of it, in order."""
        ...

    def remove(self) -> None:
        """Remove all of it."""
        ...


def is_url(place: str | os.PathLike) -> bool:
    """Whether a place is named by a URL, such as ``s3://bucket/folder``."""
    return "://" in os.fspath(place)


def open_store(place: str | os.PathLike) -> Store:
    """The folder of this path or URL; it need not exist.

    Raises:
        DataError: no package for such URLs is installed.
    """
    return UrlStore(os.fspath(place)) if is_url(place) else DiskStore(place)


def read_object(store: Store, name: str) -> dict[str, Any] | None:
    """The JSON object of a file; None: there is no file.

    Raises:
        DataError: it holds something else.
    """
    content = store.read(name)
    if content is None:
        return None
    found = parse_json(content.decode("utf-8", "replace"), f"{store.place}/{name}")
    if not isinstance(found, dict):
        raise DataError(f"{store.place}/{name} is damaged: it holds no object.")
    return found


def split_url(place: str) -> tuple[str, str]:
    """The folder of a file's URL or path, and its name in it."""
    if not is_url(place):
        return str(Path(place).parent), Path(place).name
    folder, _, name = place.rpartition("/")
    return folder, name


def store_of(place: str) -> tuple[Store, str]:
    """The folder of a file's URL or path, opened, and its name in it.

    Raises:
        DataError: no package for such URLs is installed.
    """
    folder, name = split_url(place)
    return open_store(folder), name


def absolute(place: str | os.PathLike) -> str:
    """A path from the root of the disk, which means the same to processes that work elsewhere; a URL as it is."""
    return os.fspath(place) if is_url(place) else os.path.abspath(place)


class DiskStore:
    """A folder of a disk, which may be shared by machines."""

    def __init__(self, place: str | os.PathLike):
        self.place = os.fspath(place)
        self._folder = Path(place)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        file = self._folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)

    def put(self, name: str, file: Path) -> None:
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target, file.stat().st_size) as temporary:
            shutil.copyfile(file, temporary)

    def create(self, name: str, content: bytes) -> bool:
        file = self._folder / name
        with disk_errors(file, len(content)):
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
            try:
                with os.fdopen(handle, "wb") as opened:
                    opened.write(content)
                os.chmod(temporary, FILE_MODE)
                sync(temporary)
                os.link(temporary, file)  # unlike a rename, it takes no other's place, on NFS too
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary)
            sync(file.parent)
        return True

    def size(self, name: str) -> int | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self._folder / name).stat().st_size
        return None

    def version(self, name: str) -> str | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            found = (self._folder / name).stat()
            return f"{found.st_size}-{found.st_mtime_ns}"
        return None

    def open(self, name: str) -> IO[bytes]:
        try:
            return open(self._folder / name, "rb")
        except OSError as error:
            raise DataError(f"{self._folder / name} can't be read: {error.strerror}.") from error

    def names(self, folder: str = "") -> list[str]:
        files = (path for path in (self._folder / folder).rglob("*") if path.is_file())
        found = sorted(path.relative_to(self._folder).as_posix() for path in files)
        return [name for name in found if not Path(name).name.startswith(".")]

    def remove(self) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)


class UrlStore:
    """A folder of object storage, or of whatever fsspec has a package for."""

    def __init__(self, place: str):
        import fsspec

        self.place = place.rstrip("/")
        with _told(place, "reached"):
            # Listings are not kept: other machines write as well.
            self._files, root = fsspec.core.url_to_fs(self.place, use_listings_cache=False)
        self._root = str(root).rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def read(self, name: str) -> bytes | None:
        with _told(f"{self.place}/{name}", "read"):
            try:
                return self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        with _told(f"{self.place}/{name}", "written"):
            self._make_folder(name)
            self._files.pipe_file(self._path(name), content)

    def put(self, name: str, file: Path) -> None:
        with _told(f"{self.place}/{name}", "written"):
            self._make_folder(name)
            self._files.put_file(os.fspath(file), self._path(name))

    def create(self, name: str, content: bytes) -> bool:
        with _told(f"{self.place}/{name}", "written"):
            self._make_folder(name)
            try:
                self._files.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
        return True

    def size(self, name: str) -> int | None:
        with _told(f"{self.place}/{name}", "read"):
            try:
                return int(self._files.info(self._path(name))["size"])
            except FileNotFoundError:
                return None

    def version(self, name: str) -> str | None:
        with _told(f"{self.place}/{name}", "read"):
            try:
                known = self._files.info(self._path(name))  # size, and ETag or time of change
                return hashlib.sha256(str(known).encode()).hexdigest()
            except FileNotFoundError:
                return None

    def open(self, name: str) -> Any:
        with _told(f"{self.place}/{name}", "read"):
            return self._files.open(self._path(name), "rb")

    def names(self, folder: str = "") -> list[str]:
        with _told(self.place, "read"):
            try:
                found = self._files.find(self._path(folder).rstrip("/"))
            except FileNotFoundError:
                return []
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def remove(self) -> None:
        with _told(self.place, "removed"), suppress(FileNotFoundError):
            self._files.rm(self._root, recursive=True)

    def _make_folder(self, name: str) -> None:
        """Make the folder of a file, where the store has folders: a bucket has none, and only its owner makes it."""
        if "/" in self._root.strip("/") and getattr(self._files, "local_file", False):
            self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)


@contextmanager
def _told(place: str, what: str) -> Iterator[None]:
    """Turn the errors of the storage's own package into one line; of many kinds, they have no base class.

    Raises:
        DataError: naming the place.
    """
    try:
        yield
    except (DataError, FileNotFoundError, FileExistsError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{place} can't be {what}: there is no such file, folder or bucket.") from error
    except Exception as error:
        raise DataError(f"{place} can't be {what} ({first_line(error)}).") from error
