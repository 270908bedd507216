"""Flags of users and tokens: the same by way of the API and by way of the database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from hypersdk.cli.programs.groups import F, flag

ROLES: Final = ("viewer", "operator", "admin")
SCOPES: Final = (*ROLES, "metrics")
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


def user_flags(command: F) -> F:
    """``role``, ``password_file``, ``password_stdin`` and ``no_password`` of a user that is made."""
    command = flag("--no-password", is_flag=True, help="The user comes in by tokens only.")(command)
    command = _password_flags("password")(command)
    return flag("--role", type=click.Choice(ROLES), default="viewer", show_default=True, help="What the user may do.")(
        command
    )


def new_password_flags(command: F) -> F:
    """``password_file`` and ``password_stdin`` of a password that takes the place of another."""
    return _password_flags("new password")(command)


def _password_flags(what: str) -> Callable[[F], F]:
    def add(command: F) -> F:
        command = flag("--password-stdin", is_flag=True, help=f"Read the {what} from standard input.")(command)
        return flag(
            "--password-file", type=_FILE, metavar="FILE", help=f"Read the {what} from the first line of this file."
        )(command)

    return add


def token_flags(scope_help: str) -> Callable[[F], F]:
    """``scope``, ``days`` and ``forever`` of a token that is made."""

    def add(command: F) -> F:
        command = flag("--forever", is_flag=True, help="It does not expire.")(command)
        command = flag(
            "--days",
            type=click.FloatRange(0.001, 3660),
            default=90.0,
            show_default=True,
            metavar="N",
            help="How long it is valid.",
        )(command)
        return flag("--scope", type=click.Choice(SCOPES), default="viewer", show_default=True, help=scope_help)(command)

    return add
