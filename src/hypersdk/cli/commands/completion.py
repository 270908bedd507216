"""`hyper2kvm completion`."""

from __future__ import annotations

from typing import Final

from hypersdk.cli.app import COMPLETION_VARIABLE, PROGRAM, root
from hypersdk.cli.programs.completion import Completion

COMPLETION: Final = Completion(PROGRAM, root, COMPLETION_VARIABLE)
command = COMPLETION.command()
