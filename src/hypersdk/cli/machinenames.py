"""Names of machines for shell completion, as they were when a list was last read. Completion itself never logs in.

::

    $XDG_CACHE_HOME/hypersdk/machines/SERVER-ACCOUNT.json      hashes of both; readable only by the user

A list is at most 30 days old and holds at most 20,000 machines; the newest 16 lists are kept. Nothing in it is secret,
and nothing depends on it: a list that cannot be written or read is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

from hypersdk.access.files import write_private
from hypersdk.cli.state import Cli
from hypersdk.config.folders import cache_folder
from hypersdk.errors import HyperSDKError
from hypersdk.migration.readback import read_small
from hypersdk.model import MachineSummary
from hypersdk.text import count
from hypersdk.units import MiB
from hypersdk.vsphere.endpoint import Endpoint, resolve_endpoint

MAX_AGE: Final = timedelta(days=30)
MAX_LISTS: Final = 16
MAX_MACHINES: Final = 20_000
MAX_BYTES: Final = 16 * MiB
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KnownMachines:
    """One list: name, inventory path and power state of each machine that ``account`` could see on ``server``."""

    server: str
    account: str
    read_at: datetime
    machines: Sequence[tuple[str, str, str]]
    file: Path

    def age(self) -> str:
        """``5 minutes old``."""
        seconds = max((datetime.now(UTC) - self.read_at).total_seconds(), 0)
        for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
            if seconds >= length:
                return f"{count(int(seconds // length), name)} old"
        return f"{count(int(seconds), 'second')} old"


def folder_of(environ: Mapping[str, str]) -> Path:
    """Where the lists are."""
    return cache_folder(environ) / "machines"


def remember(environ: Mapping[str, str], endpoint: Endpoint, machines: Sequence[MachineSummary]) -> None:
    """Writes the list of that server and account, and removes those that are too old or too many."""
    folder = folder_of(environ)
    rows = sorted((machine.name, machine.path, machine.power.value) for machine in machines)[:MAX_MACHINES]
    facts = {
        "server": endpoint.address,
        "account": endpoint.username,
        "read_at": datetime.now(UTC).isoformat(),
        "machines": rows,
    }
    try:
        write_private(_file(folder, endpoint.address, endpoint.username), json.dumps(facts, separators=(",", ":")))
        for at, (when, path) in enumerate(sorted(_files(folder), reverse=True)):
            if at >= MAX_LISTS or when < (datetime.now(UTC) - MAX_AGE).timestamp():
                path.unlink(missing_ok=True)
    except OSError as error:
        _LOG.debug("the names of the machines are not kept for completion: %s", error)


def recall(environ: Mapping[str, str], server: str, account: str) -> KnownMachines | None:
    """The list of that server and account; without an account, the newest of that server."""
    folder = folder_of(environ)
    if account:
        return _read(_file(folder, server, account))
    files = sorted(_files(folder, f"{_hash(server)}-*.json"), reverse=True)
    return _read(files[0][1]) if files else None


def known(environ: Mapping[str, str]) -> list[KnownMachines]:
    """All lists, the newest first."""
    found = (_read(path) for _, path in sorted(_files(folder_of(environ)), reverse=True))
    return [machines for machines in found if machines is not None]


def forget(environ: Mapping[str, str]) -> int:
    """Removes all lists and returns their number. Raises OSError."""
    paths = [path for _, path in _files(folder_of(environ))]
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def complete_machine(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of machines, or their paths once a ``/`` was typed. Nothing, if there is no list."""
    cli = ctx.find_object(Cli)
    try:
        endpoint = None if cli is None else _endpoint(cli)
    except HyperSDKError as error:  # no server was named, or the configuration is wrong: the command itself will tell
        _LOG.debug("no completion: %s", error.message)
        return []
    found = None if cli is None or endpoint is None else recall(cli.environ, endpoint.address, endpoint.username)
    if found is None or endpoint is None:
        return []
    given = ctx.params.get(param.name or "") or ()
    return list(_items(found, endpoint.datacenter, incomplete, given))


def _items(
    found: KnownMachines, datacenter: str | None, incomplete: str, given: Sequence[str]
) -> Iterator[CompletionItem]:
    below = f"/{datacenter.strip('/')}/" if datacenter else "/"
    told: set[str] = set(given)
    for name, path, power in found.machines:
        word = path if incomplete.startswith("/") else name
        # A word that begins with a dash would be taken for a flag.
        if word.startswith(incomplete) and word not in told and path.startswith(below) and not word.startswith("-"):
            told.add(word)
            yield CompletionItem(word, help=f"{power}, {found.age()}")


def _endpoint(cli: Cli) -> Endpoint:
    """The server of this command line. No password is asked for or read."""
    given = {key: cli.given[key] for key in ("url", "username", "datacenter") if key in cli.given}
    environ = {key: value for key, value in cli.environ.items() if key != "GOVC_PASSWORD"}
    return resolve_endpoint(environ, replace(cli.config.connection, password=None, password_file=None), **given)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:24]


def _file(folder: Path, server: str, account: str) -> Path:
    return folder / f"{_hash(server)}-{_hash(account)}.json"


def _files(folder: Path, pattern: str = "*.json") -> Iterator[tuple[float, Path]]:
    """Lists with the time they were written."""
    for path in folder.glob(pattern):
        try:
            yield path.lstat().st_mtime, path
        except FileNotFoundError:  # another process removed it
            continue


def _read(path: Path) -> KnownMachines | None:
    """The list in that file; None if there is none that can be used."""
    try:
        facts = json.loads(read_small(path, MAX_BYTES))
        read_at = datetime.fromisoformat(facts["read_at"])
        rows = [(str(name), str(at), str(power)) for name, at, power in facts["machines"][:MAX_MACHINES]]
        if datetime.now(UTC) - read_at <= MAX_AGE:
            return KnownMachines(str(facts["server"]), str(facts["account"]), read_at, rows, path)
    except (OSError, HyperSDKError, ValueError, TypeError, KeyError, RecursionError) as error:
        _LOG.debug("%s cannot be used: %s", path, error)
    return None
