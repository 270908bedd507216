"""The page of all error codes: ``python -m hypersdk.cli.errorlist > docs/errors.md``. A test compares the two."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Final

import hypersdk
from hypersdk.cli import remedies
from hypersdk.errors import CODES, EXIT_INTERNAL, EXIT_OK, CodeInfo, HyperSDKError
from hypersdk.jobs import remedies as daemon

_HEAD = """# Error codes and exit statuses

<!-- Made by `python -m hypersdk.cli.errorlist`; change the registry, not this page. -->

Codes and exit statuses are stable: scripts may rely on them. With `--json`, an error is one line on standard output,
with `type` `error`, the `code`, a message, the cause, the next step, the remedies and the exit status.

A *next step* is a text for people: in flags for the three programs, in fields of the job file, commands and routes for
a job's error and the API. `remedies` says the same for programs, as records with a `kind`: `{"kind": "exclude_disk"}`
is a flag of `hyper2kvm`, a field of a job, and could be a button. New kinds may come.

## Exit statuses

| status | family | means |
| --- | --- | --- |
"""


_EXPORTING: Final = frozenset({"errors", "formats", "transfer", "kvm", "net", "vsphere", "migration"})


def load_all() -> None:
    """Imports every module of the package, so that every code is registered."""
    for module in pkgutil.walk_packages(hypersdk.__path__, "hypersdk."):
        if not module.name.endswith("__main__") and ".migrations." not in module.name:  # Alembic runs those
            importlib.import_module(module.name)


def _of_exports() -> set[str]:
    """The codes that an export by ``hyper2kvm`` may end with: those of the packages below the daemon."""
    codes = {family.default_code for family in families()}
    for name, module in list(sys.modules.items()):
        if name.startswith("hypersdk.") and name.split(".")[1] in _EXPORTING:
            codes.update(value for value in vars(module).values() if isinstance(value, str) and value in CODES)
    return codes


def families() -> list[type[HyperSDKError]]:
    """Classes with an exit status of their own, by status."""
    found: dict[int, type[HyperSDKError]] = {}
    waiting = list(HyperSDKError.__subclasses__())
    while waiting:
        family = waiting.pop(0)
        found.setdefault(family.exit_status, family)
        waiting.extend(family.__subclasses__())
    return [found[status] for status in sorted(found)]


def page() -> str:
    """The Markdown text."""
    load_all()
    exporting = _of_exports()
    rows = [
        f"| {EXIT_OK} | | success |",
        f"| {EXIT_INTERNAL} | | a bug in HyperSDK: please report it with the crash file, which holds no password |",
    ]
    for family in (family for family in families() if family.exit_status != EXIT_INTERNAL):
        means = (family.__doc__ or "").strip().splitlines()[0]
        rows.append(f"| {family.exit_status} | {family.__name__} | {means} |")
    rows.append("| 141 | | the reader of standard output went away |")
    rows.append("| 143 | Cancelled | as 130, where SIGTERM was the reason |")
    codes = []
    for code, info in sorted(CODES.items()):
        texts = _texts(info, "hyper2kvm" if code in exporting else "hyperctl")
        codes.append(f"| `{code}` | {' | '.join(map(_cell, texts))} |")
    head = ["", "## Codes", "", "| code | cause | next step | in a job or the API |", "| --- | --- | --- | --- |"]
    return _HEAD + "\n".join([*rows, *head, *codes, ""])


def _texts(info: CodeInfo, program: str) -> tuple[str, str, str]:
    """Cause, next step as the programs tell it and, where that differs, as a job's error and the API do."""
    step, of_daemon = remedies.next_step(info, program), daemon.next_step(info)
    return info.cause, step, "" if step == of_daemon else of_daemon


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
