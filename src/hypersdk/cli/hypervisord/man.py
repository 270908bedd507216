"""``hypervisord man`` and ``hypervisord completion``, and the parts of the manual pages that no command has."""

from __future__ import annotations

from typing import Final

from hypersdk.cli.hypervisord.app import program
from hypersdk.cli.programs.completion import completion_command
from hypersdk.cli.programs.pages import SCREEN_ENVIRONMENT, Manual, man_command

MANUAL: Final = Manual(
    program.name,
    program.root,
    section=8,
    environment=(
        ("STATE_DIRECTORY, XDG_STATE_HOME", "Directory of the database, key and token, if --state-dir is not given."),
        ("HYPERVISORD_DATABASE_URL", "URL of the database, if --database is not given. It may contain a password."),
        ("GOVC_URL, GOVC_USERNAME, GOVC_PASSWORD, GOVC_INSECURE, GOVC_DATACENTER", "Endpoint for jobs that name none."),
        ("CREDENTIALS_DIRECTORY", "Directory of the systemd credential hypersdk-key: the key of the stored passwords."),
        ("HYPERSDK_KEYRING", "SERVICE/USER of the key in a keyring."),
        ("NOTIFY_SOCKET, WATCHDOG_USEC", "Readiness and watchdog notification for systemd."),
        ("JOURNAL_STREAM", "Set by systemd: log lines then have a priority."),
        *SCREEN_ENVIRONMENT,
    ),
    files=(
        ("/etc/hypersdk/hypervisord.toml", "Settings of the packaged service."),
        ("/var/lib/hypersdk, ~/.local/state/hypersdk", "State: state.sqlite3, engine.sqlite3, vault.key, admin.token."),
        ("/var/lib/hypersdk/exports", "Export root of the packaged service."),
    ),
    exit_status=(
        ("0", "Stopped by SIGTERM or Ctrl-C."),
        ("1", "A process did not stop in time and was killed, or an internal error."),
        ("2", "Invalid flag or configuration."),
        (
            "12",
            (
                "The database or the key of the stored passwords failed, or another process uses the address or the"
                " state directory."
            ),
        ),
    ),
    see_also=("hyperctl", "hyper2kvm"),
)
man = man_command(MANUAL)
completion = completion_command(program)
