"""What one run of ``hyper2kvm`` knows from the start: streams, environment, flags, configuration, the cancel token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TextIO

import click

from hypersdk.cli.output import Output
from hypersdk.cli.signals import STOPPING, WARNING, Interrupts
from hypersdk.config.folders import state_folder
from hypersdk.config.user import Config, load_config
from hypersdk.transfer.cancel import CancelToken


class Cli:
    """Handed to every command. ``flags`` holds the connection flags that were given, by parameter name."""

    def __init__(self, output: Output, environ: Mapping[str, str], stdin: TextIO) -> None:
        self.output = output
        self.environ = environ
        self.stdin = stdin
        self.cancel = CancelToken()
        self.interrupts = Interrupts(self.cancel, self._tell_of_signal, self._end_by_force)
        self.flags: dict[str, object] = {}
        self.config_path: Path | None = None
        self.debug = False
        self.interactive = False
        self.resumable = False
        """Whether an export has begun, so that an interrupted run leaves something that --resume goes on with."""

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

    @property
    def state_dir(self) -> Path:
        """Folder of journals, remembered certificates and crash reports."""
        return state_folder(self.environ)


pass_cli = click.make_pass_decorator(Cli)
