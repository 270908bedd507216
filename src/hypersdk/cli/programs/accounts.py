"""Flags and cells of users and tokens, shared by the commands that use the API and those that use the database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hypersdk.cli.programs.groups import F, flag, flag_group

if TYPE_CHECKING:
    from hypersdk.access.records import User
    from hypersdk.cli.columns import Cell

ROLES: Final = ("viewer", "operator", "admin")
SCOPES: Final = (*ROLES, "metrics")
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


def password_flags(what: str) -> Callable[[F], F]:
    """``password_file`` and ``password_stdin``; ``what`` is the password's name in help texts."""
    return flag_group(
        flag("--password-file", type=_FILE, metavar="FILE", help=f"Read the {what} from the first line of this file."),
        flag("--password-stdin", is_flag=True, help=f"Read the {what} from standard input."),
    )


user_flags = flag_group(
    flag("--role", type=click.Choice(ROLES), default="viewer", show_default=True, help="What the user may do."),
    password_flags("password"),
    flag("--no-password", is_flag=True, help="The user logs in with tokens only."),
)
"""``role``, ``password_file``, ``password_stdin`` and ``no_password`` of a new user."""


def days_flag(default: float, text: str) -> Callable[[F], F]:
    """``days``: the lifetime of a token."""
    return flag(
        "--days", type=click.FloatRange(0.001, 3660), default=default, show_default=True, metavar="N", help=text
    )


def token_flags(scope_help: str) -> Callable[[F], F]:
    """``scope``, ``days`` and ``forever`` of a new token."""
    return flag_group(
        flag("--scope", type=click.Choice(SCOPES), default="viewer", show_default=True, help=scope_help),
        days_flag(90.0, "Days until the token expires."),
        flag("--forever", is_flag=True, help="The token does not expire."),
    )


def login_cell(user: User) -> Cell:
    """How a user can log in, for the column Login."""
    if user.disabled:
        return "disabled", "red"
    if user.locked_until:
        return "locked for a while", "yellow"
    return ("password", "") if user.has_password else ("tokens only", "")
