"""``hyperctl man`` and ``hyperctl completion``, and the parts of the manual pages that no command has."""

from __future__ import annotations

from typing import Final

from hypersdk.cli.hyperctl.app import program
from hypersdk.cli.programs.completion import completion_command
from hypersdk.cli.programs.pages import EXIT_STATUS, SCREEN_ENVIRONMENT, Manual, man_command

MANUAL: Final = Manual(
    program.name,
    program.root,
    section=1,
    environment=(
        ("HYPERVISORD_URL", "Address of the daemon, where neither --url nor --context is given."),
        ("HYPERVISORD_TOKEN", "Token, where --token-file is not given."),
        ("STATE_DIRECTORY, XDG_STATE_HOME", "Directory of the token (admin.token) of a daemon on this machine."),
        ("XDG_CONFIG_HOME", "Directory of the contexts file."),
        ("HTTPS_PROXY, NO_PROXY", "Proxy for a daemon on another machine."),
        *SCREEN_ENVIRONMENT,
    ),
    files=(
        ("~/.config/hypersdk/contexts.toml", "Saved daemons and their tokens; readable only by you."),
        (
            "~/.local/state/hypersdk/admin.token, /var/lib/hypersdk/admin.token",
            "Token created by a daemon on this machine at its first start.",
        ),
    ),
    exit_status=EXIT_STATUS,
    see_also=("hyper2kvm", "hypervisord"),
)
man = man_command(MANUAL)
completion = completion_command(program)
