"""The commands of ``hyperctl`` and their common flags."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from hypersdk import __version__
from hypersdk.cli.hyperctl.completing import complete_context
from hypersdk.cli.hyperctl.ctl import FORMATS, Ctl
from hypersdk.cli.programs.groups import SETTINGS, Entry, RootGroup, flag_group, shared_flag
from hypersdk.cli.programs.program import Program, debug_flag, format_flag, json_flag

PROGRAM: Final = "hyperctl"
_HERE: Final = "hypersdk.cli.hyperctl"

SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Jobs": {
        "submit": Entry(f"{_HERE}.submit", "Submit a job file, or one machine."),
        "query": Entry(f"{_HERE}.query", "List jobs: all, by id, by status, by conditions."),
        "get": Entry(f"{_HERE}.details:get", "Show one job."),
        "watch": Entry(f"{_HERE}.watch", "Follow jobs while they run."),
        "logs": Entry(f"{_HERE}.details:logs", "Print a job's log."),
        "artifacts": Entry(f"{_HERE}.artifacts", "List the files of an export, or download one."),
        "report": Entry(f"{_HERE}.artifacts:report", "Download the report of a migration or an import."),
        "explain": Entry(f"{_HERE}.details:explain", "Explain a job's current state and what to do about it."),
        "cancel": Entry(f"{_HERE}.actions:cancel", "Cancel jobs."),
        "pause": Entry(f"{_HERE}.actions:pause", "Pause jobs at their next checkpoint."),
        "resume": Entry(f"{_HERE}.actions:resume", "Resume paused jobs."),
        "retry": Entry(f"{_HERE}.actions:retry", "Requeue failed or cancelled jobs."),
        "delete": Entry(f"{_HERE}.actions:delete", "Delete finished jobs; their files are kept."),
    },
    "Daemon": {
        "status": Entry(f"{_HERE}.status", "Show the daemon's version, uptime and job counts."),
        "workers": Entry(f"{_HERE}.workers", "List the worker processes and how many jobs each has."),
        "endpoints": Entry(f"{_HERE}.endpoints", "vCenter, ESXi and libvirt hosts for jobs: add, list, test, delete."),
    },
    "Access": {
        "login": Entry(f"{_HERE}.login:login", "Log in to a daemon and save it as a context."),
        "logout": Entry(f"{_HERE}.login:logout", "Revoke the saved token and remove it."),
        "whoami": Entry(f"{_HERE}.whoami", "Show your user, role, token and permissions, and the daemon."),
        "contexts": Entry(f"{_HERE}.contexts", "Saved daemons: list, use, add, remove."),
        "tokens": Entry(f"{_HERE}.tokens", "API tokens: create, list, revoke."),
        "users": Entry(f"{_HERE}.users", "Users: add, list, change, delete."),
        "audit": Entry(f"{_HERE}.audit", "Show the audit trail: who changed what, and who was refused."),
    },
    "Get started": {
        "completion": Entry(f"{_HERE}.man:completion", "Print or install shell completion."),
        "man": Entry(f"{_HERE}.man:man", "Write the manual pages."),
    },
}  # fmt: skip
_CONNECTION: Final = "Daemon"
TITLES: Final = dict.fromkeys(
    ("url", "context", "token_file", "ca_bundle", "thumbprint", "insecure", "timeout_s"), _CONNECTION
)


_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_WHICH: Final = (
    shared_flag(
        "url",
        "--url",
        "-u",
        metavar="URL",
        help=(
            "Address of the daemon (else that of --context, $HYPERVISORD_URL, the current context,"
            " http://localhost:8080)."
        ),
    ),
    shared_flag(
        "context",
        "--context",
        metavar="NAME",
        shell_complete=complete_context,
        help="A saved daemon (see `hyperctl contexts list`).",
    ),
)
_TRUST: Final = (
    shared_flag(
        "token_file",
        "--token-file",
        type=_FILE,
        metavar="FILE",
        help="Read the token from this file (else $HYPERVISORD_TOKEN, the context, a local daemon's own file).",
    ),
    shared_flag(
        "ca_bundle",
        "--ca-bundle",
        type=_FILE,
        metavar="FILE",
        help="Trust certificates signed by the authorities in this PEM file.",
    ),
    shared_flag(
        "thumbprint",
        "--thumbprint",
        metavar="FINGERPRINT",
        help="Trust the certificate with this SHA-256 or SHA-1 fingerprint and no other.",
    ),
    shared_flag(
        "insecure",
        "--insecure",
        is_flag=True,
        help="Trust any certificate. Anyone on the network path can then read the token.",
    ),
)
_TIMEOUT: Final = shared_flag(
    "timeout_s",
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="Timeout for a response (60).",
)


json_option = json_flag("The same as --output json.")
daemon_flags = flag_group(*_WHICH, *_TRUST, _TIMEOUT, debug_flag())
"""The flags that select the daemon and the credentials, and ``--debug``."""
_output_flags = flag_group(
    format_flag(FORMATS, "Output format: table, json (one object per line) or yaml."), json_option
)
common_flags = flag_group(_output_flags, daemon_flags)
"""The flags of every command that contacts a daemon."""
local_flags = flag_group(_output_flags, debug_flag())
"""The flags of a command that contacts no daemon."""
trust_flags = flag_group(*_TRUST)
"""The flags of ``daemon_flags`` for the token and the trusted certificate, which are stored in a context."""


@click.group(
    cls=RootGroup,
    sections=SECTIONS,
    titles=TITLES,
    context_settings=dict(SETTINGS),
    epilog="Long flags can be written with one dash too: `hyperctl query -all`.",
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM, message="%(prog)s %(version)s")
@common_flags
def root() -> None:
    """Control the HyperSDK daemon: submit jobs that export, migrate or import, follow and manage them."""


program: Final = Program(PROGRAM, root, Ctl, folders=("submit", "artifacts", "report", "man"))
