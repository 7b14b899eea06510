"""Writing files so that a crash, a full disk or Ctrl-C never leaves half of one where a whole one was."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Write to a temporary name beside ``path``, then rename: readers see the old file or the new one, whole."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to, which takes its place if the block ends well."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def written_together(folder: str | os.PathLike, names: Sequence[str]) -> Iterator[Path]:
    """A scratch folder to write files into, of which ``names`` move to ``folder`` if the block ends well.

    Other files of ``folder`` stay; so do those of these names if the block fails. The scratch folder lies within
    ``folder``, on the same disk, so that each move is one atomic step.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new.") as scratch:
        yield Path(scratch)
        for name in names:
            os.replace(Path(scratch) / name, folder / name)


def refuse_other_files(path: str | os.PathLike, marker: str) -> None:
    """Stop before a folder that holds something else is replaced.

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
    """
    path = Path(path).resolve()
    refuse_other_files(path, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new."))
    try:
        yield fresh
        for part in (fresh, *fresh.rglob("*")):  # temporary files that were renamed are their owner's alone
            os.chmod(part, 0o755 if part.is_dir() else 0o644)
        going = None if ours is None or not path.exists() else set(ours(path))
        if path.exists():
            _exchange(path, fresh, going)
        else:
            os.replace(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _exchange(path: Path, fresh: Path, going: set[str] | None) -> None:
    """Put ``fresh`` where ``path`` is; if that fails half-way, put ``path`` back."""
    if _swapped(path, fresh):
        _carry_over(fresh, path, going)
        return
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    try:
        os.replace(path, aside / path.name)
        try:
            os.replace(fresh, path)
        except BaseException:
            os.replace(aside / path.name, path)
            raise
        _carry_over(aside / path.name, path, going)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _carry_over(old: Path, new: Path, going: set[str] | None) -> None:
    """Move what is not ``going`` to the new folder; what can't be moved stays in the old one, which is kept then."""
    try:
        for part in [] if going is None else list(old.iterdir()):
            if part.name not in going and not (new / part.name).exists():
                os.replace(part, new / part.name)
    except OSError as error:
        kept = new.with_name(f"{old.name}.kept")
        os.rename(old, kept)
        raise OSError(error.errno, f"{error.strerror}; files of yours are left in {kept}") from error


def _swapped(path: Path, other: Path) -> bool:
    """Exchange two folders in one step, where the system can: then no process, killed when it may be, leaves none."""
    try:
        rename, here, exchange = ctypes.CDLL(None).renameat2, -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    except AttributeError:  # not Linux, or an old C library
        return False
    return rename(here, os.fsencode(path), here, os.fsencode(other), exchange) == 0
