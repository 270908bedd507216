"""Reads passwords from a file or standard input, never from the command line. The prompt is ``Run.password``."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TextIO

from hypersdk.errors import UsageError, register
from hypersdk.secret import Secret

PASSWORD_SOURCE: Final = register(
    "password_source",
    "The password could not be read from the given source.",
    "Give one of --password-file and --password-stdin, with the password on the first line.",
)
MAX_PASSWORD_BYTES: Final = 4096


def given_password(stdin: TextIO, path: Path | None, *, from_stdin: bool) -> Secret | None:
    """The password that ``--password-file`` or ``--password-stdin`` names; None where neither was given. Raises
    UsageError ``password_source``."""
    if path is not None and from_stdin:
        raise UsageError("--password-file and --password-stdin exclude each other", code=PASSWORD_SOURCE)
    if path is not None:
        try:
            with path.open(encoding="utf-8") as file:
                return first_line(file, str(path))
        except OSError as error:
            message = f"the password file {path} cannot be read: {error.strerror}"
            raise UsageError(message, code=PASSWORD_SOURCE) from error
    return first_line(stdin, "standard input") if from_stdin else None


def first_line(file: TextIO, where: str) -> Secret:
    """The first line as a password. Raises UsageError ``password_source``."""
    try:
        return checked(file.readline(MAX_PASSWORD_BYTES + 2), where)
    except UnicodeDecodeError:  # its message would quote the password
        raise UsageError(f"the password in {where} is not UTF-8", code=PASSWORD_SOURCE) from None


def checked(line: str, where: str) -> Secret:
    """A password without its line end. Raises UsageError ``password_source`` where it is empty or too long."""
    text = line.rstrip("\r\n")
    if not text or len(text) > MAX_PASSWORD_BYTES:
        raise UsageError(f"there is no password on the first line of {where}", code=PASSWORD_SOURCE)
    return Secret(text)
