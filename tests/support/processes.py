"""Processes and their resource usage, from proc(5)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def processor_s(pid: int) -> float:
    """User and system time, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def commands_naming(text: str) -> list[str]:
    """Command lines that hold the text."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in command:
                found.append(command)
    return found


def memory_bytes(field: str, pid: int | str = "self") -> int:
    """``VmRSS`` or ``VmHWM`` (the peak)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)
