"""Guest conversions without a guest: a converter that writes into the overlays, and programs that exist."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypersdk.guest.report import ConversionEvent, ConversionReport, EventKind, GuestSystem
from hypersdk.guest.request import ConversionRequest, DiskKey
from hypersdk.guest.tools import QEMU_IMG, GuestTools, find_tools
from hypersdk.landing.convert import convert_guest
from hypersdk.landing.guests import open_guest
from hypersdk.landing.record import LandingFile
from hypersdk.migration.runfile import held_folder
from hypersdk.model.guestplan import Acceleration, DiskBus, GuestDrivers, NicModel
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.space import SpaceLedger
from hypersdk.units import KiB
from tests.support.tools import run_tool

DRIVERS = GuestDrivers(DiskBus.VIRTIO, NicModel.VIRTIO, os_id="debian12", os_name="Debian 12", rng=True)
MARK = b"\x5a" * (64 * KiB)
"""What the converter writes to byte 128 KiB of every disk."""
MARK_AT = 128 * KiB
WARNING = "no way to update the boot loader"


def _nothing() -> None:
    pass


@dataclass(slots=True)
class MarkingConverter:
    """Marks each disk, then calls ``then``. With ``until_cancelled`` it runs until it is cancelled, which it tells."""

    then: Callable[[], None] = _nothing
    until_cancelled: Callable[[bool], None] | None = None
    runs: list[ConversionRequest] = field(default_factory=list)

    def __call__(
        self,
        request: ConversionRequest,
        tools: GuestTools,
        *,
        folder: Path,
        cancel: CancelToken,
        on_event: Callable[[ConversionEvent], None],
    ) -> ConversionReport:
        self.runs.append(request)
        on_event(ConversionEvent(EventKind.STAGE, "Converting", 0.1))
        for disk in request.guest.disks:
            mark(disk.file)
        log = folder / "virt-v2v.log"
        log.write_text("converted\n")
        self.then()
        if self.until_cancelled is not None:
            try:
                cancel.sleep(60)
            finally:
                self.until_cancelled(cancel.cancelled)
        cancel.check()
        return ConversionReport(
            system=GuestSystem("linux", "debian", "Debian 12", "debian12", "x86_64"),
            drivers=DRIVERS,
            warnings=(WARNING,),
            log=log,
            version="2.2.0",
        )


def mark(image: Path) -> None:
    """Writes MARK into a qcow2 image."""
    run_tool("qemu-io", "-f", "qcow2", "-c", f"write -q -P {MARK[0]} {MARK_AT} {len(MARK)}", image)


def tools_found() -> GuestTools:
    """The programs of this machine."""
    return find_tools()


def run_conversion(
    folder: Path,
    converter: MarkingConverter,
    *,
    cancel: CancelToken | None = None,
    tools: GuestTools | None = None,
    state: Path | None = None,
    keys: tuple[DiskKey, ...] = (),
    space: SpaceLedger | None = None,
) -> GuestDrivers:
    """The step on the export in ``folder``."""
    with held_folder(folder) as held:
        return convert_guest(
            LandingFile.opened(held, state=state),
            ConversionRequest(open_guest(folder), keys=keys),
            tools or tools_found(),
            cancel=cancel or CancelToken(),
            convert=converter,
            space=space,
        )


def convert_really(folder: Path, tell: Callable[[str], None] = lambda _text: None) -> GuestDrivers:
    """The step on the export in ``folder`` by virt-v2v, under software emulation. ``tell`` gets what it does."""
    with held_folder(folder) as held:
        return convert_guest(
            LandingFile.opened(held),
            ConversionRequest(open_guest(folder), acceleration=Acceleration.TCG),
            tools_found(),
            cancel=CancelToken(),
            on_event=lambda event: tell(event.text),
        )


def guest_bytes(image: Path, image_format: str, folder: Path) -> bytes:
    """The guest's disk, by qemu-img."""
    raw = folder / "guest-bytes.raw"
    run_tool("qemu-img", "convert", "-f", image_format, "-O", "raw", image, raw)
    data = raw.read_bytes()
    raw.unlink()
    return data


WORK = """
import os, signal, sys
from pathlib import Path
from hypersdk.landing import commit, convert
from tests.support.guestconversions import MarkingConverter, run_conversion

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def kill_at_call(module, name, call, before):
    real, calls = getattr(module, name), []
    def work(*arguments, **named):
        calls.append(1)
        if before and len(calls) == call:
            die()
        result = real(*arguments, **named)
        if len(calls) == call:
            die()
        return result
    setattr(module, name, work)

moment = sys.argv[2]
converter = MarkingConverter(then=die if moment == "converting" else lambda: None)
if moment == "committing":
    kill_at_call(commit, "commit_overlay", 1, True)
elif moment == "committed one":
    kill_at_call(commit, "commit_overlay", 1, False)
elif moment == "before the manifest":
    kill_at_call(commit, "converted_manifest", 1, True)
elif moment == "after the manifest":
    kill_at_call(commit, "remove_overlay", 1, True)
elif moment == "dropped one":
    kill_at_call(commit, "remove_overlay", 1, False)
print("begin", flush=True)
run_conversion(Path(sys.argv[1]), converter, state=Path(sys.argv[3]) if sys.argv[3:] else None)
"""


def slow_commits(tools: GuestTools, folder: Path, begun: Path) -> GuestTools:
    """The same programs, but each commit of qemu-img makes the file ``begun`` and waits a second."""
    program = folder / "qemu-img"
    real = tools.path(QEMU_IMG)
    program.write_text(f"""#!/bin/sh
if [ "$1" = commit ]; then : > '{begun}'; sleep 1; fi
exec '{real}' "$@"
""")
    program.chmod(0o755)
    return replace(tools, paths={**tools.paths, QEMU_IMG: str(program)})


def killed(folder: Path, moment: str = "", *, delay_s: float | None = None, state: Path | None = None) -> bool:
    """Runs the step in a process of its own that is killed at that moment, or so long after its begin; whether it
    was."""
    command = [sys.executable, "-c", WORK, str(folder), moment, *([str(state)] if state else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as work:
        assert work.stdout is not None
        work.stdout.readline()
        if delay_s is not None:
            time.sleep(delay_s)
            work.kill()
    with suppress(ProcessLookupError):  # a qemu-img or qemu-io that it started
        os.killpg(work.pid, signal.SIGKILL)
    return work.returncode == -signal.SIGKILL
