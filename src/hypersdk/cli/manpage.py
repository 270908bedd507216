"""Manual pages from the commands themselves: whatever ``--help`` says, the pages say too. Used by packaging.

Format: man(7) macros. One page for the program (``hyper2kvm.1``) and one a command (``hyper2kvm-export.1``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from datetime import date
from typing import Final

import click

from hypersdk import __version__
from hypersdk.cli.app import COMMANDS, PROGRAM, root
from hypersdk.cli.options import CONNECTION_HELP

EXIT_STATUS: Final = (
    ("0", "All was done."),
    ("1", "A bug in the program; a crash file tells more."),
    ("2", "Flag, job file or configuration cannot be used."),
    ("3", "vCenter or ESXi cannot be reached or trusted."),
    ("4", "Login refused, or a privilege is missing."),
    ("5", "No such machine, or more than one."),
    ("6", "Refused before anything was changed, with the reason."),
    ("7", "vSphere or its data stream failed."),
    ("8", "Bytes are not what they must be."),
    ("9", "The output could not be written."),
    ("10", "Some of several machines failed."),
    ("11", "The source could not be put back as it was found."),
    ("130, 143", "Interrupted (Ctrl-C), terminated (SIGTERM)."),
    ("141", "The reader of standard output went away."),
)
ENVIRONMENT: Final = (
    (
        "GOVC_URL, GOVC_USERNAME, GOVC_PASSWORD, GOVC_INSECURE, GOVC_DATACENTER",
        "Where vSphere is and who asks, as for govc.",
    ),
    ("GOVC_TLS_CA_CERTS, GOVC_TLS_KNOWN_HOSTS", "Whom to trust."),
    ("HTTPS_PROXY, NO_PROXY", "Proxy for API and data."),
    ("XDG_CONFIG_HOME, XDG_STATE_HOME, STATE_DIRECTORY", "Folders of the configuration and of unfinished exports."),
    ("NO_COLOR", "No colours."),
)
FILES: Final = (
    ("~/.config/hypersdk/config.toml", "Configuration: tables [connection] and [export]."),
    ("~/.config/hypersdk/known_hosts", "Certificates that the user trusts."),
    ("~/.local/state/hypersdk/runs", "Where unfinished exports lie."),
)


def all_pages(when: date) -> dict[str, str]:
    """File names and texts of all pages, dated ``when``."""
    ctx = click.Context(root, info_name=PROGRAM)
    pages = {f"{PROGRAM}.1": page(ctx, when)}
    for name in COMMANDS:
        command = root.get_command(ctx, name)
        assert command is not None
        pages[f"{PROGRAM}-{name}.1"] = page(click.Context(command, info_name=name, parent=ctx), when)
    return pages


def page(ctx: click.Context, when: date) -> str:
    """The page of one command."""
    return "\n".join(_lines(ctx, when)) + "\n"


def _lines(ctx: click.Context, when: date) -> Iterator[str]:
    command, title = ctx.command, ctx.command_path.replace(" ", "-")
    first, *rest = paragraphs(command)
    yield f'.TH "{title.upper()}" "1" "{when:%Y-%m-%d}" "{PROGRAM} {__version__}" "User Commands"'
    yield from (".SH NAME", f"{roff(title)} \\- {roff(first.rstrip('.'))}")
    yield from (".SH SYNOPSIS", f".B {roff(ctx.command_path)}", roff(" ".join(command.collect_usage_pieces(ctx))))
    yield ".SH DESCRIPTION"
    for text in (first, *rest):
        yield from (".PP", roff(text))
    yield from _options(ctx)
    if command is root:
        yield from _section("COMMANDS", ((name, entry.summary) for name, entry in COMMANDS.items()))
        yield from _section("ENVIRONMENT", ENVIRONMENT)
        yield from _section("FILES", FILES)
    yield from _section("EXIT STATUS", EXIT_STATUS)
    yield ".SH SEE ALSO"
    others = [PROGRAM] if command is not root else [f"{PROGRAM}-{name}" for name in COMMANDS]
    yield from (f".BR {roff(other)} (1){',' if other != others[-1] else ''}" for other in others)


def _options(ctx: click.Context) -> Iterator[str]:
    own: list[tuple[str, str]] = []
    connection: list[tuple[str, str]] = []
    for param in ctx.command.get_params(ctx):
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
            (connection if param.name in CONNECTION_HELP else own).append(record)
    yield from _section("OPTIONS", own)
    yield from _section("CONNECTION OPTIONS", connection)


def _section(title: str, entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    for number, (term, text) in enumerate(entries):
        if number == 0:
            yield f".SH {title}"
        yield from (".TP", f".B {roff(term)}", roff(text))


def paragraphs(command: click.Command) -> list[str]:
    """The help text of ``command``, a line a paragraph."""
    text = inspect.cleandoc(command.help or "")
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def roff(text: str) -> str:
    """``text`` so that troff prints it as it is: backslashes and hyphens kept, no line taken for a macro."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped
