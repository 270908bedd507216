"""The commands of ``hypervisord``; without one it serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from hypersdk import __version__
from hypersdk.cli.hypervisord.daemon import Daemon, check_database, roles_of
from hypersdk.cli.programs.groups import SETTINGS, Entry, F, RootGroup, flag
from hypersdk.cli.programs.program import Program, debug_flag

PROGRAM: Final = "hypervisord"
_HERE: Final = "hypersdk.cli.hypervisord"

SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "State": {
        "migrate-db": Entry(f"{_HERE}.migrate", "Bring the database up to date; starting does it too."),
        "backup": Entry(f"{_HERE}.backup", "Copy the state into a file, also while the daemon runs."),
        "restore": Entry(f"{_HERE}.restore", "Put a backup back."),
        "rotate-key": Entry(f"{_HERE}.rotate", "Seal the stored passwords with a new key."),
        "reset-vault": Entry(f"{_HERE}.reset", "Forget the stored passwords, when their key is lost."),
    },
    "Access": {
        "user": Entry(f"{_HERE}.user", "Users: add, list, disable, enable, passwd."),
        "token": Entry(f"{_HERE}.token", "Make an API token."),
    },
    "Get started": {
        "completion": Entry(f"{_HERE}.completion", "Print or install shell completion."),
        "man": Entry(f"{_HERE}.man", "Write the manual pages."),
    },
}
TITLES: Final = dict.fromkeys(("config", "state_dir", "database_url", "key_file"), "Whose state")


def _record(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value is None or value is False or value == () or not param.name:
        return
    given = ctx.ensure_object(Daemon).given
    if param.name == "role":
        given["roles"] = roles_of(str(value))
    elif param.name == "no_auth":
        given["auth"] = False
    elif param.name == "database_url":
        given["database_url"] = check_database(str(value))
    else:
        given[param.name] = value


def _record_config(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Daemon).config = value


def _setting(name: str, *names: str, **settings: Any) -> Callable[[F], F]:
    return flag(*names, name, expose_value=False, callback=_record, **settings)


_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_DIR: Final = click.Path(path_type=Path, file_okay=False)
_STATE: Final[tuple[Callable[[Any], Any], ...]] = (
    flag("--config", type=_FILE, metavar="FILE", expose_value=False, callback=_record_config,
         help="Settings, as TOML; `--show-config` prints all of them."),
    _setting("state_dir", "--state-dir", type=_DIR, metavar="DIR",
             help="Folder of database, key and token (else $STATE_DIRECTORY, ~/.local/state/hypersdk)."),
    _setting("database_url", "--database", metavar="URL",
             help="postgresql://user@host/name for several hosts (else $HYPERVISORD_DATABASE_URL, SQLite in the state"
                  " folder)."),
    _setting("key_file", "--key-file", type=_FILE, metavar="FILE",
             help="Key of the stored passwords (vault.key in the state folder)."),
    debug_flag,
)  # fmt: skip
_SERVING: Final[tuple[Callable[[Any], Any], ...]] = (
    _setting("addr", "--addr", metavar="HOST:PORT",
             help="Where to listen (localhost:8080). Any other than loopback demands TLS."),
    _setting("role", "--role", type=click.Choice(("api", "worker", "all")), help="What this daemon does (all)."),
    _setting("workers", "--workers", type=int, metavar="N", help="Worker processes (1)."),
    _setting("jobs_per_worker", "--jobs", type=int, metavar="N", help="Jobs that each worker runs at once (4)."),
    _setting("max_jobs", "--max-jobs", type=int, metavar="N", help="Jobs at once on all workers together (no limit)."),
    _setting("jobs_per_site", "--jobs-per-site", type=int, metavar="N",
             help="Jobs at once per vCenter or ESXi host (8)."),
    _setting("export_roots", "--export-root", multiple=True, type=_DIR, metavar="DIR",
             help="Jobs may write below this folder only; may be given more than once."),
    _setting("allowed_endpoints", "--allow-endpoint", multiple=True, metavar="HOST[:PORT]",
             help="Submitted jobs may name this loopback or link-local server; may be given more than once."),
    _setting("allowed_hosts", "--allow-host", multiple=True, metavar="HOST",
             help="A reverse proxy on this machine serves the daemon under this name; may be given more than once."),
    _setting("trusted_proxies", "--trust-proxy", multiple=True, metavar="ADDRESS",
             help="Take this proxy's word (X-Forwarded-For) for who asks: an address or a network; may be given more"
                  " than once."),
    _setting("tls_cert", "--tls-cert", type=_FILE, metavar="FILE", help="Certificate (PEM), reloaded on SIGHUP."),
    _setting("tls_key", "--tls-key", type=_FILE, metavar="FILE", help="Its key (PEM)."),
    _setting("tls_self_signed", "--tls-self-signed", is_flag=True,
             help="Make a certificate; its fingerprint is logged, to be compared and pinned."),
    _setting("no_auth", "--no-auth", is_flag=True,
             help="Disable authentication: every local user is administrator. Loopback only."),
    _setting("public_metrics", "--public-metrics", is_flag=True, help="/metrics and /docs need no token."),
    _setting("log_format", "--log-format", type=click.Choice(("auto", "text", "json")),
             help="How to log (auto: text, with priorities under systemd)."),
    _setting("drain_s", "--drain", type=float, metavar="SECONDS",
             help="How long running jobs get to reach a checkpoint at the end (60)."),
)  # fmt: skip


def state_flags(command: F) -> F:
    """The flags that say whose state it is; all commands take them."""
    for one in reversed(_STATE):
        command = one(command)
    return command


@click.group(
    cls=RootGroup,
    sections=SECTIONS,
    titles=TITLES,
    invoke_without_command=True,
    context_settings=dict(SETTINGS),
    epilog="Long flags are understood with one dash too: `hypervisord -addr localhost:8080`.",
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM, message="%(prog)s %(version)s")
@flag("--show-config", is_flag=True, help="Print all settings as they are now, as TOML, and end.")
@flag("--process", hidden=True, help="A process of the daemon: `api` or `worker:N`.")
@state_flags
@click.pass_context
def root(ctx: click.Context, show_config: bool, process: str | None) -> int | None:
    """Serve export jobs: a REST API, a durable queue, and workers that copy virtual machines out of vSphere.

    Without a command it serves until SIGTERM or Ctrl-C, then lets running jobs reach a checkpoint; they go on at the
    next start. SIGHUP reads the certificate again; from a terminal that is closed it ends the daemon like SIGTERM.
    """
    daemon = ctx.ensure_object(Daemon)
    if ctx.invoked_subcommand is not None:
        return None
    if show_config:
        daemon.stdout.write(daemon.settings.as_toml())
        return None
    from hypersdk.cli.hypervisord import serving

    return serving.serve(daemon) if process is None else serving.serve_part(daemon, process)


for _one in _SERVING:
    root = _one(root)
program: Final = Program(PROGRAM, root, Daemon, interrupted="Nothing is lost: jobs that run go on at the next start.")


def run() -> int:
    """What the installed script calls."""
    return program.run()
