"""`scripts/bench`: measures against govc and qemu-img in one run and prints a table of ratios, each row as soon as it
is measured."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from benchmarks.cases import CASES, ON_REQUEST, Bench
from benchmarks.measure import HEAD, say
from hypersdk.units import format_size, parse_size

PEER = (
    "The server is vcsim of govmomi with version 6.7 of the API, extended by calls that vSphere has and vcsim lacks:"
    " ExportVm, CreateDescriptor, and HttpNfcLeaseSetManifestChecksumType (from 6.7 on: SHA-256 in the manifest)."
)


def main() -> None:
    """Parses the command line, runs the cases, prints the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; without, all but {', '.join(ON_REQUEST)}"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of each side, of which the median counts (default: 3)"
    )
    parser.add_argument(
        "--disk", type=parse_size, default=parse_size("2GiB"), help="capacity of the disk (default: 2GiB)"
    )
    parser.add_argument(
        "--extra", type=parse_size, default=0, help="migrate: random data besides the guest's own, such as 4GiB"
    )
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    chosen = parser.parse_args()
    unknown = set(chosen.cases) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="hypersdk-bench-", dir=chosen.folder) as name:
        bench = Bench(Path(name), chosen.disk, chosen.rounds, chosen.extra)
        print(
            f"{_machine()}\ndisk of {format_size(chosen.disk)}, medians of {chosen.rounds} interleaved runs, both sides"
            f" synced to disk\n{PEER}\n\n{HEAD}",
            flush=True,
        )
        for case in chosen.cases or [name for name in CASES if name not in ON_REQUEST]:
            say(case)
            for row in CASES[case](bench):
                print(row.line(), flush=True)


def _machine() -> str:
    """What it ran on."""
    models = {
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    }
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return f"{os.cpu_count()} x {', '.join(sorted(models))}; Python {platform.python_version()}; {qemu}"


if __name__ == "__main__":
    main()
