"""`hypervisord backup`: the state in one file.

::

    FILE (tar, mode 0600)     backup.json      version, time, digests; the first member
                              state.sqlite3    jobs, users, endpoints with encrypted passwords, audit trail
                              engine.sqlite3   the engine's own tables
                              state.pgdump     instead of these two, for a PostgreSQL database
                              vault.key        only with --with-key
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
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
from hypersdk.transfer.files import exists, target_errors
from hypersdk.units import format_size

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
    help="Include the key of the stored passwords. Anyone who can read the file can then decrypt them.",
)
@flag("--force", is_flag=True, help="Overwrite an existing file.")
@state_flags
@pass_daemon
def command(daemon: Daemon, file: Path, with_key: bool, force: bool) -> None:
    """Back up the state to FILE: jobs, logs, users, tokens, endpoints, audit trail. The daemon may be running.

    Stored passwords are encrypted, and their key is included only with --with-key: keep a copy of vault.key in another
    place. Without the key the passwords are lost; everything else can be restored. Images are not included.
    """
    settings = daemon.state_settings
    source = database_of(settings)
    if exists(file) and not force:
        raise UsageError(f"{file} exists", next_step="Choose another file, or pass --force.")
    key = key_path(settings) if with_key else None
    with target_errors(f"writing {file}"):
        size = _write(file, source, key)
    daemon.output.line(f"Backup of {place_of(source)} written to {file} ({format_size(size)})")
    if key is None:
        daemon.output.note(
            f"The backup does not include the key. Keep a copy of {key_path(settings)} in another place.",
            style="yellow",
        )


def database_of(settings: DaemonSettings) -> Path | URL:
    """The SQLite file of the state, or the URL of its PostgreSQL database."""
    from hypersdk.state.database import parse_url

    url = parse_url(settings.url)
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else url


def place_of(source: Path | URL) -> str:
    """The database for messages: a directory, or a URL without its password."""
    if isinstance(source, Path):
        return str(source.parent)
    return source.set(drivername="postgresql").render_as_string(hide_password=True)


def key_path(settings: DaemonSettings) -> Path:
    """The path of the key file, if the key is in a file."""
    return settings.key_file or settings.state_dir / KEY


def _write(file: Path, source: Path | URL, key: Path | None) -> int:
    if isinstance(source, Path):
        check_state(source)
    # In a folder beside the file, so that it takes its name in one step.
    with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=".hypersdk-backup-") as folder:
        members = _copies(Path(folder), source, key)
        packed = Path(folder, "backup.tar")
        descriptor = os.open(packed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            _pack(stream, members)
            stream.flush()
            os.fsync(stream.fileno())
        packed.replace(file)
    return file.stat().st_size


def _copies(folder: Path, source: Path | URL, key: Path | None) -> dict[str, Path]:
    """Consistent copies of the databases. The state comes first: a job without its attempt gets a new one, but an
    attempt without its job is of no use."""
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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
