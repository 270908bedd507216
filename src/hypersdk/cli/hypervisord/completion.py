"""`hypervisord completion`."""

from __future__ import annotations

from hypersdk.cli.hypervisord.app import program
from hypersdk.cli.programs.pages import completion_command

command = completion_command(program)
