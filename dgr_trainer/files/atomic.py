"""Atomic writes: files and folders are written next to their target and then moved onto it."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from dgr_trainer.errors import DGRValueError

try:
    import fcntl
except ImportError:  # On Windows, leftovers of killed processes are not deleted.
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
T = TypeVar("T")


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    r"""Open a file that replaces `path` only after everything was written.

    Parent folders are created. If the block raises, `path` is unchanged. If `path` is a link, the file that it points
    to is replaced. Files that processes killed in such a block have left next to `path` are deleted.

    Args:
        path (`str` or `os.PathLike`): The file to write or to replace.
        mode (`str`, *optional*, defaults to `"w"`): `"w"` for UTF-8 text with `\n` line ends, `"wb"` for bytes.

    Yields:
        `IO`: The open file.

    Raises:
        ValueError: if `mode` is neither `"w"` nor `"wb"`, or `path` is a pipe or a device.
        IsADirectoryError: if `path` is a folder.
    """
    if mode not in ("w", "wb"):
        raise DGRValueError(
            f"mode is {mode!r}, but a file is only ever written whole: use 'w' (text) or 'wb' (bytes)."
        )
    path = link_target(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, so no file can be written there. Give the path of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_leftovers(path)
    with _held_file(path, mode) as (file, temporary):
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(temporary, path)


def link_target(path: str | os.PathLike[str]) -> Path:
    """The file or folder that is written where `path` is named: if it is a link, what the link points to.

    Raises:
        ValueError: if it is a pipe or a device, which cannot be replaced by a file.
        OSError: if it is a link that leads back to itself.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DGRValueError(f"{path} is a pipe or a device, but the output replaces a file as a whole. Give a file.")
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, "a link that leads back to itself", str(path))
    return target


def with_own_name(path: str | os.PathLike[str]) -> Path:
    """A path that ends in the name of its file or folder, so that what is put beside it can be named after it.

    Args:
        path (`str` or `os.PathLike`): Any path; `.`, or one that ends in `..`, becomes that of the folder it leads to.
    """
    path = Path(path)
    return Path(os.path.realpath(path)) if path.name in ("", "..") else path


