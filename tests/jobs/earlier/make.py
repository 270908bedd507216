"""Makes the state of an earlier release: ``python make.py FOLDER``, in the folder of that release's source, with its
``src`` in PYTHONPATH.

``0.1.0b`` was made so with the source of the commit 000c50d, whose database has the revision 0004: one job has failed,
one is paused, two are in the hands of a worker that is killed with -9 in the middle of their second disks, and one
waits. ``0.1.0a`` was made with that of 3f572f5 (revision 0001), without the failed and the paused one. ``state.sql``
and ``engine.sql`` are the two databases, ``files.tar.xz`` has the export root, the key (it seals nothing) and the
identity of the worker.

What depends on where and when it is used again stands between @ signs: @FOLDER@, @SERVER@, @CHANGED:machine@ and
@BOOTED:machine@ (facts of the simulated machine), @boot-of-host-1@ in the ledgers, and times relative to the kill:
@T-1.5@ (seconds since 1970), @M-1500@ (milliseconds), @I-1@ (ISO 8601).
"""

from __future__ import annotations

import json
import lzma
import re
import signal
import sqlite3
import sys
import tarfile
import tempfile
import time
import zlib
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final

sys.path.insert(0, ".")

from hypersdk.simulator import Simulator, SimulatorConfig
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.simulator.faults import Fault, FaultKind
from hypersdk.transfer.ledger import boot_id
from hypersdk.units import KiB
from tests.support.site import Site

DISKS: Final = (DiskSpec(64 * KiB), DiskSpec(256 * KiB))
MACHINES: Final = (
    MachineSpec("web-0", DISKS, iso="[iso-library] debian-12.iso"),
    MachineSpec("web-1", DISKS, power="poweredOn"),
    MachineSpec("web-2", DISKS),
    MachineSpec("web-3", DISKS),
    MachineSpec("web-4", DISKS),
)
CORRUPT: Final = Fault(FaultKind.CORRUPT, disk="web-4:1", after_bytes=64 * KiB, times=None)
RATE: Final = 20 * KiB
HEADER: Final = 512
"""Bytes of a ledger without entries. The last four are the CRC-32 of the others."""
BOOT: Final = b"@boot-of-host-1@"
"""In the place of the 16 bytes that tell this boot of this machine from any other."""


def main() -> None:
    """Makes it and leaves it in the folder that the command line names."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        Simulator(SimulatorConfig(machines=MACHINES, rate_bytes_s=RATE)) as server,
    ):
        folder = Path(name)
        killed_at = _run(folder, server)
        for database in ("state", "engine"):
            with closing(sqlite3.connect(folder / "db" / f"{database}.sqlite3")) as connection:
                text = "\n".join(connection.iterdump()) + "\n"
            (out / f"{database}.sql").write_text(_portable(text, folder, server, killed_at))
        with (
            lzma.open(out / "files.tar.xz", "wb", preset=9) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for path in sorted(
                [folder / "exports", *folder.glob("exports/**/*"), folder / "key", folder / "one/workers/0.id"]
            ):
                archive.add(path, path.relative_to(folder), recursive=False, filter=_nobody)


def _run(folder: Path, server: Simulator) -> float:
    """The release at work, until it is killed; when."""
    options = {"jobs_per_worker": 2}
    site = Site(folder, server, f"sqlite:///{folder / 'db' / 'state.sqlite3'}", options)
    one_by_one = {"parallel_downloads": 1}
    worker = site.worker()
    server.set_faults(CORRUPT)
    failed, paused = site.submit(
        {"vm_path": "web-4", "options": one_by_one}, {"vm_path": "web-3", "options": one_by_one}
    )
    site.until(lambda: _ledger(site, "web-3").exists() and _ledger(site, "web-3").stat().st_size > HEADER)
    site.store.pause(paused.id)
    site.until(lambda: [site.store.get(job.id).state.value for job in (failed, paused)] == ["failed", "paused"])
    jobs = site.submit(
        {"vm_path": "web-0", "options": {**one_by_one, "remove_cdrom": True}},
        {"vm_path": "web-1", "options": one_by_one},
    )
    ledgers = [_ledger(site, name) for name in ("web-0", "web-1")]
    site.until(lambda: all(site.store.get(job.id).state.value == "running" for job in jobs))
    jobs += site.submit({"vm_path": "web-2"})
    site.until(lambda: all(path.exists() and path.stat().st_size > HEADER for path in ledgers))
    worker.end(signal.SIGKILL)
    for path in site.root.glob("*/*.blocks"):
        _forget_boot(path)
    assert [site.store.get(job.id).state.value for job in jobs] == ["running", "running", "queued"]
    site.database.close()
    return time.time()


def _ledger(site: Site, machine: str) -> Path:
    return site.root / machine / f"{machine}-disk2.qcow2.partial.blocks"


def _forget_boot(ledger: Path) -> None:
    data = ledger.read_bytes()
    head = data[: HEADER - 4].replace(boot_id(), BOOT)
    assert BOOT in head
    ledger.write_bytes(head + zlib.crc32(head).to_bytes(4, "little") + data[HEADER:])


def _portable(text: str, folder: Path, server: Simulator, killed_at: float) -> str:
    text = re.sub(r"\{\n \"run_id\": .*?\n\}(?=')", lambda found: _without_facts(found[0]), text, flags=re.DOTALL)
    text = text.replace(str(folder), "@FOLDER@").replace(server.authority_part, "@SERVER@")
    text = re.sub(r"(?<=\"route\": \")127\.0\.0\.2:\d+", "127.0.0.2:443", text)
    text = re.sub(r"(INSERT INTO \"workers\" VALUES\('\w+',)'[^']*',\d+", r"\1'earlier.example.com',1", text)
    text = re.sub(r"\b1\.\d+e\+09|\b1[6-9]\d{8}\.\d+", lambda found: f"@T{float(found[0]) - killed_at:+.3f}@", text)
    text = re.sub(r"\b1[6-9]\d{11}\b", lambda found: f"@M{int(found[0]) - killed_at * 1000:+.0f}@", text)
    iso = r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    return re.sub(iso, lambda found: f"@I{datetime.fromisoformat(found[0]).timestamp() - killed_at:+.0f}@", text)


def _without_facts(record: str) -> str:
    """A run's record without what another simulator has otherwise."""
    facts = json.loads(record)
    point, machine = facts["point"], facts["machine"]
    record = record.replace(point["change_version"], f"@CHANGED:{machine}@")
    return record.replace(point["boot_time"], f"@BOOTED:{machine}@") if point["boot_time"] else record


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
