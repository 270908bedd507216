"""Files that only their owner may read: written atomically, checked when read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hypersdk.errors import UsageError, register
from hypersdk.secret import Secret
from hypersdk.transfer.files import open_regular, owned_like_folder
from hypersdk.units import KiB

SECRET_FILE: Final = register(
    "secret_file",
    "The file cannot be used as a secret.",
    "It must be a regular file (no link), owned by the daemon's user or root and readable by nobody else: run `chmod"
    " 600` on it. The packaged service cannot read root's files: use LoadCredential= (docs/daemon.md).",
)
MAX_SECRET_BYTES: Final = 64 * KiB


def read_private(path: Path, environ: Mapping[str, str]) -> Secret:
    """The text of a file, without the final newline. A systemd credential may have an access list that shows as group
    bits; any other file must be its owner's alone. Raises UsageError ``secret_file``."""
    try:
        descriptor = open_regular(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read: {reason}", code=SECRET_FILE) from error
    with open(descriptor, "rb") as file:
        # The descriptor is checked, not the path: the file cannot be replaced in between.
        _check(path, os.fstat(descriptor), environ)
        data = file.read(MAX_SECRET_BYTES + 1)
    if len(data) > MAX_SECRET_BYTES:
        raise UsageError(f"{path} is larger than {MAX_SECRET_BYTES} bytes", code=SECRET_FILE)
    try:
        return Secret(data.decode("utf-8").rstrip("\r\n"))
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text", code=SECRET_FILE) from None


def _check(path: Path, found: os.stat_result, environ: Mapping[str, str]) -> None:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and path.parent == Path(directory):
        return
    owners = {os.geteuid(), 0}
    if os.geteuid() == 0:  # manages the state of a service that runs as another user
        owners.add(path.parent.stat().st_uid)
    if found.st_uid not in owners:
        raise UsageError(f"{path} belongs to another user", code=SECRET_FILE)
    if found.st_mode & 0o077:
        raise UsageError(f"{path} can be read by others", code=SECRET_FILE, next_step=f"Run `chmod 600 {path}`.")


def write_private(path: Path, text: str) -> None:
    """Atomically writes a file that only its owner can read, replacing an existing one. Raises OSError."""
    partial = _partial(path, text)
    try:
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_new_private(path: Path, text: str) -> None:
    """The same, for a file that must not exist yet. Raises FileExistsError."""
    partial = _partial(path, text)
    try:
        os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)  # of a process with our number that was killed
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        owned_like_folder(descriptor, path.parent)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return partial
