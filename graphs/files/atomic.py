"""Writing files that appear whole or not at all.

1. The bytes go to a new file beside the target, under a temporary name, with the mode of the file that it replaces.
2. They are flushed to the disk.
3. The new file takes the target's name in one step (`os.replace`), so a reader sees the old file or the new one.
4. The folder is flushed too, so that the name is there after a crash of the machine.

A process that is killed leaves its temporary file. Writers hold a lock on theirs, so one that can be locked is an orphan; the
first file that a process writes into a folder removes the orphans there.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from edge_circuits.graphs.checks import refusal

try:
    import fcntl
except ImportError:  # Windows: orphans stay
    fcntl = None

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_tidied: set[Path] = set()


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file so that a crash at any moment leaves the old file, or none, and never a part.

    An existing file is replaced and its mode kept; a symbolic link is followed. What is no plain file, such as `/dev/stdout`
    or a named pipe, is written to as it is.

    Args:
        path: The file to write, in a folder that exists.
        content: All of its bytes.

    Returns:
        The path as given.

    Raises:
        ValueError: The folder does not exist, or the path is a folder.
        OSError: The disk is full or writing is forbidden, in one line that names the path; an older file is as it was.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise refusal("path", "a file in a folder that exists", str(path), f"make {target.parent} first")
    if target.is_dir():
        raise refusal("path", "a file to write", f"the folder {path}", "give a file name")
    try:
        if target.exists() and not target.is_file():
            _write(os.open(target, os.O_WRONLY), content)
        else:
            _replace(target, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    return Path(path)


def _replace(target: Path, content: bytes) -> None:
    _remove_orphans(target.parent)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    temporary, file = _temporary(target)
    try:
        if mode is not None:
            os.fchmod(file, mode)
        _write(file, content, flush=True, rename=(temporary, target))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def _write(file: int, content: bytes, *, flush: bool = False, rename: tuple[Path, Path] | None = None) -> None:
    """Write to an open file and close it; before that flush it and give it its name, while it is locked."""
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        if flush:
            os.fsync(stream.fileno())
        if rename is not None:
            os.replace(*rename)


def _temporary(target: Path) -> tuple[Path, int]:
    """A new file beside the target, open and locked."""
    while True:
        path = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(file)
        with contextlib.suppress(FileNotFoundError):  # taken for an orphan before it was locked: again
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return path, file
        os.close(file)


def _remove_orphans(folder: Path) -> None:
    """Remove the temporary files in a folder that no process holds, once for each folder."""
    if fcntl is None or folder in _tidied:
        return
    _tidied.add(folder)
    for entry in os.scandir(folder):
        if not _TEMPORARY.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            file = os.open(entry.path, os.O_WRONLY)
            try:
                if _lock(file):
                    os.unlink(entry.path)
            finally:
                os.close(file)


def _lock(file: int) -> bool:
    """Whether a file could be locked until it is closed; where files cannot be, they are never removed as orphans."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems have no folders to flush
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
