"""qcow2 overlays: a conversion changes an overlay, and the image below it stays as it is until the overlay is
committed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import TargetError, register
from hypersdk.guest.processgroup import ended_with_us
from hypersdk.guest.tools import QEMU_IMG, GuestTools
from hypersdk.text import clean
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import shown_path, target_errors

OVERLAY_FORMAT: Final = "qcow2"
OVERLAY_FAILED: Final = register(
    "overlay_failed",
    "qemu-img could not create, read or commit the overlay of an image.",
    "Check that no other program uses the image, and that its folder is writable and has free space.",
)
_LOOK_S: Final = 0.1


def create_overlay(
    tools: GuestTools, overlay: Path, base: Path, base_format: str, cancel: CancelToken | None = None
) -> None:
    """Creates ``overlay`` over ``base``, which is named by its full path. Raises TargetError, also when ``overlay``
    exists."""
    with target_errors(f"creating {overlay.name}"):
        overlay.touch(mode=0o640, exist_ok=False)
    try:
        _run(
            tools, "create", "-q", "-f", OVERLAY_FORMAT, "-F", base_format, "-b", _path(base), _path(overlay),
            doing=f"creating an overlay of {base.name}", path=overlay, cancel=cancel,
        )  # fmt: skip
    except BaseException:
        remove_overlay(overlay)
        raise


def commit_overlay(tools: GuestTools, overlay: Path, base: Path, base_format: str) -> None:
    """Writes the changes in ``overlay`` into ``base``, the image below. Idempotent: after a crash it is done again. The
    overlay stays, with its content. Raises TargetError.

    ``base`` counts, not what the overlay names: their folder may have been moved, and the overlay replaced by another
    one since it was made.
    """
    image = {"driver": OVERLAY_FORMAT, "file": _file(overlay), "backing": _alone(base, base_format)}
    command = [tools.path(QEMU_IMG), "commit", "-q", "-d", f"json:{json.dumps(image, ensure_ascii=False)}"]
    # One that outlived this process would keep the image locked, and the next commit from beginning.
    with ended_with_us(command) as (supervised, lifeline):
        _ended(supervised, f"committing {overlay.name}", overlay, stdin=lifeline)


def _file(path: Path) -> dict[str, Any]:
    return {"driver": "file", "filename": _path(path)}


def _alone(base: Path, base_format: str) -> dict[str, Any]:
    """An image of which a backing file is not opened."""
    image = {"driver": base_format, "file": _file(base)}
    return {**image, "backing": None} if base_format == OVERLAY_FORMAT else image


def remove_overlay(overlay: Path) -> None:
    """Removes it if it exists. Raises TargetError."""
    with target_errors(f"removing {overlay.name}"):
        overlay.unlink(missing_ok=True)


def overlay_bytes(tools: GuestTools, overlay: Path) -> int:
    """What its file takes on the file system. Fails while another program writes to the image. Raises TargetError."""
    output = _run(
        tools, "info", "--output=json", "-f", OVERLAY_FORMAT, _path(overlay),
        doing=f"reading {overlay.name}", path=overlay,
    )  # fmt: skip
    return int(json.loads(output)["actual-size"])


def _path(path: Path) -> str:
    """A path for another process: one through a descriptor of this process would mean another file there."""
    return str(shown_path(path.absolute()))


def _run(tools: GuestTools, *arguments: str, doing: str, path: Path, cancel: CancelToken | None = None) -> bytes:
    """qemu-img leaves no process behind. When cancelled it is ended, and Cancelled is raised."""
    return _ended([tools.path(QEMU_IMG), *arguments], doing, path, cancel)


def _ended(
    command: Sequence[str], doing: str, path: Path, cancel: CancelToken | None = None, stdin: int = subprocess.DEVNULL
) -> bytes:
    """Runs qemu-img in a session of its own: Ctrl-C reaches this process only, which decides what is ended."""
    with subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        while True:
            try:
                output, errors = process.communicate(timeout=_LOOK_S)
                break
            except subprocess.TimeoutExpired:
                if cancel is not None and cancel.cancelled:
                    process.terminate()
    if cancel is not None:
        cancel.check()
    if process.returncode != 0:
        reason = clean(errors.decode(errors="replace").strip().removeprefix("qemu-img: "), 400)
        raise TargetError(f"{doing} failed: {reason}", code=OVERLAY_FAILED, path=_path(path))
    return output
