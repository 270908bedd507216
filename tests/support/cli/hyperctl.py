"""Runs ``hyperctl`` in this process, against an API of the test."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from hypersdk.cli.hyperctl.app import program
from tests.support.apiserver import Api
from tests.support.cli.commandline import Run


@dataclass
class Hyperctl:
    """A user of an API, with its own home."""

    url: str
    home: Path
    token: str | None

    @property
    def env(self) -> dict[str, str]:
        """The environment of a run."""
        env = {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_STATE_HOME": str(self.home / "state"),
            "HYPERVISORD_URL": self.url,
            "TZ": "UTC",
        }
        return env if self.token is None else {**env, "HYPERVISORD_TOKEN": self.token}

    def __call__(self, *arguments: str | Path, stdin: str | bytes = "", env: Mapping[str, str] | None = None) -> Run:
        """Runs one command without terminals."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            data = stdin if isinstance(stdin, bytes) else stdin.encode()
            given = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
            status = program.main(
                [str(argument) for argument in arguments], out, err, given, self.env | dict(env or {})
            )
        return Run(status, out.getvalue(), err.getvalue())

    def ok(self, *arguments: str | Path, stdin: str = "") -> str:
        """The output of a command, which must succeed."""
        done = self(*arguments, stdin=stdin)
        assert done.status == 0, done.err + done.out
        return done.out


def hyperctl_of(api: Api, home: Path, role: str | None = "admin") -> Hyperctl:
    """A user with the token of that role."""
    home.mkdir(exist_ok=True)
    return Hyperctl(api.url, home, None if role is None else api.tokens[role])


def job_file(api: Api, *names: str) -> str:
    """A job file."""
    return json.dumps(
        [{"vm_path": f"/data/vm/{name}", "output_path": str(api.folder / "exports" / name)} for name in names]
    )
