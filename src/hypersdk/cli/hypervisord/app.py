"""The commands of ``hypervisord``. Without a command it serves."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Final

import click

from hypersdk import __version__
from hypersdk.cli.hypervisord.daemon import ROLES, Daemon, check_database
from hypersdk.cli.programs.groups import SETTINGS, Entry, RootGroup, flag, flag_group, shared_flag
from hypersdk.cli.programs.program import Program, debug_flag

PROGRAM: Final = "hypervisord"
_HERE: Final = "hypersdk.cli.hypervisord"

SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "State": {
        "migrate-db": Entry(f"{_HERE}.migrate", "Upgrade the database; starting the daemon does it too."),
        "backup": Entry(f"{_HERE}.backup", "Back up the state to a file; the daemon may be running."),
        "restore": Entry(f"{_HERE}.restore", "Restore a backup."),
        "rotate-key": Entry(f"{_HERE}.vault:rotate_key", "Encrypt the stored passwords with a new key."),
        "reset-vault": Entry(f"{_HERE}.vault:reset_vault", "Delete the stored passwords if their key is lost."),
    },
    "Access": {
        "user": Entry(f"{_HERE}.accounts:user_group", "Users: add, list, disable, enable, passwd."),
        "token": Entry(f"{_HERE}.accounts:token_group", "Create an API token."),
    },
    "Get started": {
        "completion": Entry(f"{_HERE}.man:completion", "Print or install shell completion."),
        "man": Entry(f"{_HERE}.man:man", "Write the manual pages."),
    },
}
TITLES: Final = dict.fromkeys(("config", "state_dir", "database_url", "key_file"), "Daemon state")


_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_DIR: Final = click.Path(path_type=Path, file_okay=False)
state_flags = flag_group(
    shared_flag(
        "config",
        "--config",
        type=_FILE,
        metavar="FILE",
        help="Configuration file (TOML); `--show-config` prints all settings.",
    ),
    shared_flag(
        "state_dir",
        "--state-dir",
        type=_DIR,
        metavar="DIR",
        help="Directory of the database, key and token (else $STATE_DIRECTORY, ~/.local/state/hypersdk).",
    ),
    shared_flag(
        "database_url",
        "--database",
        metavar="URL",
        convert=check_database,
        help="postgresql://user@host/name, for several hosts (else $HYPERVISORD_DATABASE_URL, else SQLite in the state"
        " directory).",
    ),
    shared_flag(
        "key_file",
        "--key-file",
        type=_FILE,
        metavar="FILE",
        help="File with the key of the stored passwords (vault.key in the state directory).",
    ),
    debug_flag(),
)
"""The flags that select the daemon's state; all commands have them."""
_serving_flags = flag_group(
    shared_flag(
        "addr",
        "--addr",
        metavar="HOST:PORT",
        help="Address to listen on (localhost:8080). TLS is required unless it is a loopback address.",
    ),
    shared_flag(
        "roles",
        "--role",
        type=click.Choice(tuple(ROLES)),
        convert=ROLES.__getitem__,
        help="Role of this daemon (all).",
    ),
    shared_flag("workers", "--workers", type=int, metavar="N", help="Worker processes (1)."),
    shared_flag("jobs_per_worker", "--jobs", type=int, metavar="N", help="Jobs at once in each worker (4)."),
    shared_flag(
        "max_jobs", "--max-jobs", type=int, metavar="N", help="Jobs at once on all workers together (no limit)."
    ),
    shared_flag(
        "jobs_per_site", "--jobs-per-site", type=int, metavar="N", help="Jobs at once per vCenter or ESXi host (8)."
    ),
    shared_flag(
        "export_roots",
        "--export-root",
        multiple=True,
        type=_DIR,
        metavar="DIR",
        help="Directory below which jobs may write; repeatable.",
    ),
    shared_flag(
        "allowed_endpoints",
        "--allow-endpoint",
        multiple=True,
        metavar="HOST[:PORT]",
        help="Allow jobs to use this loopback or link-local server; repeatable.",
    ),
    shared_flag(
        "allowed_hosts",
        "--allow-host",
        multiple=True,
        metavar="HOST",
        help="Host name under which a reverse proxy on this machine serves the daemon; repeatable.",
    ),
    shared_flag(
        "trusted_proxies",
        "--trust-proxy",
        multiple=True,
        metavar="ADDRESS",
        help="Accept the client address (X-Forwarded-For) from this proxy: an address or a network; repeatable.",
    ),
    shared_flag("tls_cert", "--tls-cert", type=_FILE, metavar="FILE", help="Certificate (PEM), reloaded on SIGHUP."),
    shared_flag("tls_key", "--tls-key", type=_FILE, metavar="FILE", help="Private key of the certificate (PEM)."),
    shared_flag(
        "tls_self_signed",
        "--tls-self-signed",
        is_flag=True,
        help="Create a self-signed certificate; its fingerprint is logged, for pinning.",
    ),
    shared_flag(
        "auth",
        "--no-auth",
        is_flag=True,
        convert=operator.not_,
        help="Disable authentication: every local user is administrator. Loopback only.",
    ),
    shared_flag("public_metrics", "--public-metrics", is_flag=True, help="Serve /metrics without a token."),
    shared_flag(
        "log_format",
        "--log-format",
        type=click.Choice(("auto", "text", "json")),
        help="Log format (auto: text, with priorities under systemd).",
    ),
    shared_flag(
        "drain_s",
        "--drain",
        type=float,
        metavar="SECONDS",
        help="Time for running jobs to reach a checkpoint at shutdown (60).",
    ),
)


@click.group(
    cls=RootGroup,
    sections=SECTIONS,
    titles=TITLES,
    invoke_without_command=True,
    context_settings=dict(SETTINGS),
    epilog="Long flags can be written with one dash too: `hypervisord -addr localhost:8080`.",
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM, message="%(prog)s %(version)s")
@flag("--show-config", is_flag=True, help="Print the effective settings as TOML and exit.")
@flag("--process", hidden=True, help="A process of the daemon: `api` or `worker:N`.")
@state_flags
@_serving_flags
@click.pass_context
def root(ctx: click.Context, show_config: bool, process: str | None) -> int | None:
    """Serve export jobs: a REST API, a durable queue, and workers that copy virtual machines out of vSphere.

    Without a command it serves until SIGTERM or Ctrl-C, then lets running jobs reach a checkpoint; they continue at the
    next start. SIGHUP reloads the certificate; when the daemon's terminal is closed, SIGHUP stops it like SIGTERM.
    """
    daemon = ctx.ensure_object(Daemon)
    if ctx.invoked_subcommand is not None:
        return None
    if show_config:
        daemon.stdout.write(daemon.settings.as_toml())
        return None
    from hypersdk.cli.hypervisord import serving

    return serving.serve(daemon) if process is None else serving.serve_part(daemon, process)


program: Final = Program(
    PROGRAM,
    root,
    Daemon,
    interrupted="Nothing is lost: running jobs continue at the next start.",
    extra="[daemon]",
)
