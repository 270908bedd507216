"""The page of all error codes: ``python -m hypersdk.cli.errorlist > docs/errors.md``. A test compares the two."""

from __future__ import annotations

import importlib
import pkgutil

import hypersdk
from hypersdk.errors import CODES, EXIT_INTERNAL, EXIT_OK, HyperSDKError

_HEAD = """# Error codes and exit statuses

<!-- Made by `python -m hypersdk.cli.errorlist`; change the registry, not this page. -->

Codes and exit statuses are stable: scripts may rely on them. With `--json`, an error is one line on standard output with `type`
`error`, the `code`, a message, the cause, the next step and the exit status.

## Exit statuses

| status | family | means |
| --- | --- | --- |
"""


def load_all() -> None:
    """Imports every module of the package, so that every code is registered."""
    for module in pkgutil.walk_packages(hypersdk.__path__, "hypersdk."):
        if not module.name.endswith("__main__") and ".migrations." not in module.name:  # Alembic runs those
            importlib.import_module(module.name)


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
    rows = [
        f"| {EXIT_OK} | | success |",
        f"| {EXIT_INTERNAL} | | a bug in HyperSDK: please report it with the crash file, which holds no password |",
    ]
    for family in (family for family in families() if family.exit_status != EXIT_INTERNAL):
        means = (family.__doc__ or "").strip().splitlines()[0]
        rows.append(f"| {family.exit_status} | {family.__name__} | {means} |")
    rows.append("| 141 | | the reader of standard output went away |")
    rows.append("| 143 | Cancelled | as 130, where SIGTERM was the reason |")
    codes = [f"| `{code}` | {_cell(info.cause)} | {_cell(info.next_step)} |" for code, info in sorted(CODES.items())]
    table = ["", "## Codes", "", "| code | cause | next step |", "| --- | --- | --- |", *codes, ""]
    return _HEAD + "\n".join([*rows, *table])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
