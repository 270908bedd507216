"""The commands of ``hyperctl`` and their common flags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from hypersdk import __version__
from hypersdk.cli.hyperctl.ctl import FORMATS, Ctl
from hypersdk.cli.programs.groups import SETTINGS, Entry, F, RootGroup, flag
from hypersdk.cli.programs.program import Program, debug_flag, end_on_sigterm

PROGRAM: Final = "hyperctl"
_HERE: Final = "hypersdk.cli.hyperctl"

SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Jobs": {
        "submit": Entry(f"{_HERE}.submit", "Submit a job file, or one machine."),
        "query": Entry(f"{_HERE}.query", "List jobs: all, by id, by status."),
        "get": Entry(f"{_HERE}.get", "Show one job."),
        "watch": Entry(f"{_HERE}.watch", "Follow jobs while they run."),
        "logs": Entry(f"{_HERE}.logs", "Print a job's log."),
        "explain": Entry(f"{_HERE}.explain", "Explain a job's current state and what to do about it."),
        "cancel": Entry(f"{_HERE}.cancel", "Cancel jobs."),
        "pause": Entry(f"{_HERE}.pause", "Pause jobs at their next checkpoint."),
        "resume": Entry(f"{_HERE}.resume", "Resume paused jobs."),
        "retry": Entry(f"{_HERE}.retry", "Put failed or cancelled jobs back into the queue."),
        "delete": Entry(f"{_HERE}.delete", "Delete finished jobs; their files are kept."),
    },
    "Daemon": {
        "status": Entry(f"{_HERE}.status", "Show the daemon's version, uptime and job counts."),
        "endpoints": Entry(f"{_HERE}.endpoints", "vCenter and ESXi hosts for jobs: add, list, test, delete."),
        "tokens": Entry(f"{_HERE}.tokens", "API tokens: create, list, revoke."),
        "users": Entry(f"{_HERE}.users", "Users: add, list, change, delete."),
    },
    "Access": {
        "login": Entry(f"{_HERE}.login", "Log in to a daemon and save it as a context."),
        "logout": Entry(f"{_HERE}.logout", "Revoke the saved token and remove it."),
        "contexts": Entry(f"{_HERE}.contexts", "Saved daemons: list, use, add, remove."),
    },
    "Get started": {
        "completion": Entry(f"{_HERE}.completion", "Print or install shell completion."),
        "man": Entry(f"{_HERE}.man", "Write the manual pages."),
    },
}  # fmt: skip
_CONNECTION: Final = "Daemon"
TITLES: Final = dict.fromkeys(
    ("url", "context", "token_file", "ca_bundle", "thumbprint", "insecure", "timeout_s"), _CONNECTION
)


def _record(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value is not None and value is not False and param.name:
        ctx.ensure_object(Ctl).given[param.name] = value


def _record_format(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Ctl).choose_format(value)


def _record_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Ctl).choose_format("json")


def _shared(name: str, *names: str, **settings: Any) -> Callable[[F], F]:
    return flag(*names, name, expose_value=False, callback=_record, **settings)


_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_WHICH: Final = (
    _shared(
        "url",
        "--url",
        "-u",
        metavar="URL",
        help=(
            "Address of the daemon (else that of --context, $HYPERVISORD_URL, the current context,"
            " http://localhost:8080)."
        ),
    ),
    _shared("context", "--context", metavar="NAME", help="A saved daemon (see `hyperctl contexts list`)."),
)
_TRUST: Final = (
    _shared("token_file", "--token-file", type=_FILE, metavar="FILE",
            help="Read the token from this file (else $HYPERVISORD_TOKEN, the context, a local daemon's own file)."),
    _shared("ca_bundle", "--ca-bundle", type=_FILE, metavar="FILE",
            help="Trust certificates signed by the authorities in this PEM file."),
    _shared("thumbprint", "--thumbprint", metavar="FINGERPRINT",
            help="Trust the certificate with this SHA-256 or SHA-1 fingerprint and no other."),
    _shared("insecure", "--insecure", is_flag=True,
            help="Trust any certificate. Anyone on the path can then read the token."),
)  # fmt: skip
_TIME: Final = (
    _shared(
        "timeout_s",
        "--timeout",
        type=click.FloatRange(0.1, 3600),
        metavar="SECONDS",
        help="Timeout for a response (60).",
    ),
)


def json_flag(command: F) -> F:
    """``--json``; parsed first, so that errors in other flags are printed as JSON too."""
    return flag(
        "--json",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_record_json,
        help="The same as --output json.",
    )(command)


def format_flag(command: F) -> F:
    """``--output``."""
    return flag(
        "--output",
        "-o",
        "format",
        type=click.Choice(FORMATS),
        is_eager=True,
        expose_value=False,
        callback=_record_format,
        help="Output format: table, json (one object per line) or yaml.",
    )(command)


def daemon_flags(command: F) -> F:
    """The flags that select the daemon and the credentials, and ``--debug``."""
    return _with((*_WHICH, *_TRUST, *_TIME), debug_flag(command))


def common_flags(command: F) -> F:
    """The flags of every command that contacts a daemon."""
    return format_flag(json_flag(daemon_flags(command)))


def local_flags(command: F) -> F:
    """The flags of a command that contacts no daemon."""
    return format_flag(json_flag(debug_flag(command)))


def trust_flags(command: F) -> F:
    """The flags of ``daemon_flags`` for the token and the trusted certificate, which are stored in a context."""
    return _with(_TRUST, command)


def _with(flags: Sequence[Callable[[Any], Any]], command: F) -> F:
    for one in reversed(flags):
        command = one(command)
    return command


@click.group(
    cls=RootGroup,
    sections=SECTIONS,
    titles=TITLES,
    context_settings=dict(SETTINGS),
    epilog="Long flags are understood with one dash too: `hyperctl query -all`.",
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM, message="%(prog)s %(version)s")
@common_flags
def root() -> None:
    """Control the HyperSDK daemon: submit export jobs, follow and manage them."""


program: Final = Program(PROGRAM, root, Ctl, folders=("submit", "man"))


def run() -> int:
    """Entry point of the installed script."""
    end_on_sigterm()
    return program.run()
