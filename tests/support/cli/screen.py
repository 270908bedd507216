"""A terminal whose screen a test can look at."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.cli.commandline import program

WAIT_S = 40.0


class Screen:
    """tmux as the terminal: what is on the screen is what a person would see."""

    def __init__(
        self, socket: Path, env: Mapping[str, str], size: tuple[int, int], command: Sequence[str] | None = None
    ) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        pairs = [f"{key}={value}" for key, value in env.items()]
        columns, lines = map(str, size)
        command = ["env", "-i", "TERM=screen-256color", *pairs, *(command or program())]
        shell = (
            'trap : INT; "$@"; echo "ended with $?"; stty -a | grep -q " echo " && echo "keys are echoed"; sleep 600'
        )
        self._run("new-session", "-d", "-x", columns, "-y", lines, "sh", "-c", shell, "-", *command)
        self._run("set", "-g", "status", "off")

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True).stdout

    @property
    def lines(self) -> list[str]:
        """What the screen shows now."""
        return self._run("capture-pane", "-p").splitlines()

    def type(self, *keys: str) -> None:
        """Presses keys, by tmux' names for them."""
        for key in keys:
            self._run("send-keys", key)

    def wait_for(self, text: str) -> list[str]:
        """Waits until ``text`` is on the screen."""
        deadline = time.monotonic() + WAIT_S
        lines = self.lines
        while not any(text in line for line in lines):
            assert time.monotonic() < deadline, f"{text!r} is not on the screen:\n" + "\n".join(lines)
            time.sleep(0.05)
            lines = self.lines
        return lines

    def resize(self, columns: int, lines: int) -> None:
        """Gives the terminal another size, at once."""
        self._run("resize-window", "-x", str(columns), "-y", str(lines))

    def settled(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """Waits until the screen is as ``wanted``, and returns it."""
        deadline = time.monotonic() + WAIT_S
        while not wanted(lines := self.lines):
            assert time.monotonic() < deadline, "the screen never became as wanted:\n" + "\n".join(lines)
            time.sleep(0.05)
        return lines

    def close(self) -> None:
        """Ends the terminal with all that runs in it."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)  # may be closed already
