"""Files appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
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
    with pytest.raises(ValueError, match=r"cannot write .*missing/file: the folder .* does not exist, make it first"):
        write_whole(tmp_path / "missing" / "file", b"")
    with pytest.raises(ValueError, match="it is a folder, give a file name"):
        write_whole(tmp_path, b"")
