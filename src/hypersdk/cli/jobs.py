"""`hyper2kvm export -f`: the machines of a job file, each endpoint with a login of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from hypersdk.cli import exporting
from hypersdk.cli.connect import connected
from hypersdk.cli.exporting import Failure
from hypersdk.cli.machines import read_inventory
from hypersdk.cli.state import Cli
from hypersdk.errors import UsageError
from hypersdk.migration.export import Outcome
from hypersdk.migration.jobfile import MAX_TEXT, EndpointOverrides, JobDefinition, JobEntry, load_jobs
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec

OWN_FLAGS: Final = frozenset(
    {
        "resume",
        "discard",
        "force",
        "retries",
        "no_file_hash",
        "no_quiesce",
        "max_machines",
        "bwlimit",
        "space_wait",
        "datastore_min_free",
        "datastore_floor",
    }
)
"""Flags that can be given with a job file: how to run it. The file says what to export and where to."""


READABLE: Final = "Give the path of a job file, or - for standard input."


def check_flags(given: Iterable[str]) -> None:
    """Raises UsageError for flags whose values the job file has."""
    foreign = sorted(set(given) - OWN_FLAGS)
    if foreign:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        raise UsageError(f"{names} cannot be given with -f", next_step="Write it into the job file.")


def export_jobs(cli: Cli, path: Path, settings: RunSettings, changes: Mapping[str, Any], *, dry_run: bool) -> None:
    """Runs all valid jobs of the file; invalid ones are reported and count as failed. ``changes`` are the fields of an
    ExportSpec that flags set."""
    entries = load_jobs(_read(cli, path), environ=cli.environ)
    failures = [Failure(f"job {entry.number}", entry.error) for entry in entries if entry.error is not None]
    if len(entries) > 1:
        for failure in failures:
            exporting.show_failure(cli, failure)
    outcomes: list[Outcome] = []
    for endpoint, jobs in _by_endpoint(cli, entries).items():
        specs = [replace(job.to_spec(), **changes) for job in jobs]
        done, refused = _run_batch(cli, endpoint, specs, settings, alone=len(entries) == 1, dry_run=dry_run)
        outcomes += done
        failures += refused
    exporting.conclude(cli, outcomes, failures)
    exporting.show_next_steps(cli, outcomes)


def _read(cli: Cli, path: Path) -> str:
    if str(path) == "-" and "password_stdin" in cli.given:
        raise UsageError(
            "the job file and the password cannot both come from standard input", next_step="Use --password-file."
        )
    try:
        if str(path) == "-":
            return cli.stdin.read(MAX_TEXT + 1)
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_TEXT + 1)
    except OSError as error:
        raise UsageError(f"the job file {path} cannot be read: {error.strerror}", next_step=READABLE) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the job file {path} cannot be read: it is not UTF-8 text", next_step=READABLE) from error


def _by_endpoint(cli: Cli, entries: Iterable[JobEntry]) -> dict[EndpointOverrides, list[JobDefinition]]:
    groups: dict[EndpointOverrides, list[JobDefinition]] = {}
    for entry in entries:
        if entry.definition is not None:
            for warning in entry.definition.warnings:
                cli.output.warn(f"job {entry.number}: {warning}")
            groups.setdefault(entry.definition.endpoint, []).append(entry.definition)
    return groups


def _run_batch(
    cli: Cli, endpoint: EndpointOverrides, specs: list[ExportSpec], settings: RunSettings, *, alone: bool, dry_run: bool
) -> tuple[list[Outcome], list[Failure]]:
    named = {field.name: getattr(endpoint, field.name) for field in fields(endpoint)}
    overrides = {key: value for key, value in named.items() if value is not None}
    with connected(cli, overrides) as session:
        inventory = read_inventory(cli, session)
        specs = exporting.still_to_do(cli, specs, inventory) if not alone else specs
        plans, failures = exporting.make_plans(cli, session, specs, inventory, settings)
        exporting.show_plans(cli, plans, [] if alone else failures)
        outcomes = exporting.carry_out(cli, session, plans, settings) if plans and not dry_run else []
    return outcomes, failures
