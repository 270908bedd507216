"""Where the CPU time of an export goes, by the library that uses it, as `perf` samples it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Row, run

SAMPLES_A_SECOND = 999
PARTS = {
    "_deflate": "inflate (libdeflate)",
    "isal_zlib": "Adler-32 of the blocks",
    "blake3": "BLAKE3 of the blocks and of the image",
    "libcrypto": "SHA-256 and TLS (OpenSSL)",
    "[kernel": "kernel: socket, page cache, file system",
    "libpython": "Python",
    "libc.": "copying in memory (libc)",
}
"""Beginning of a library's file name, and what it is there for."""
OTHER = "everything else"
_LINE = re.compile(r"\s*[\d.]+%\s+(\d+)\s+(\S+)")


def profiled(what: str, command: Sequence[str | Path], env: Mapping[str, str], folder: Path) -> Row:
    """Runs ``command`` under perf; a row that lists the seconds of each part."""
    if shutil.which("perf") is None:
        sys.exit("perf is needed: apt-get install linux-perf")
    data = folder / "perf.data"
    run(["perf", "record", "-q", "-F", str(SAMPLES_A_SECOND), "-o", data, "--", *command], env=env)
    report = subprocess.run(
        ["perf", "report", "-i", data, "--sort", "dso", "-n", "--stdio"], capture_output=True, text=True, check=True
    ).stdout
    seconds: defaultdict[str, float] = defaultdict(float)
    for line in report.splitlines():
        if found := _LINE.match(line):
            part = next((name for start, name in PARTS.items() if found[2].startswith(start)), OTHER)
            seconds[part] += int(found[1]) / SAMPLES_A_SECOND
    listed = ", ".join(f"{name} {spent:.2f} s" for name, spent in sorted(seconds.items(), key=lambda item: -item[1]))
    return Row(f"CPU of the export {what}", listed, "", sum(seconds.values()), None, " s")
