"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_circuits.graphs.files.atomic import write_whole


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_whole(path, b"old") == path
    write_whole(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    write_whole(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    write_whole(tmp_path / "link", b"content")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"content"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_while_writing_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_whole(tmp_path / "file", b"old")

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file_alone(tmp_path: Path, step: str) -> None:
    """The process ends on the spot, as when it is killed, at either of the two steps."""
    write_whole(tmp_path / "file", b"old")
    code = (
        "import os, sys\n"
        "from edge_circuits.graphs.files.atomic import write_whole\n"
        f"os.{step} = lambda *_: os._exit(9)\n"
        "write_whole(sys.argv[1], b'new')"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], cwd=Path(__file__).parents[3])
    assert ended.returncode == 9
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"path: expected a file in a folder that exists, got .*missing/file; make .*missing"
    ):
        write_whole(tmp_path / "missing" / "file", b"")
    with pytest.raises(ValueError, match="path: expected a file to write, got the folder .*; give a file name"):
        write_whole(tmp_path, b"")


def test_the_mode_of_an_older_file_is_kept(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "file", b"old")
    path.chmod(0o640)
    write_whole(path, b"new")
    assert path.stat().st_mode & 0o777 == 0o640 and path.read_bytes() == b"new"


def test_a_device_is_written_to_and_stays() -> None:
    before = os.stat("/dev/null")
    write_whole("/dev/null", b"content")
    assert os.stat("/dev/null").st_ino == before.st_ino and stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_named_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    read: list[bytes] = []
    reader.start()
    write_whole(path, b"content")
    reader.join(10)
    assert read == [b"content"] and path.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_orphans_of_killed_processes_are_removed_and_the_files_of_others_stay(tmp_path: Path) -> None:
    """A process is killed before it renames; another holds its temporary file; a third file only looks alike."""
    code = (
        "import os, sys\n"
        "from edge_circuits.graphs.files import atomic\n"
        "os.replace = lambda *_: os._exit(9)\n"
        "atomic.write_whole(sys.argv[1], b'new')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], cwd=Path(__file__).parents[3])
    (orphan,) = os.listdir(tmp_path)
    held = tmp_path / ".other.0123456789abcdef.tmp"
    (tmp_path / ".mine.tmp").write_bytes(b"")
    with open(held, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_whole(tmp_path / "file", b"content")
        assert sorted(os.listdir(tmp_path)) == [".mine.tmp", held.name, "file"] and orphan not in os.listdir(tmp_path)


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = write_whole(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_whole(path, b"new")
    assert str(caught.value) == f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: '{path}'"
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_file_and_folder_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(stat.S_ISDIR(os.fstat(file).st_mode)))
    write_whole(tmp_path / "file", b"content")
    assert flushed == [False, True]
