"""Writing files that appear whole or not at all.

1. The bytes go to a new file beside the target, under a temporary name.
2. They are flushed to the disk.
3. The new file takes the target's name in one step (`os.replace`), so a reader sees the old file or the new one.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file so that a crash at any moment leaves the old file, or none, and never a part.

    An existing file is replaced; a symbolic link is followed.

    Args:
        path: The file to write, in a folder that exists.
        content: All of its bytes.

    Returns:
        The path as given.

    Raises:
        ValueError: The folder does not exist, or the path is a folder.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {path}: the folder {target.parent} does not exist, make it first")
    if target.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder, give a file name")
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Path(path)
