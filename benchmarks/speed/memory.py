"""How much memory this process has and had at its peak, from Linux' /proc."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc/self")


def resident() -> int:
    """Bytes in memory now."""
    return _status("VmRSS")


def forget_peak() -> None:
    """Begin to look for the peak anew."""
    (PROC / "clear_refs").write_text("5")


def peak() -> int:
    """Most bytes in memory since the peak was forgotten."""
    return _status("VmHWM")


def _status(name: str) -> int:
    return int((PROC / "status").read_text().split(f"{name}:")[1].split()[0]) * 1024
