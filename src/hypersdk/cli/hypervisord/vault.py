"""``hypervisord rotate-key`` and ``hypervisord reset-vault``: the key of the stored passwords.

Rotation::

    vault.key.new written ──> all passwords sealed again, one transaction ──> vault.key.new renamed to vault.key
                                    │ crash here: the next run finds the new key in the database, and finishes
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.hypervisord.app import state_flags
from hypersdk.cli.hypervisord.backup import key_path
from hypersdk.cli.hypervisord.daemon import Daemon, pass_daemon
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import UsageError, register
from hypersdk.text import count
from hypersdk.transfer.files import target_errors

if TYPE_CHECKING:
    from hypersdk.access.vault import Vault
    from hypersdk.state.database import Database

KEY_ELSEWHERE: Final = register(
    "key_elsewhere",
    "The key comes from a systemd credential or a keyring, which this command cannot change.",
    "Create a new key (`head -c 32 /dev/urandom | base64`), pass its file with --new-key, then replace the old one"
    " with it.",
)


@click.command("rotate-key", cls=Command)
@flag(
    "--new-key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Use the key in this file. You then store it where the daemon reads its key.",
)
@state_flags
@pass_daemon
def rotate_key(daemon: Daemon, new_key: Path | None) -> None:
    """Encrypt the stored passwords with a new key. No daemon may be using the database, on any host.

    The old key is kept beside the new one as vault.key.old: existing backups need it.
    """
    from hypersdk.access import keys
    from hypersdk.access.files import write_new_private
    from hypersdk.jobs.supervisor import one_daemon

    settings = daemon.state_settings
    with (
        one_daemon(settings.state_dir),
        daemon.database() as database,
        target_errors(f"writing in {settings.state_dir}"),
    ):
        if new_key is not None:
            done = count(_reseal(daemon, database, _vault(daemon, new_key)), "password")
            daemon.output.line(f"{done} encrypted with the key in {new_key}; store it where the daemon reads its key")
            return
        path = _own_key(daemon)
        waiting = path.with_name(f"{path.name}.new")
        if not _finish(daemon, database, waiting):
            waiting.unlink(missing_ok=True)
            write_new_private(waiting, keys.new_key() + "\n")
            done = count(_reseal(daemon, database, _vault(daemon, waiting)), "password")
            daemon.output.line(f"{done} encrypted with a new key")
        path.replace(path.with_name(f"{path.name}.old"))
        waiting.replace(path)
    daemon.output.note(
        f"Back up {path} now. {path.name}.old decrypts older backups; delete it when there are none.",
        style="yellow",
    )


def _own_key(daemon: Daemon) -> Path:
    """The key file. Raises UsageError if the key is not in a file."""
    path = key_path(daemon.state_settings)
    if daemon.environ.get("HYPERSDK_KEYRING") or daemon.environ.get("CREDENTIALS_DIRECTORY") or not path.exists():
        raise UsageError("the key is not in a file of the daemon", code=KEY_ELSEWHERE)
    return path


def _finish(daemon: Daemon, database: Database, waiting: Path) -> bool:
    """Whether an earlier run was interrupted after the database had changed to the new key."""
    from hypersdk.access.vault import known_key

    if not waiting.exists():
        return False
    found = known_key(database) == _vault(daemon, waiting).key_id.hex()
    if found:
        daemon.output.line("An interrupted change of the key was completed")
    return found


def _vault(daemon: Daemon, path: Path) -> Vault:
    from hypersdk.access import keys
    from hypersdk.access.vault import Vault

    environ = {
        key: value for key, value in daemon.environ.items() if key not in ("CREDENTIALS_DIRECTORY", "HYPERSDK_KEYRING")
    }
    return Vault(keys.find_key(daemon.state_settings.state_dir, path, environ, may_make=False))


def _reseal(daemon: Daemon, database: Database, new: Vault) -> int:
    from hypersdk.access.vault import Vault
    from hypersdk.jobs.rotation import reseal

    settings = daemon.state_settings
    return reseal(database, Vault.load(settings.state_dir, settings.key_file, daemon.environ, database), new)


@click.command("reset-vault", cls=Command)
@flag("--yes", is_flag=True, help="Do not ask for confirmation.")
@state_flags
@pass_daemon
def reset_vault(daemon: Daemon, yes: bool) -> None:
    """Delete all stored passwords because their key is lost. The daemon must not be running.

    Users, tokens, jobs and endpoints are kept. Set the passwords of endpoints and waiting jobs again afterwards.
    """
    from hypersdk.access.vault import forget_sealed
    from hypersdk.jobs.supervisor import one_daemon

    if not yes:
        if not daemon.output.can_ask:
            raise UsageError("this deletes all stored passwords", next_step="Pass --yes to confirm it.")
        if not daemon.confirmed("This deletes all stored passwords."):
            return
    with one_daemon(daemon.state_settings.state_dir), daemon.database() as database:
        deleted = forget_sealed(database)
    daemon.output.line(f"{count(deleted, 'stored password')} deleted; the next start creates a new key")
