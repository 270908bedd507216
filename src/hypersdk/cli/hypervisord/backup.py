"""`hypervisord backup`: the state in one file.

::

    FILE (tar, mode 0600)     backup.json      version, time, digests; the first member
                              state.sqlite3    jobs, users, endpoints with sealed passwords, audit trail
                              engine.sqlite3   the engine's own tables
                              state.pgdump     in place of these two: a PostgreSQL database
                              vault.key        only with --with-key
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk import __version__
from hypersdk.cli.hypervisord.app import state_flags
from hypersdk.cli.hypervisord.daemon import Daemon, check_state, pass_daemon
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import UsageError
from hypersdk.transfer.files import target_errors
from hypersdk.units import MiB, format_size

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from hypersdk.jobs.settings import DaemonSettings

FORMAT: Final = 1
STATE: Final = "state.sqlite3"
ENGINE: Final = "engine.sqlite3"
DUMP: Final = "state.pgdump"
KEY: Final = "vault.key"
ABOUT: Final = "backup.json"


@click.command("backup", cls=Command)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@flag(
    "--with-key",
    is_flag=True,
    help="Put the key of the stored passwords into it. Whoever has the file then has the passwords.",
)
@flag("--force", is_flag=True, help="Replace a file that exists.")
@state_flags
@pass_daemon
def command(daemon: Daemon, file: Path, with_key: bool, force: bool) -> None:
    """Copy the state into FILE, also while the daemon runs: jobs, logs, users, tokens, endpoints, audit trail.

    The stored passwords in it are sealed, and their key is not in it unless --with-key is given: keep a copy of
    vault.key in another place. Without the key the passwords are lost; everything else can be restored. Images are not
    part of it.
    """
    settings = daemon.state_settings
    source = database_of(settings)
    if file.exists() and not force:
        raise UsageError(f"{file} exists", next_step="Name another file, or pass --force.")
    key = key_path(settings) if with_key else None
    with target_errors(f"writing {file}"):
        size = _write(file, source, key)
    daemon.output.line(f"Backup of {place_of(source)} written to {file} ({format_size(size)})")
    if key is None:
        daemon.output.note(
            f"The key is not in it. Keep a copy of {key_path(settings)} in another place.", style="yellow"
        )


def database_of(settings: DaemonSettings) -> Path | URL:
    """The state's file, or the URL of its PostgreSQL database."""
    from hypersdk.state.database import parse_url

    url = parse_url(settings.url)
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else url


def place_of(source: Path | URL) -> str:
    """As it is shown: a folder, or a URL without its password."""
    if isinstance(source, Path):
        return str(source.parent)
    return source.set(drivername="postgresql").render_as_string(hide_password=True)


def key_path(settings: DaemonSettings) -> Path:
    """Where the key file is, if it is a file."""
    return settings.key_file or settings.state_dir / KEY


def _write(file: Path, source: Path | URL, key: Path | None) -> int:
    if isinstance(source, Path):
        check_state(source)
    partial = file.with_name(f"{file.name}.partial")
    with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".hypersdk-backup-") as folder:
        members = _copies(Path(folder), source, key)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                _pack(stream, members)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return file.stat().st_size


def _copies(folder: Path, source: Path | URL, key: Path | None) -> dict[str, Path]:
    """Consistent copies of the databases. The state first: a job without its attempt is given one again, not the other
    way round."""
    import sqlite3

    from hypersdk.cli.hypervisord.dumps import dump
    from hypersdk.state.database import copy_sqlite
    from hypersdk.state.faults import fault_of

    found: dict[str, Path] = {}
    if not isinstance(source, Path):
        found[DUMP] = folder / DUMP
        dump(source, found[DUMP])
    else:
        for name in (STATE, ENGINE):
            original = source if name == STATE else source.with_name(ENGINE)
            if original.exists():
                try:
                    copy_sqlite(original, folder / name)
                except sqlite3.Error as error:
                    raise fault_of(error, original) or error from error
                found[name] = folder / name
    if key is not None:
        found[KEY] = key
    return found


def _pack(stream: io.BufferedWriter, members: dict[str, Path]) -> None:
    about = {
        "format": FORMAT,
        "hypersdk_version": __version__,
        "created_at": int(time.time()),
        "sha256": {name: digest_of(path) for name, path in members.items()},
    }
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        text = json.dumps(about, indent=2).encode()
        head = tarfile.TarInfo(ABOUT)
        head.size, head.mode = len(text), 0o600
        archive.addfile(head, io.BytesIO(text))
        for name, path in members.items():
            with path.open("rb") as file:
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = os.fstat(file.fileno()).st_size, 0o600, int(time.time())
                archive.addfile(info, file)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(MiB):
            digest.update(chunk)
    return digest.hexdigest()
