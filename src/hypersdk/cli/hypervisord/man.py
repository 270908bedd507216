"""`hypervisord man`, and what its pages say beside the commands."""

from __future__ import annotations

from typing import Final

from hypersdk.cli.hypervisord.app import program
from hypersdk.cli.programs.pages import Manual, man_command

MANUAL: Final = Manual(
    program.name,
    program.root,
    section=8,
    environment=(
        ("STATE_DIRECTORY, XDG_STATE_HOME", "Folder of database, key and token, where --state-dir is not given."),
        ("HYPERVISORD_DATABASE_URL", "Address of the database, where --database is not given. May hold a password."),
        ("GOVC_URL, GOVC_USERNAME, GOVC_PASSWORD, GOVC_INSECURE, GOVC_DATACENTER", "Endpoint for jobs that name none."),
        ("CREDENTIALS_DIRECTORY", "Where systemd puts the credential hypersdk-key: the key of the stored passwords."),
        ("HYPERSDK_KEYRING", "SERVICE/USER of the key in a keyring."),
        ("NOTIFY_SOCKET, WATCHDOG_USEC", "Readiness and watchdog of systemd."),
        ("JOURNAL_STREAM", "Set by systemd: log lines then carry their priority."),
    ),
    files=(
        ("/etc/hypersdk/hypervisord.toml", "Settings of the packaged service."),
        ("/var/lib/hypersdk, ~/.local/state/hypersdk", "State: state.sqlite3, engine.sqlite3, vault.key, admin.token."),
        ("/var/lib/hypersdk/exports", "Export root of the packaged service."),
    ),
    exit_status=(
        ("0", "Ended by SIGTERM or Ctrl-C, in order."),
        ("1", "A process did not end in time and was killed, or a bug."),
        ("2", "A flag or the configuration cannot be used."),
        (
            "12",
            (
                "Not now: database or key of the stored passwords failed; or address or state directory are another"
                " process's."
            ),
        ),
    ),
    see_also=("hyperctl", "hyper2kvm"),
)
command = man_command(MANUAL)
