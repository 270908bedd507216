"""A dialog with guestfish: each command may depend on the answers before it, in one start of the appliance.

A dialog is a generator that yields commands and is sent their output, as lines. A command that begins with ``-`` may
fail: its output is empty then; a failure of any other ends guestfish.
"""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

from hypersdk.guest.environment import environment
from hypersdk.guest.failures import failure
from hypersdk.guest.processgroup import private_folder, run_in_group
from hypersdk.guest.tools import GUESTFISH, GuestTools
from hypersdk.model.guestplan import SourceDisk
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import shown_path

T = TypeVar("T")
Dialog: TypeAlias = Generator[str, list[str], T]
_PLAIN: Final = frozenset(f"{string.ascii_letters}{string.digits}/._-".encode())
MAX_ANSWER_LINES: Final = 20_000


def quoted(text: str) -> str:
    """A word of a guestfish command, whatever characters it has."""
    data = text.encode(errors="surrogateescape")
    return '"' + "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in data) + '"'


def talk(
    dialog: Dialog[T],
    tools: GuestTools,
    disks: Sequence[SourceDisk],
    *,
    log: Path,
    accelerated: bool,
    cancel: CancelToken,
    environ: Mapping[str, str] = os.environ,
) -> T:
    """Runs guestfish on ``disks``, which it may change, and returns the dialog's result. Raises what the dialog raises,
    ConversionError when guestfish fails, Cancelled."""
    guestfish = tools.path(GUESTFISH)
    with private_folder() as private:
        conversation = _Conversation(dialog, private / "commands")
        try:
            status = run_in_group(
                lambda _lines: [guestfish, *_drives(disks), "-f", str(conversation.pipe)],
                folder=private,
                environment=environment(tools, private, accelerated=accelerated, environ=environ),
                log=log,
                cancel=cancel,
                on_line=conversation.read,
                lines_on_stdout=True,
            )
        finally:
            conversation.close()
    if status != 0 or not conversation.results:
        raise failure((), log, status)
    return conversation.results[0]


def _drives(disks: Sequence[SourceDisk]) -> list[str]:
    """``--format`` applies to the ``-a`` after it."""
    return [
        word
        for disk in disks
        for word in (f"--format={disk.image_format}", "-a", str(shown_path(disk.file.absolute())))
    ]


class _Conversation(Generic[T]):
    """Sends the commands of a dialog through the named pipe from which guestfish reads its script."""

    def __init__(self, dialog: Dialog[T], pipe: Path) -> None:
        self.pipe = pipe
        self.results: list[T] = []
        self._mark = f"end-{secrets.token_hex(16)}"  # no name of a file in the guest looks like it
        os.mkfifo(pipe, 0o600)
        # Open for both, so that neither side waits for the other; commands are shorter than the pipe's buffer.
        self._writer = os.open(pipe, os.O_RDWR | os.O_CLOEXEC)
        self._dialog = dialog
        self._answer: list[str] = []
        self._begun = False
        self._send("run")

    def read(self, line: bytes) -> None:
        """Takes a line of guestfish's output; after the last one of an answer, sends the next command."""
        text = line.decode(errors="surrogateescape")
        if text != self._mark:
            if len(self._answer) < MAX_ANSWER_LINES:
                self._answer.append(text)
            return
        answer, self._answer = self._answer, []
        try:
            command = self._dialog.send(answer) if self._begun else next(self._dialog)
            self._begun = True
        except StopIteration as end:
            self.results.append(end.value)
            command = "quit"
        self._send(command)

    def _send(self, command: str) -> None:
        os.write(self._writer, f"{command}\necho {self._mark}\n".encode())

    def close(self) -> None:
        """Ends the dialog and closes the pipe."""
        self._dialog.close()
        os.close(self._writer)
