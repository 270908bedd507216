"""`hyper2kvm completion`."""

from __future__ import annotations

from hypersdk.cli.app import program
from hypersdk.cli.programs.completion import Completion

command = Completion(program.name, program.root, program.completion_variable).command()
