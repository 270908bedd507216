"""``hyper2kvm man`` and ``hyper2kvm completion``, and the parts of the manual pages that no command has."""

from __future__ import annotations

from typing import Final

import click

from hypersdk.cli.app import program
from hypersdk.cli.programs.completion import completion_command
from hypersdk.cli.programs.groups import flag
from hypersdk.cli.programs.pages import SCREEN_ENVIRONMENT, Manual, man_command
from hypersdk.cli.state import Cli
from hypersdk.errors import TARGET_DENIED, TargetError
from hypersdk.text import clean, count

EXIT_STATUS: Final = (
    ("0", "Success."),
    ("1", "Internal error (a bug); see the crash file."),
    ("2", "Invalid flag, job file or configuration."),
    ("3", "vCenter or ESXi cannot be reached or trusted."),
    ("4", "Login refused, or a privilege is missing."),
    ("5", "No such machine, or more than one."),
    ("6", "Refused before anything was changed; the message has the reason."),
    ("7", "vSphere or its data stream failed."),
    ("8", "Data failed an integrity check."),
    ("9", "The output could not be written."),
    ("10", "Some of several machines failed."),
    ("11", "The source, or the target of a migration, could not be restored."),
    ("14", "Standard output is full or closed; an export has gone on to its end."),
    ("15", "A guest could not be converted; the exported image is unchanged."),
    ("129, 130, 143", "Stopped: the terminal went away (SIGHUP), Ctrl-C, SIGTERM."),
    ("141", "The reader of standard output closed it."),
)
ENVIRONMENT: Final = (
    (
        "GOVC_URL, GOVC_USERNAME, GOVC_PASSWORD, GOVC_INSECURE, GOVC_DATACENTER",
        "Address and login of vSphere, as for govc.",
    ),
    ("GOVC_TLS_CA_CERTS, GOVC_TLS_KNOWN_HOSTS", "Trusted authorities and certificates."),
    ("HTTPS_PROXY, NO_PROXY", "Proxy for API and data."),
    ("XDG_CONFIG_HOME, XDG_STATE_HOME, STATE_DIRECTORY", "Folders of the configuration and of unfinished exports."),
    ("XDG_CACHE_HOME", "Folder of the names of machines for shell completion."),
    *SCREEN_ENVIRONMENT,
)
FILES: Final = (
    ("~/.config/hypersdk/config.toml", "Configuration: tables [connection] and [export]."),
    ("~/.config/hypersdk/known_hosts", "Certificates that the user trusts."),
    ("~/.local/state/hypersdk/runs", "Records of unfinished exports."),
    ("~/.cache/hypersdk/machines", "Names of machines for shell completion, at most 30 days old."),
)
MANUAL: Final = Manual(
    program.name, program.root, section=1, environment=ENVIRONMENT, files=FILES, exit_status=EXIT_STATUS, see_also=()
)
man = man_command(MANUAL)


def _show_machines(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from hypersdk.cli import machinenames
    from hypersdk.cli.columns import Column, lay_out

    cli = ctx.find_object(Cli)
    assert cli is not None
    lists = machinenames.known(cli.environ)
    columns = [Column(title, least=12) for title in ("Server", "Account", "Machines", "Age", "File")]
    rows = [
        [
            (clean(text, 300), "")
            for text in (found.server, found.account, f"{len(found.machines):,}", found.age(), str(found.file))
        ]
        for found in lists
    ]
    if rows:
        cli.output.print(lay_out(columns, rows, None))
    else:
        cli.output.note("There is no list yet. `hyper2kvm list` makes one.")
    ctx.exit()


def _forget_machines(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from hypersdk.cli import machinenames

    cli = ctx.find_object(Cli)
    assert cli is not None
    folder = machinenames.folder_of(cli.environ)
    try:
        cli.output.line(f"{count(machinenames.forget(cli.environ), 'list')} of machine names removed from {folder}.")
    except OSError as error:
        raise TargetError(f"{folder} cannot be changed: {error.strerror}", code=TARGET_DENIED) from error
    ctx.exit()


completion = completion_command(
    program,
    flag(
        "--machines",
        is_flag=True,
        expose_value=False,
        callback=_show_machines,
        help="Show the lists of machine names that completion uses, and how old they are.",
    ),
    flag(
        "--forget-machines",
        is_flag=True,
        expose_value=False,
        callback=_forget_machines,
        help="Remove the lists of machine names. They are written again whenever machines are listed.",
    ),
)
