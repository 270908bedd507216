"""`hyperctl tokens`: API tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, pass_ctl
from hypersdk.cli.hyperctl.shown import moment_text
from hypersdk.cli.programs.accounts import token_flags
from hypersdk.cli.programs.groups import Group, flag
from hypersdk.cli.text import clean
from hypersdk.errors import TARGET_DENIED, TargetError
from hypersdk.secret import Secret

if TYPE_CHECKING:
    from hypersdk.client import ApiToken


@click.group("tokens", cls=Group)
def command() -> None:
    """API tokens: for programs, and for people who come in without a password."""


@command.command("create")
@click.argument("label")
@token_flags("What it may do.")
@flag("--user", metavar="NAME", help="Whose token it is (yours); for administrators.")
@flag(
    "--to-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write it into this file, readable by its owner only, in place of showing it.",
)
@common_flags
@pass_ctl
def create(
    ctl: Ctl, label: str, scope: str, days: float, forever: bool, user: str | None, to_file: Path | None
) -> None:  # fmt: skip
    """Make a token. It is shown this once and never again. It ends no later than the token that you use now."""
    if to_file is not None:
        _check_absent(to_file)
    made = ctl.client.tokens.create(label, scope, expires_in_days=None if forever else _asked(days), user=user)
    facts = dict(made.token.raw)
    if to_file is not None:
        _write(to_file, made.secret)
        ctl.show(
            {**facts, "file": str(to_file)}, lambda: ctl.say(f"Token {made.token.id} is in {to_file}", "bold green")
        )
        return
    ctl.show({**facts, "token": made.secret.reveal()}, lambda: _tell(ctl, made.secret))


def _asked(days: float) -> float | Literal["default"]:
    """What was not typed is for the daemon to decide: it may not be more than the token that asks has left."""
    typed = click.get_current_context().get_parameter_source("days") is not ParameterSource.DEFAULT
    return days if typed else "default"


def _tell(ctl: Ctl, secret: Secret) -> None:
    ctl.output.line(secret.reveal())
    ctl.output.note("Keep it now: it is not shown again.", style="yellow")


def _check_absent(path: Path) -> None:
    if path.exists():
        raise TargetError(f"{path} exists", code=TARGET_DENIED, next_step="Name a file that does not exist yet.")


def _write(path: Path, secret: Secret) -> None:
    import os

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret.reveal() + "\n")
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror}", code=TARGET_DENIED) from error


@command.command("list")
@flag("--all", "everyone", is_flag=True, help="Of all users; for administrators.")
@common_flags
@pass_ctl
def list_(ctl: Ctl, everyone: bool) -> None:
    """List tokens, newest first, without their texts."""
    found = ctl.client.tokens.list(everyone=everyone)
    ctl.show([dict(one.raw) for one in found], lambda: _print(ctl, found))


def _print(ctl: Ctl, found: Sequence[ApiToken]) -> None:
    from hypersdk.cli.columns import Column, lay_out

    columns = (
        Column("ID"), Column("Label", least=12), Column("User", least=8, optional=True), Column("Scope"), Column("Expires"),
        Column("Last used", optional=True), Column("Created", optional=True),
    )  # fmt: skip
    rows = [
        [
            (clean(one.id, 128), "bold"), (clean(one.label, 200), ""), (clean(one.user, 128), ""), (clean(one.scope, 20), ""),
            ("never" if one.expires_at is None else moment_text(one.expires_at), ""), (moment_text(one.used_at), "dim"),
            (moment_text(one.created_at), "dim"),
        ]
        for one in found
    ]  # fmt: skip
    ctl.output.print(lay_out(columns, rows, ctl.output.width))


@command.command("revoke")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@common_flags
@pass_ctl
def revoke(ctl: Ctl, ids: tuple[str, ...]) -> None:
    """Make tokens worthless, at once."""
    from hypersdk.cli.hyperctl.ctl import for_each, raise_failures

    def one(token_id: str) -> str:
        ctl.client.tokens.revoke(token_id)
        return token_id

    done, failed = for_each(ctl, ids, one)
    ctl.show([{"id": one, "revoked": True} for one in done], lambda: ctl.say(f"Revoked {len(done)} token(s)"))
    raise_failures(done, failed, "revoked", things="tokens")