@contextmanager
def current_folder_kept(path: Path) -> Iterator[None]:
    """Around the replacement of a folder: a process that is in it is then in the new one, not in one that is gone.

    Args:
        path (`pathlib.Path`): The absolute path of the folder.
    """
    try:
        inside = path.samefile(os.curdir)
    except OSError:  # There is no such folder yet, or the current one was deleted.
        inside = False
    yield
    if inside:
        os.chdir(path)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, marker: str) -> Iterator[Path]:
    """Fill a folder that replaces `path` only after everything was written.

    An existing folder is replaced only if it is empty or holds the file `marker`, which shows that it is of the same
    kind: other folders of the user are never deleted. If the block raises, `path` is unchanged. If `path` is a link,
    the folder that it points to is replaced. If it is the current folder of the process, the new one becomes that.

    A reader sees either the old or the new folder at any time, even if the process is killed: Linux exchanges the two
    in one system call. On other operating or file systems the old folder is first renamed to a fixed name; a process
    killed right then leaves nothing at `path`, and [`restore_folder`], which every reader calls, puts the old folder
    back. Leftovers of killed processes next to `path` are deleted.

    Args:
        path (`str` or `os.PathLike`): The folder to write or to replace.
        marker (`str`): Name of a file that every folder of this kind holds. The block has to write it.

    Yields:
        `pathlib.Path`: An empty folder next to `path`, to be filled.

    Raises:
        FileExistsError: if `path` is a file, or a folder with other things in it.
        FileNotFoundError: if the block did not write `marker`.
    """
    path = with_own_name(link_target(path))
    check_replaceable(path, marker=marker)
    if path.absolute() in _being_filled and not any(path.iterdir()):
        yield path  # This process is filling the enclosing folder, which is moved as a whole.
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_leftovers(path)
    with _held_folder(path) as temporary:
        yield temporary
        if not (temporary / marker).is_file():
            raise FileNotFoundError(f"{marker} was not written, so the folder {path} would not be recognised later.")
        with current_folder_kept(path.absolute()):
            replaced = _put_in_place(temporary, path)
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def temporary_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder next to `path` that the block may move to a place of its choice; it is deleted if it is still there.

    Folders that processes killed in such a block with the same `path` have left are deleted.

    Args:
        path (`str` or `os.PathLike`): What the folder is named after; nothing is written there. Parents are created.

    Yields:
        `pathlib.Path`: An empty folder.
    """
    path = with_own_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_leftovers(path)
    with _held_folder(path) as temporary:
        yield temporary
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(path: str | os.PathLike[str], *, marker: str) -> None:
    """Check that [`atomic_folder`] may write a folder, such as before long work whose result is to go there.

    Args:
        path (`str` or `os.PathLike`): The folder.
        marker (`str`): See [`atomic_folder`].

    Raises:
        FileExistsError: if `path` is a file, or a folder with other things in it.
        ValueError: if it is a pipe or a device.
    """
    path = link_target(path)
    restore_folder(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file, so no folder can be written there. Give another path.")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise FileExistsError(
            f"The folder {path} holds other files (and no {marker}), which would be lost. "
            "Give a folder that is empty, new, or was written by this function before."
        )


def restore_folder(path: str | os.PathLike[str]) -> None:
    """Put back a folder that a killed process had renamed in order to replace it; see [`atomic_folder`].

    Raises:
        FileNotFoundError: if there is one, but this process is not allowed to rename it.
    """
    path = Path(path)
    if path.exists():
        return
    aside = _aside(path)
    if not aside.is_dir():
        return
    try:
        os.rename(aside, path)
    except OSError as error:
        if path.exists():  # The other process has finished replacing it.
            return
        raise FileNotFoundError(
            f"{path} is not there: a process was stopped while it replaced the folder. Its contents are in {aside}, "
            f"which could not be renamed back ({error.strerror}). Rename it to {path.name}."
        ) from error
    logger.warning("%s was put back; a process was stopped while it replaced the folder.", path)


def read_folder(path: str | os.PathLike[str], read: Callable[[Path], T]) -> T:
    """Read a folder of several files while others may replace it.

    Args:
        path (`str` or `os.PathLike`): The folder, written by [`atomic_folder`].
        read (`Callable[[Path], T]`): Opens the files; called again if the folder was replaced meanwhile.

    Returns:
        `T`: What `read` returned, with all files from the same folder.
    """
    path = Path(path)
    while True:
        restore_folder(path)
        before = _identity(path)
        try:
            result = read(path)
        except (OSError, ValueError):
            if _identity(path) == before and (before is not None or _is_nowhere(path)):
                raise
            continue
        if _identity(path) == before:
            return result


def _is_nowhere(path: Path) -> bool:
    """Whether there is no such folder, renamed or not; checked repeatedly, as it may just be replaced."""
    for _ in range(3):
        if path.exists() or _aside(path).exists():
            return False
        time.sleep(0.001)
    return True


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # The inode of a deleted folder may be reused, so the inode alone is not enough.
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _put_in_place(temporary: Path, path: Path) -> Path | None:
    """Move a folder to `path`. Returns the new path of the folder it replaces, which is to be deleted."""
    if not path.exists():
        try:
            os.rename(temporary, path)
            return None
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
    if _exchange(temporary, path):
        return temporary
    aside = _aside(path)
    try:
        while True:
            try:
                os.rename(path, aside)
            except FileNotFoundError:  # Another process is replacing it at this moment.
                pass
            except OSError as error:
                if error.errno not in _OCCUPIED:
                    raise
                shutil.rmtree(aside)  # Left by a process that was killed after it had moved the new folder.
                continue
            try:
                os.rename(temporary, path)
                return aside
            except OSError as error:
                if error.errno not in _OCCUPIED:  # Otherwise a reader has put the old one back.
                    raise
    except BaseException:
        restore_folder(path)
        raise


def _exchange(source: Path, target: Path) -> bool:
    """Exchange two folders in one system call. Returns whether operating and file system support it."""
    if _renameat2 is None:
        return False
    if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(target))


def _find_renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return cast(Callable[..., int], ctypes.CDLL(None, use_errno=True).renameat2)
    except (OSError, AttributeError):
        return None


_renameat2 = _find_renameat2()
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV}
_OCCUPIED = {errno.EEXIST, errno.ENOTEMPTY}


_being_filled: set[Path] = set()


@contextmanager
def _held_file(path: Path, mode: str) -> Iterator[tuple[IO[Any], Path]]:
    """A new open file next to `path`, locked while this process fills it, and deleted if that fails."""
    text = mode == "w"
    while True:
        temporary = _temporary_path(path)
        file = open(temporary, mode, encoding="utf-8" if text else None, newline="\n" if text else None)
        lock = _lock(temporary, wait=True)
        if temporary.exists():
            break
        file.close()  # Another process took it for a leftover before it was locked.
        if lock is not None:
            os.close(lock)
    try:
        yield file, temporary
    except BaseException:
        file.close()
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def _held_folder(path: Path) -> Iterator[Path]:
    """A new folder next to `path`, locked while this process fills it, and deleted if that fails."""
    while True:
        temporary = _temporary_path(path)
        temporary.mkdir()
        lock = _lock(temporary, wait=True)
        if temporary.exists():
            break
        if lock is not None:  # Another process took it for a leftover before it was locked.
            os.close(lock)
    _being_filled.add(temporary.absolute())
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        _being_filled.discard(temporary.absolute())
        if lock is not None:
            os.close(lock)


def _delete_leftovers(path: Path) -> None:
    """Delete files and folders of killed processes that were to replace `path`: nobody holds their locks."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.tmp")
    try:
        left_behind = [path.parent / name for name in os.listdir(path.parent) if pattern.fullmatch(name)]
    except PermissionError:  # One may write there, but not look.
        return
    for left in left_behind:
        if (lock := _lock(left)) is not None:
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
            os.close(lock)


def _lock(path: Path, *, wait: bool = False) -> int | None:
    """A descriptor that holds the lock of a file or folder; `None` if there are no locks or another process has it.

    With `wait`, the other process, which then is about to delete what it took for a leftover, is waited for.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _aside(path: Path) -> Path:
    path = with_own_name(path)
    return path.with_name(f".{path.name}.replaced")
