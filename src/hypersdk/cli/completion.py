"""`hyper2kvm completion`."""

from __future__ import annotations

from hypersdk.cli.app import COMPLETION_VARIABLE, PROGRAM, root
from hypersdk.cli.programs.completion import Completion

command = Completion(PROGRAM, root, COMPLETION_VARIABLE).command()
