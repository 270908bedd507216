"""`hypervisord rotate-key`: a new key for the stored passwords.

::

    vault.key.new written ──> everything sealed anew, one transaction ──> vault.key.new becomes vault.key
                                    │ crash here: the next run sees that the database wants the new key, and finishes
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.hypervisord.app import state_flags
from hypersdk.cli.hypervisord.backup import key_path
from hypersdk.cli.hypervisord.daemon import Daemon, pass_daemon
from hypersdk.cli.programs.groups import Command, flag
from hypersdk.errors import UsageError, register
from hypersdk.jobs.supervisor import one_daemon
from hypersdk.transfer.files import target_errors

if TYPE_CHECKING:
    from hypersdk.access.vault import Vault
    from hypersdk.state.database import Database

KEY_ELSEWHERE: Final = register(
    "key_elsewhere",
    "The key comes from a systemd credential or a keyring, which only you can change.",
    "Create a new key (`head -c 32 /dev/urandom | base64`), pass its file with --new-key, then replace the old one"
    " with it.",
)
KEY_BYTES: Final = 32


@click.command("rotate-key", cls=Command)
@flag(
    "--new-key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Seal with the key in this file, which you then put where the daemon finds its key.",
)
@state_flags
@pass_daemon
def command(daemon: Daemon, new_key: Path | None) -> None:
    """Seal the stored passwords with a new key. No daemon may run on this database, on any host.

    The old key is kept beside the new one as vault.key.old: backups made so far need it.
    """
    settings = daemon.state_settings
    with (
        one_daemon(settings.state_dir),
        daemon.database() as database,
        target_errors(f"writing in {settings.state_dir}"),
    ):
        if new_key is not None:
            count = _reseal(daemon, database, _vault(daemon, new_key))
            daemon.output.line(
                f"{count} passwords are sealed with the key in {new_key}; put it where the daemon finds its key"
            )
            return
        path = _own_key(daemon)
        waiting = path.with_name(f"{path.name}.new")
        if not _finish(daemon, database, waiting):
            waiting.unlink(missing_ok=True)
            _make(waiting)
            count = _reseal(daemon, database, _vault(daemon, waiting))
            daemon.output.line(f"{count} passwords are sealed with a new key")
        path.replace(path.with_name(f"{path.name}.old"))
        waiting.replace(path)
    daemon.output.note(
        f"Back {path} up now. {path.name}.old opens the backups made before; delete it when there are none.",
        style="yellow",
    )


def _own_key(daemon: Daemon) -> Path:
    """The key file. Raises UsageError where the key comes from elsewhere."""
    path = key_path(daemon.state_settings)
    if daemon.environ.get("HYPERSDK_KEYRING") or daemon.environ.get("CREDENTIALS_DIRECTORY") or not path.exists():
        raise UsageError("the key is not in a file of the daemon's own", code=KEY_ELSEWHERE)
    return path


def _finish(daemon: Daemon, database: Database, waiting: Path) -> bool:
    """Whether a run before was interrupted after the database had changed to the new key."""
    from hypersdk.jobs.rotation import known_key

    if not waiting.exists():
        return False
    found = known_key(database) == _vault(daemon, waiting).key_id.hex()
    if found:
        daemon.output.line("The change of the key that was begun before is finished")
    return found


def _make(path: Path) -> None:
    from hypersdk.access.files import write_new_private

    write_new_private(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n")


def _vault(daemon: Daemon, path: Path) -> Vault:
    from hypersdk.access.keys import find_key
    from hypersdk.access.vault import Vault

    environ = {
        key: value for key, value in daemon.environ.items() if key not in ("CREDENTIALS_DIRECTORY", "HYPERSDK_KEYRING")
    }
    return Vault(find_key(daemon.state_settings.state_dir, path, environ, may_make=False))


def _reseal(daemon: Daemon, database: Database, new: Vault) -> int:
    from hypersdk.access.vault import Vault
    from hypersdk.jobs.rotation import reseal

    settings = daemon.state_settings
    return reseal(database, Vault.load(settings.state_dir, settings.key_file, daemon.environ, database), new)
