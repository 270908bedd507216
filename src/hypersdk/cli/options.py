"""Flags that several commands share. They may stand before the command or after it; the later one counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import click

from hypersdk.cli.programs.groups import Command
from hypersdk.cli.programs.program import debug_flag
from hypersdk.cli.state import Cli

F = TypeVar("F", bound=Callable[..., Any])
Decorator: TypeAlias = Callable[[F], F]

COMPRESS_MODES: Final = ("none", "checked", "unchecked", "repack")

CONNECTION_HELP: Final = {
    "url": "Address of the vCenter or ESXi host (else $GOVC_URL, else the configuration file).",
    "username": "Who logs in (else $GOVC_USERNAME).",
    "password_file": "Read the password from the first line of this file (else $GOVC_PASSWORD, else a prompt).",
    "password_stdin": "Read the password from standard input.",
    "thumbprint": "Trust the certificate with this SHA-256 or SHA-1 fingerprint and no other.",
    "ca_bundle": "Trust certificates signed by the authorities in this PEM file.",
    "insecure": "Trust any certificate. Anyone on the path can then read the password.",
    "datacenter": "Look for machines in this datacenter only (else $GOVC_DATACENTER).",
    "config": "Configuration file (default: ~/.config/hypersdk/config.toml).",
}


def _record(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value is not None and value is not False and param.name:
        ctx.ensure_object(Cli).flags[param.name] = value


def _record_config(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Cli).config_path = value


def _record_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Cli).output.json_lines = True


def _flag(name: str, *spellings: str, metavar: str | None = None, **settings: Any) -> Decorator[F]:
    return click.option(
        *spellings, name, metavar=metavar, expose_value=False, callback=_record, help=CONNECTION_HELP[name], **settings
    )


_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_CONNECTION: Final[tuple[Callable[[Any], Any], ...]] = (
    _flag("url", "--url", "-u", metavar="URL"),
    _flag("username", "--username", metavar="NAME"),
    _flag("password_file", "--password-file", type=_FILE, metavar="FILE"),
    _flag("password_stdin", "--password-stdin", is_flag=True),
    _flag("thumbprint", "--thumbprint", metavar="FINGERPRINT"),
    _flag("ca_bundle", "--ca-bundle", type=_FILE, metavar="FILE"),
    _flag("insecure", "--insecure", is_flag=True),
    _flag("datacenter", "--datacenter", metavar="NAME"),
    click.option(
        "--config", type=_FILE, metavar="FILE", expose_value=False, callback=_record_config,
        help=CONNECTION_HELP["config"],
    ),
)  # fmt: skip


def connection_options(command: F) -> F:
    """Adds the flags that say where vSphere is and who asks."""
    for option in reversed(_CONNECTION):
        command = option(command)
    return command


def connection_words(cli: Cli) -> list[str]:
    """The connection flags of this run, for a command that is to reach the same server. None of them holds a
    password."""
    words = [] if cli.config_path is None else ["--config", str(cli.config_path)]
    for name, value in cli.flags.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return words


def output_options(command: F) -> F:
    """Adds ``--json`` and ``--debug`` (read early: what goes wrong while the other flags are read is told that way
    already)."""
    as_json = click.option(
        "--json",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_record_json,
        help="Print one JSON object a line on standard output, for programs.",
    )
    return as_json(debug_flag(command, "Show log messages and the origin of errors on standard error."))


class CompressingCommand(Command):
    """A command whose bare ``--compress`` takes no value.

    An option with an optional value would swallow the argument after it (``--compress web01``), so its value is only
    ever written behind an equals sign.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        spelled = ["--compress=checked" if argument == "--compress" else argument for argument in args[:end]]
        return super().parse_args(ctx, spelled + args[end:])
