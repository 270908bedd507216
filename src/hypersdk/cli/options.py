"""Flags that several commands of ``hyper2kvm`` share. They may stand before the command or after it; the later one
counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from hypersdk.cli.programs.groups import Command, F, flag_group, shared_flag
from hypersdk.cli.programs.program import debug_flag, json_flag
from hypersdk.cli.state import Cli
from hypersdk.errors import UsageError
from hypersdk.migration.spec import Compression, FileHash

COMPRESS_MODES: Final = ("none", "checked", "unchecked", "repack")
FILE_HASHES: Final = ("tree", "sha256", "none")

unchecked_option: Final = click.option(
    "--unchecked",
    is_flag=True,
    help=(
        "Store blocks as received without checking each: ovf, ova, vmdk and compressed qcow2. Faster, but then only"
        " the server's manifest proves the copy."
    ),
)


def compression(flags: Mapping[str, Any]) -> Compression:
    """What ``--compress`` and ``--unchecked`` say together. Raises UsageError where they exclude each other."""
    mode = Compression(flags.get("compress") or "none")
    if not flags.get("unchecked"):
        return mode
    if mode is Compression.REPACK:
        raise UsageError("--unchecked and --compress=repack exclude each other: repacking inflates each block")
    return Compression.UNCHECKED


CONNECTION_HELP: Final = {
    "url": "Address of the vCenter or ESXi host (else $GOVC_URL, else the configuration file).",
    "username": "User name (else $GOVC_USERNAME).",
    "password_file": "Read the password from the first line of this file (else $GOVC_PASSWORD, else a prompt).",
    "password_stdin": "Read the password from standard input.",
    "thumbprint": "Trust the certificate with this SHA-256 or SHA-1 fingerprint and no other.",
    "ca_bundle": "Trust certificates signed by the authorities in this PEM file.",
    "insecure": "Trust any certificate. Anyone on the network path can then read the password.",
    "datacenter": "Look for machines in this datacenter only (else $GOVC_DATACENTER).",
    "config": "Configuration file (default: ~/.config/hypersdk/config.toml).",
}


_FILE: Final = click.Path(path_type=Path, dir_okay=False)


def _flag(name: str, *names: str, **settings: Any) -> Callable[[F], F]:
    return shared_flag(name, *names, cls=click.Option, help=CONNECTION_HELP[name], **settings)


connection_options = flag_group(
    _flag("url", "--url", "-u", metavar="URL"),
    _flag("username", "--username", metavar="NAME"),
    _flag("password_file", "--password-file", type=_FILE, metavar="FILE"),
    _flag("password_stdin", "--password-stdin", is_flag=True),
    _flag("thumbprint", "--thumbprint", metavar="FINGERPRINT"),
    _flag("ca_bundle", "--ca-bundle", type=_FILE, metavar="FILE"),
    _flag("insecure", "--insecure", is_flag=True),
    _flag("datacenter", "--datacenter", metavar="NAME"),
    _flag("config", "--config", type=_FILE, metavar="FILE"),
)
"""The flags that say which server to log in to and how."""

file_hash_options = flag_group(
    click.option(
        "--file-hash",
        type=click.Choice(FILE_HASHES),
        metavar="[tree|sha256|none]",
        help="Digest of each image: tree (default) is computed while it is written; sha256 adds the SHA-256, for which"
        " it is read once more; with none `verify` can compare sizes only.",
    ),
    click.option("--no-file-hash", is_flag=True, help="The same as --file-hash none."),
)
"""``--file-hash``, and its former name."""


def file_hash_fields(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The field of an ExportSpec that ``file_hash_options`` set; none where neither is given."""
    if flags.get("no_file_hash"):
        return {"file_hash": FileHash.NONE}
    return {"file_hash": FileHash(word)} if (word := flags.get("file_hash")) else {}


output_options = flag_group(
    json_flag("Print one JSON object a line on standard output, for programs."),
    debug_flag("Show log messages and tracebacks of errors on standard error."),
)
"""``--json`` and ``--debug``."""


def connection_words(cli: Cli) -> list[str]:
    """The connection flags of this run, for a command that connects to the same server. None of them holds a
    password."""
    words: list[str] = []
    for name, value in cli.given.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return words


class CompressingCommand(Command):
    """A command whose bare ``--compress`` takes no value.

    An option with an optional value would swallow the argument after it (``--compress web01``), so its value is only
    ever written behind an equals sign.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for flag, word in pairwise(args[:end]):
            if flag == "--compress" and word in COMPRESS_MODES:
                raise click.BadOptionUsage(
                    flag, f"write --compress={word}: the value of --compress follows an equals sign", ctx
                )
        spelled = ["--compress=checked" if argument == "--compress" else argument for argument in args[:end]]
        return super().parse_args(ctx, spelled + args[end:])


def complete_machine(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completion of an argument that names machines."""
    from hypersdk.cli import machinenames

    return machinenames.complete_machine(ctx, param, incomplete)
