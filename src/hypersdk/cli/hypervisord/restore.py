"""`hypervisord restore`: restores the state from a backup."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hypersdk.cli.hypervisord.app import state_flags
from hypersdk.cli.hypervisord.backup import (
    ABOUT,
    DUMP,
    ENGINE,
    FORMAT,
    KEY,
    STATE,
    database_of,
    digest_of,
    key_path,
    place_of,
)
from hypersdk.cli.hypervisord.daemon import Daemon, pass_daemon
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import IntegrityError, UsageError, register
from hypersdk.transfer.files import owned_like_folder, target_errors
from hypersdk.units import KiB, MiB, TiB

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

BACKUP_UNREADABLE: Final = register(
    "backup_unreadable", "The file is not a backup of a daemon's state, or it is incomplete.", "Use another backup."
)
STATE_EXISTS: Final = register(
    "state_exists",
    "There is already a state, which the backup would replace.",
    "Pass --force: the old state is kept, as files beside the new ones or as a dump in the state directory.",
)
OTHER_DATABASE: Final = register(
    "backup_other_database",
    "A backup of SQLite files can only be restored to files, one of a PostgreSQL database only to PostgreSQL.",
    "Name the database with --database or in the configuration; without one it is SQLite in --state-dir.",
)
MAX_ABOUT_BYTES: Final = 64 * KiB
MAX_MEMBER_BYTES: Final = TiB
REVISIONS_SINCE: Final = 2**32
"""More than a daemon uses between a backup and its restore: a thousand changes a second for seven weeks."""
_COMPANIONS: Final = ("", "-wal", "-shm")


@click.command("restore", cls=Command)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@flag("--force", is_flag=True, help="Replace an existing state; it is kept, as files beside the new ones or as a dump.")
@state_flags
@pass_daemon
def command(daemon: Daemon, file: Path, force: bool) -> None:
    """Restore the state from the backup in FILE. The daemon must not be running.

    Jobs that were running when the backup was made continue from their last checkpoint. If the key of the stored
    passwords is missing, the daemon reports it when it starts: restore vault.key, or run `hypervisord reset-vault` and
    set the passwords again.
    """
    from hypersdk.jobs.supervisor import one_daemon

    settings = daemon.state_settings
    target, key = database_of(settings), key_path(settings)
    folder = target.parent if isinstance(target, Path) else settings.state_dir
    with one_daemon(settings.state_dir), target_errors(f"restoring into {place_of(target)}"):
        partials = _unpack(file, folder)
        try:
            if (DUMP in partials) == isinstance(target, Path):
                raise UsageError(f"{file} is of another kind of database than {place_of(target)}", code=OTHER_DATABASE)
            if isinstance(target, Path):
                _move_on(f"sqlite:///{partials[STATE]}")
                kept = _replace(partials, {STATE: target, ENGINE: target.with_name(ENGINE), KEY: key}, force=force)
            else:
                kept = _replace_database(partials, target, settings.state_dir, key, force=force)
        finally:
            for partial in partials.values():
                partial.unlink(missing_ok=True)
    daemon.output.line(f"Restored {', '.join(partials)} into {place_of(target)}")
    if kept:
        daemon.output.note(f"The previous state is kept as {', '.join(path.name for path in kept)}.", style="dim")
    if not key.exists() and KEY not in partials:
        daemon.output.note(
            f"There is no key in {key}: restore it from your copy before the daemon starts.", style="yellow"
        )


def _unpack(file: Path, folder: Path) -> dict[str, Path]:
    """Extracts the members into ``folder`` and checks their digests. Raises IntegrityError, UsageError."""
    found: dict[str, Path] = {}
    try:
        with _archive(file) as archive:
            for name, digest in _about(archive).items():
                found[name] = folder / f".{name}.restoring"
                _extract(archive, name, found[name])
                if digest_of(found[name]) != digest:
                    raise _bad(f"{name} is damaged")
    except BaseException:
        for path in found.values():
            path.unlink(missing_ok=True)
        raise
    return found


@contextmanager
def _archive(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, mode="r:") as archive:
            yield archive
    except (tarfile.TarError, EOFError) as error:
        raise _bad(f"{file} is not a complete archive") from error


def _about(archive: tarfile.TarFile) -> Mapping[str, str]:
    first = archive.next()
    stream = archive.extractfile(first) if first is not None and first.name == ABOUT and first.isreg() else None
    if stream is None:
        raise _bad("it does not begin with backup.json")
    try:
        facts: Any = json.loads(stream.read(MAX_ABOUT_BYTES))
        digests = facts["sha256"]
        databases = set(digests) - {KEY}
        known = facts["format"] == FORMAT and (databases == {DUMP} or {STATE} <= databases <= {STATE, ENGINE})
    except (ValueError, KeyError, TypeError) as error:
        raise _bad("backup.json cannot be read") from error
    if not known:
        raise _bad("it was made by another version, in a format that this version does not support")
    return {str(name): str(digest) for name, digest in digests.items()}


def _extract(archive: tarfile.TarFile, name: str, path: Path) -> None:
    member = next((found for found in archive if found.name == name), None)
    stream = (
        archive.extractfile(member)
        if member is not None and member.isreg() and member.size <= MAX_MEMBER_BYTES
        else None
    )
    if stream is None:
        raise _bad(f"{name} is missing")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        owned_like_folder(descriptor, path.parent)
        shutil.copyfileobj(stream, target, MiB)
        target.flush()
        os.fsync(target.fileno())


def _replace(partials: Mapping[str, Path], targets: Mapping[str, Path], *, force: bool) -> list[Path]:
    """Renames the old files and moves the new ones in; the state comes last. Returns the renamed files."""
    existing = [path for name in partials for path in _with_companions(targets[name]) if path.exists()]
    if existing and not force:
        raise UsageError(f"{existing[0]} exists", code=STATE_EXISTS)
    kept = [path.rename(_aside(path)) for path in existing]
    for name in sorted(partials, key=lambda member: member == STATE):
        partials[name].rename(targets[name])
    return kept


def _replace_database(partials: Mapping[str, Path], url: URL, folder: Path, key: Path, *, force: bool) -> list[Path]:
    """Dumps the old state and restores the backup in its place, then the key: the old key belongs to the old state."""
    from hypersdk.cli.hypervisord.dumps import check_unused, dump, holds_state, restore
    from hypersdk.state.database import Database

    database = Database.open(url.render_as_string(hide_password=False))
    try:
        check_unused(database)
        exists = holds_state(database)
    finally:
        database.close()
    if exists and not force:
        raise UsageError(f"{place_of(url)} holds a state", code=STATE_EXISTS)
    kept: list[Path] = []
    if exists:
        kept.append(_aside(folder / DUMP))
        dump(url, kept[0])
    restore(url, partials[DUMP])
    _move_on(url.render_as_string(hide_password=False))
    if KEY in partials:
        if key.exists():
            kept.append(key.rename(_aside(key)))
        partials[KEY].rename(key)
    return kept


def _move_on(url: str) -> None:
    """Raises the revision above all that were used since the backup, so that clients that follow changes from one of
    those start over."""
    from hypersdk.state.database import Database

    database = Database.open(url)
    try:
        with database.write() as connection:
            database.revision(connection, REVISIONS_SINCE)
    finally:
        database.close()


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.before-restore-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")


def _with_companions(path: Path) -> list[Path]:
    """An SQLite file with its journal: the old one's must not be applied to the new one."""
    return [path.with_name(path.name + end) for end in _COMPANIONS]


def _bad(what: str) -> IntegrityError:
    return IntegrityError(f"the backup cannot be used: {what}", code=BACKUP_UNREADABLE)
