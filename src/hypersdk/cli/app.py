"""The commands of ``hyper2kvm``: names, one-line summaries and where they are defined. A command's module is imported
when it is called."""

from __future__ import annotations

from typing import Any, Final

import click

from hypersdk import __version__
from hypersdk.cli.options import CONNECTION_HELP, connection_options, output_options
from hypersdk.cli.programs.groups import SETTINGS, Entry, RootGroup
from hypersdk.cli.programs.program import Program
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import UsageError

PROGRAM: Final = "hyper2kvm"
_HERE: Final = "hypersdk.cli.commands"

SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Inventory": {
        "list": Entry(f"{_HERE}.inventory:list_", "List the virtual machines of a vCenter or ESXi host."),
        "inspect": Entry(f"{_HERE}.inventory:inspect", "Show one machine: disks, networks, snapshots."),
        "doctor": Entry(f"{_HERE}.doctor", "Check connection, login, privileges and routes."),
    },
    "Export": {
        "export": Entry(f"{_HERE}.export", "Copy machines out of vSphere into verified images."),
        "convert": Entry(
            f"{_HERE}.convert",
            "Convert a local image or package into another format.",
        ),
        "verify": Entry(f"{_HERE}.verify", "Check that an export is complete and unchanged."),
        "layout": Entry(f"{_HERE}.layout", "Show what lies on the disks of an export or an image."),
    },
    "Land on KVM": {
        "migrate": Entry(f"{_HERE}.migrate", "Move machines from vSphere onto KVM."),
        "import": Entry(f"{_HERE}.import_", "Land exports and local packages on KVM."),
    },
    "Maintenance": {
        "status": Entry(f"{_HERE}.status", "Show unfinished exports and what they left on the source."),
        "cleanup": Entry(f"{_HERE}.cleanup", "Restore the source after interrupted exports."),
    },
    "Get started": {
        "demo": Entry(f"{_HERE}.demo", "Try an export against a built-in vCenter simulator."),
        "completion": Entry("hypersdk.cli.man:completion", "Print or install shell completion."),
        "man": Entry("hypersdk.cli.man:man", "Write the manual pages."),
    },
}
COMMANDS: Final[dict[str, Entry]] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


def _install_completion(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from hypersdk.cli.programs.completion import install_completion

        install_completion(program, ctx.ensure_object(Cli))
        ctx.exit()


@click.group(
    cls=RootGroup,
    sections=SECTIONS,
    titles=dict.fromkeys(CONNECTION_HELP, "Connection"),
    invoke_without_command=True,
    context_settings=dict(SETTINGS),
    epilog="At a terminal, hyper2kvm without a command opens a picker with the machines of the inventory.",
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.option(
    "--install-completion",
    is_flag=True,
    expose_value=False,
    callback=_install_completion,
    help="Install completion for your shell.",
)
@connection_options
@output_options
@click.pass_context
@pass_cli
def root(cli: Cli, ctx: click.Context) -> Any:
    """Take virtual machines out of VMware vSphere and land them on KVM, in one pass."""
    if ctx.invoked_subcommand is not None:
        return None
    if not cli.output.full_screen:
        raise UsageError(
            "no command was given", next_step="See `hyper2kvm --help`; at a terminal, no command opens the picker."
        )
    from hypersdk.cli.interactive import interactive_run

    return interactive_run(cli)


program: Final = Program(PROGRAM, root, Cli, interrupted=None, output_flags=())
