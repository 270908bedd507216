"""`hyperctl tokens`: API tokens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, for_each, pass_ctl, raise_failures
from hypersdk.cli.programs.accounts import token_flags
from hypersdk.cli.programs.groups import Group, flag
from hypersdk.errors import TARGET_DENIED, HyperSDKError, TargetError
from hypersdk.secret import Secret

if TYPE_CHECKING:
    from hypersdk.client import ApiToken, NewToken


@click.group("tokens", cls=Group)
def command() -> None:
    """API tokens: for programs, and for people who log in without a password."""


@command.command("create")
@click.argument("label")
@token_flags("What the token may do.")
@flag("--user", metavar="NAME", help="Owner of the token (you); for administrators.")
@flag(
    "--to-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write it to this file, readable only by its owner, instead of printing it.",
)
@common_flags
@pass_ctl
def create(
    ctl: Ctl, label: str, scope: str, days: float, forever: bool, user: str | None, to_file: Path | None
) -> None:
    """Create a token. It is shown only once. It expires no later than the token used to create it."""

    def make() -> NewToken:
        return ctl.client.tokens.create(label, scope, expires_in_days=None if forever else _asked(days), user=user)

    if to_file is None:
        made = make()
        ctl.show({**made.token.raw, "token": made.secret.reveal()}, lambda: _show_secret(ctl, made.secret))
        return
    token = _create_in_file(ctl, to_file, make)
    ctl.show({**token.raw, "file": str(to_file)}, lambda: ctl.say(f"Token {token.id} is in {to_file}", "bold green"))


def _asked(days: float) -> float | Literal["default"]:
    """Without --days the daemon decides: a token may not outlive the one that creates it."""
    typed = click.get_current_context().get_parameter_source("days") is not ParameterSource.DEFAULT
    return days if typed else "default"


def _show_secret(ctl: Ctl, secret: Secret) -> None:
    ctl.output.line(secret.reveal())
    ctl.output.note("Save it now: it is not shown again.", style="yellow")


def _create_in_file(ctl: Ctl, path: Path, make: Callable[[], NewToken]) -> ApiToken:
    """Creates a token and writes it to a new file. The file is created first, and a token that cannot be written is
    revoked: nobody could use it, and it would stay valid for months."""
    made: NewToken | None = None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise TargetError(
            f"{path} exists", code=TARGET_DENIED, next_step="Name a file that does not exist yet."
        ) from error
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            made = make()
            file.write(made.secret.reveal() + "\n")
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if made is not None:
            _revoke_unseen(ctl, made.token.id)
        if isinstance(error, OSError):
            raise _unwritten(path, error) from error
        raise
    return made.token


def _unwritten(path: Path, error: OSError) -> TargetError:
    return TargetError(
        f"{path} cannot be written: {error.strerror}",
        code=TARGET_DENIED,
        next_step="Name a file in a folder that you may write to.",
    )


def _revoke_unseen(ctl: Ctl, token_id: str) -> None:
    try:
        ctl.client.tokens.revoke(token_id)
    except HyperSDKError as error:
        ctl.output.warn(f"token {token_id}, which was not saved, could not be revoked: {error.message}")


@command.command("list")
@flag("--all", "everyone", is_flag=True, help="Tokens of all users; for administrators.")
@common_flags
@pass_ctl
def list_(ctl: Ctl, everyone: bool) -> None:
    """List tokens, newest first, without the secret itself."""
    from hypersdk.cli.hyperctl.shown import show_table
    from hypersdk.client import ApiToken

    show_table(ctl, ctl.client.tokens.list(everyone=everyone), ApiToken, expires_at=_expiry)


def _expiry(token: ApiToken) -> tuple[str, str]:
    from hypersdk.cli.columns import moment_text

    return ("never" if token.expires_at is None else moment_text(token.expires_at)), ""


@command.command("revoke")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@common_flags
@pass_ctl
def revoke(ctl: Ctl, ids: tuple[str, ...]) -> None:
    """Revoke tokens, immediately."""
    done, failed = for_each(ctl, ids, ctl.client.tokens.revoke)
    ctl.show(
        [{"id": token_id, "revoked": True} for token_id, _ in done], lambda: ctl.say(f"Revoked {len(done)} token(s)")
    )
    raise_failures(done, failed, "revoked", things="tokens")
