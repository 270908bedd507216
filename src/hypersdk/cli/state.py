"""What one run of ``hyper2kvm`` knows from the start: streams, environment, flags, configuration, the cancel token."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Final, TextIO

import click

from hypersdk.cli.output import Output
from hypersdk.cli.programs.program import Run
from hypersdk.cli.signals import STOPPING, WARNING, Interrupts, cancelled_by, watched
from hypersdk.config.user import Config, load_config
from hypersdk.errors import Cancelled
from hypersdk.remedies import Advice, of_source
from hypersdk.text import clean, clean_lines
from hypersdk.transfer.cancel import CancelToken

PICK_AGAIN: Final = "Pick the same machines and folder again to go on, or see `hyper2kvm status`."
NOTHING_BEGUN: Final = "Nothing was changed. Run the same command again when it suits you."


class Cli(Run):
    """Handed to every command. ``flags`` holds the connection flags that were given, by parameter name."""

    def __init__(self, output: Output, environ: Mapping[str, str], stdin: TextIO, stdout: TextIO) -> None:
        super().__init__(output, environ, stdin, stdout)
        self.cancel = CancelToken()
        self.interrupts = Interrupts(self.cancel, self._tell_of_signal, self._end_by_force)
        self.flags: dict[str, object] = {}
        self.config_path: Path | None = None
        self.interactive = False
        self.resumable = False
        """Whether an export has begun, so that an interrupted run leaves something that --resume goes on with."""

    def watching_signals(self) -> AbstractContextManager[None]:
        """The first one stops the run in order."""
        return watched(self.interrupts)

    def stopped(self, error: Cancelled) -> Cancelled:
        """The engine only knows that it was cancelled; which signal did it decides the exit status, and what was begun
        the next step."""
        told = error
        if self.interrupts.received is not None and "signal" not in error.fields:
            told = cancelled_by(self.interrupts.received)
            told.remedies, told.cause = error.remedies, error.cause
            told.fields.update(error.fields)
        if not self.resumable:
            told.remedies = (Advice(NOTHING_BEGUN),)
        elif self.interactive:
            told.remedies = (Advice(PICK_AGAIN), *of_source(told.remedies))
        return told

    def show_debug(self) -> None:
        """Log messages too."""
        super().show_debug()
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=logging.DEBUG, handlers=[handler])

    def ask(self, question: str, *, secret: bool = False) -> str:
        """Asks at the terminal; Ctrl-C and the end of input cancel the run."""
        with self.interrupts.breakable():
            try:
                return super().ask(question, secret=secret)
            except BaseException:
                self.output.notes.print()  # what comes next begins on a line of its own
                raise

    def _tell_of_signal(self, text: str) -> None:
        shorter = {STOPPING: "Stopping.", WARNING: "Still stopping. Once more to end by force."}
        self.output.note(text if self.resumable else shorter.get(text, text), style="yellow")

    def _end_by_force(self, status: int) -> None:
        self.output.restore_terminal()
        os._exit(status)

    @cached_property
    def config(self) -> Config:
        """The configuration file, read when first needed. Raises UsageError."""
        return load_config(self.environ, self.config_path)


class _OneLine(logging.Formatter):
    """A message is one line, whatever a server put into it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = clean(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return clean_lines(super().format(record))


pass_cli = click.make_pass_decorator(Cli)
