"""The state of one run of ``hyper2kvm``: streams, environment, flags, configuration, the cancel token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Final, TextIO

import click

from hypersdk.cli.output import Output
from hypersdk.cli.programs.program import Run
from hypersdk.cli.signals import NOTHING, Interrupts, StopTexts, cancelled_by, watched
from hypersdk.config.user import Config, load_config
from hypersdk.errors import Cancelled
from hypersdk.remedies import Advice, of_source
from hypersdk.transfer.cancel import CancelToken

PICK_AGAIN: Final = "Pick the same machines and folder again to resume, or see `hyper2kvm status`."
NOTHING_BEGUN: Final = "Nothing was changed. You can run the same command again."


class Cli(Run):
    """Passed to every command. ``given`` holds the connection flags."""

    def __init__(self, output: Output, environ: Mapping[str, str], stdin: TextIO, stdout: TextIO) -> None:
        super().__init__(output, environ, stdin, stdout)
        self.cancel = CancelToken()
        self.interrupts = Interrupts(self.cancel, self._note_signal, self._end_by_force)
        self.interactive = False

    def begin(self, texts: StopTexts) -> None:
        """Something has started that can be resumed; ``texts`` are said when it is interrupted."""
        self.interrupts.texts = texts

    @property
    def resumable(self) -> bool:
        """Whether something has started, so that an interrupted run can be resumed."""
        return self.interrupts.texts is not NOTHING

    def watching_signals(self) -> AbstractContextManager[None]:
        """The first signal stops the run in order."""
        return watched(self.interrupts)

    def stopped(self, error: Cancelled) -> Cancelled:
        """Adds the signal, which sets the exit status, and the next step, which depends on what was started. The engine
        only knows that it was cancelled."""
        reported = error
        if self.interrupts.received is not None and "signal" not in error.fields:
            reported = cancelled_by(self.interrupts.received)
            reported.remedies, reported.cause = error.remedies, error.cause
            reported.fields.update(error.fields)
        if not self.resumable:
            reported.remedies = (Advice(NOTHING_BEGUN),)
        elif self.interactive:
            reported.remedies = (Advice(PICK_AGAIN), *of_source(reported.remedies))
        return reported

    def show_debug(self) -> None:
        """Shows log messages and tracebacks."""
        import logging

        from hypersdk.cli.programs.logs import TextLines

        super().show_debug()
        handler = logging.StreamHandler()
        handler.setFormatter(TextLines())
        logging.basicConfig(level=logging.DEBUG, handlers=[handler])

    def ask(self, question: str, *, secret: bool = False) -> str:
        """Asks at the terminal; Ctrl-C and the end of input cancel the run."""
        with self.interrupts.breakable():
            try:
                return super().ask(question, secret=secret)
            except BaseException:
                self.output.notes.print()  # the next output starts on a new line
                raise

    def _note_signal(self, text: str) -> None:
        self.output.note(text, style="yellow")

    def _end_by_force(self, status: int) -> None:
        self.output.restore_terminal()
        os._exit(status)

    @cached_property
    def config(self) -> Config:
        """The configuration file, read when first needed. Raises UsageError."""
        return load_config(self.environ, self.given.get("config"))


pass_cli = click.make_pass_decorator(Cli)
