"""`hyperctl completion`."""

from __future__ import annotations

from hypersdk.cli.hyperctl.app import program
from hypersdk.cli.programs.pages import completion_command

command = completion_command(program)
