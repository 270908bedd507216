"""The commands of ``hyper2kvm``: names, one-line summaries and where they live. A command's module is imported when it is called."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from hypersdk import __version__
from hypersdk.cli.options import connection_options, output_options, write_options
from hypersdk.cli.state import Cli, pass_cli
from hypersdk.errors import UsageError

PROGRAM: Final = "hyper2kvm"
COMPLETION_VARIABLE: Final = "_HYPER2KVM_COMPLETE"
"""Set by the scripts that `hyper2kvm completion` prints: asks for completions in place of a run."""
HELP_WIDTH: Final = 110


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: its module below ``hypersdk.cli.commands`` (the function in it is called ``command``), for the list of commands."""

    module: str
    summary: str


SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Look": {
        "list": Entry("list", "List the virtual machines of a vCenter or ESXi host."),
        "inspect": Entry("inspect", "Show one machine: disks, networks, snapshots."),
        "doctor": Entry("doctor", "Check connection, login, privileges and routes."),
    },
    "Move": {
        "export": Entry("export", "Copy machines out of vSphere into verified images."),
        "convert": Entry("convert", "Convert a VMDK, OVA or OVF that lies on this machine."),
        "verify": Entry("verify", "Check that an export is complete and unchanged."),
    },
    "Look after": {
        "status": Entry("status", "Show unfinished exports and what they left on the source."),
        "cleanup": Entry("cleanup", "Put back what interrupted exports left on the source."),
    },
    "Get started": {
        "demo": Entry("demo", "Rehearse an export against a built-in vCenter simulator."),
        "completion": Entry("completion", "Print or install shell completion."),
        "man": Entry("man", "Write the manual pages."),
    },
}
COMMANDS: Final[dict[str, Entry]] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """A group that knows its commands by name and summary, and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = importlib.import_module(f"hypersdk.cli.commands.{entry.module}").command
        assert isinstance(command, click.Command)
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        column = max(map(len, COMMANDS))
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(column), entry.summary) for name, entry in entries.items()])
        write_options(self, ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [
            CompletionItem(name, help=entry.summary) for name, entry in COMMANDS.items() if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing and not args[0].startswith("-"):
            raise _unknown_command(args[0])
        return super().resolve_command(ctx, args)


def _unknown_command(name: str) -> UsageError:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"Did you mean `hyper2kvm {near[0]}`?" if near else "`hyper2kvm --help` lists the commands."
    return UsageError(f"there is no command {name[:60]!r}", next_step=hint)


def _install_completion(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from hypersdk.cli.commands.completion import install

        install(ctx.ensure_object(Cli), None)
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH},
    epilog="With a terminal and no command, hyper2kvm lets you pick machines from the inventory.",
)
@click.version_option(__version__, "-V", "--version", prog_name="hyper2kvm", message="%(prog)s %(version)s")
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
