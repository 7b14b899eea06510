"""Atomic writes: a crash, a full disk or Ctrl-C never leaves half a file in place of a whole one."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tiger.utils.disk import disk_errors
from tiger.utils.locks import locked


def _umask() -> int:
    """The rights that this process gives to nobody. Where the system tells them, they are not changed for that: other
    threads may write meanwhile."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_MASK = _umask()
FILE_MODE, FOLDER_MODE = 0o666 & ~_MASK, 0o777 & ~_MASK  # of what others may read, as if it were written in place


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Write to a temporary name beside ``path``, then rename: readers see the old file or the new one, whole."""
    content = content.encode() if isinstance(content, str) else content
    with written_whole(path, len(content)) as temporary:
        temporary.write_bytes(content)


@contextmanager
def written_whole(path: str | os.PathLike, wanted: int | None = None) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to, which takes its place if the block ends well.

    Args:
        path: the file.
        wanted: its bytes, where they are known.

    Raises:
        DiskError: the disk is full, read-only or denied.
    """
    path = Path(path)
    with disk_errors(path, wanted):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, FILE_MODE)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def written_together(folder: str | os.PathLike, names: Sequence[str]) -> Iterator[Path]:
    """A scratch folder to write files into, of which ``names`` move to ``folder`` if the block ends well.

    Other files of ``folder`` stay; so do those of these names if the block fails. The scratch folder lies within
    ``folder``, on the same disk, so that each move is one atomic step.

    Raises:
        DiskError: the disk is full, read-only or denied.
    """
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new.") as scratch:
            yield Path(scratch)
            for name in names:
                sync(Path(scratch) / name)
            for name in names:
                os.replace(Path(scratch) / name, folder / name)
            sync(folder)


def sync(path: str | os.PathLike) -> None:
    """Wait until a file or folder is on the disk: what is renamed before that can be empty after a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems can't sync a folder, and say so.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def refuse_other_files(path: str | os.PathLike, marker: str) -> None:
    """Raise an error before a folder with other files is replaced.

    Args:
        path: the folder to be written.
        marker: a file that every folder of the right kind holds.

    Raises:
        FileExistsError: ``path`` is a file, or a folder with files in it but no ``marker``.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / marker).exists())):
        raise FileExistsError(f"{path} holds other files, which would be lost: give a folder of its own")


@contextmanager
def replaced_folder(
    path: str | os.PathLike, marker: str, ours: Callable[[Path], Collection[str]] | None = None
) -> Iterator[Path]:
    """A fresh folder to write into, which takes ``path``'s place if the block ends well; else ``path`` stays.

    Args:
        path: the folder to be written, or a link to it; see :func:`refuse_other_files` for what may be there.
        marker: a file that the block writes.
        ours: of the folder that is replaced, the names in it that go with it; all others (``.git``, notes) move to the
            new one. None: everything goes.

    Raises:
        FileExistsError: see :func:`refuse_other_files`.
        DiskError: the disk is full, read-only or denied.
    """
    path = Path(path).resolve()
    refuse_other_files(path, marker)
    with disk_errors(path), locked(path):
        _clear_stale(path, ours)
        fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new."))
        try:
            with disk_errors(path):  # before it is cleared away, to count what is free
                yield fresh
            for part in (*fresh.rglob("*"), fresh):  # temporary files that were renamed are their owner's alone
                os.chmod(part, FOLDER_MODE if part.is_dir() else FILE_MODE)
                sync(part)
            if path.exists():
                _exchange(path, fresh, None if ours is None else set(ours(path)))
            else:
                os.replace(fresh, path)
            sync(path.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def put_back(path: str | os.PathLike) -> None:
    """Give a folder its name again that a killed writer had put aside, where the system can't exchange two folders.

    Nothing is done where the name is taken by another folder that holds something.
    """
    path = Path(path).resolve()
    if not _aside(path):
        return
    with locked(path):
        aside = _aside(path)
        if len(aside) == 1 and not (path.exists() and (not path.is_dir() or any(path.iterdir()))):
            os.replace(aside[0], path)  # an empty folder gives way


def _aside(path: Path) -> list[Path]:
    return list(path.parent.glob(f".{glob.escape(path.name)}.old.*/{glob.escape(path.name)}"))


def _clear_stale(path: Path, ours: Callable[[Path], Collection[str]] | None) -> None:
    """Remove what writers of ``path`` left that were killed: its lock is held, so none of them is alive. Files of the
    owner's that it has and ``path`` lacks come back."""
    put_back(path)
    for kind in ("new", "old"):
        for stale in path.parent.glob(f".{glob.escape(path.name)}.{kind}.*"):
            if kind == "old" and ours is not None and (stale / path.name).is_dir() and path.is_dir():
                _link_over(stale / path.name, path, set(ours(stale / path.name)))
            if kind == "new" or path.exists():
                shutil.rmtree(stale, ignore_errors=True)


def _exchange(path: Path, fresh: Path, going: set[str] | None) -> None:
    """Put ``fresh`` where ``path`` is, with what is not ``going``; if that fails, ``path`` is there as before."""
    if going is not None:
        _link_over(path, fresh, going)
    if _swapped(path, fresh):
        if going is not None:
            _link_over(fresh, path, going)  # what has come meanwhile
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    try:
        os.replace(path, aside / path.name)
        try:
            os.replace(fresh, path)
        except BaseException:
            os.replace(aside / path.name, path)
            raise
        if going is not None:
            _link_over(aside / path.name, path, going)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _link_over(old: Path, new: Path, going: set[str]) -> None:
    """Files that no save wrote are in both folders, as links to one file, before these change places: whenever the
    process is killed, or the power fails, the folder that has the name has them."""
    linked = [part.name for part in old.iterdir() if part.name not in going and not os.path.lexists(new / part.name)]
    for name in linked:
        if (old / name).is_dir() and not (old / name).is_symlink():
            _link_tree(old / name, new / name)
        else:
            _link(old / name, new / name)
    if linked:
        sync(new)


def _link_tree(source: Path, target: Path) -> None:
    """``shutil.copytree`` of links, which stops at the first error and raises it as it is."""
    target.mkdir()
    for part in source.iterdir():
        (_link_tree if part.is_dir() and not part.is_symlink() else _link)(part, target / part.name)
    shutil.copystat(source, target)
    sync(target)


def _link(source: str | os.PathLike, target: str | os.PathLike) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without links, or another one mounted within
        shutil.copy2(source, target, follow_symlinks=False)
        if not os.path.islink(target):
            sync(target)


def _swapped(path: Path, other: Path) -> bool:
    """Exchange two folders in one step, where the system can: then no process, killed when it may be, leaves none."""
    try:
        rename, here, exchange = ctypes.CDLL(None).renameat2, -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    except AttributeError:  # not Linux, or an old C library
        return False
    return rename(here, os.fsencode(path), here, os.fsencode(other), exchange) == 0
