"""Job files: `hyper2kvm export -f` runs one, each endpoint with a login of its own; `export --write-job` writes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from hypersdk.cli import exporting
from hypersdk.cli.batch import Batch, Failure
from hypersdk.cli.connect import connected
from hypersdk.cli.exporting import Choices
from hypersdk.cli.machines import read_named, read_selected
from hypersdk.cli.options import connection_words
from hypersdk.cli.selection import Selection
from hypersdk.cli.state import Cli
from hypersdk.errors import Cancelled, HyperSDKError, UsageError
from hypersdk.migration.jobfile import MAX_TEXT, EndpointOverrides, JobDefinition, JobEntry, load_jobs
from hypersdk.migration.jobwriting import check_new, job_text, write_new
from hypersdk.migration.spec import ExportSpec
from hypersdk.text import count, shell_line
from hypersdk.units import format_size

OWN_FLAGS: Final = frozenset(
    {
        "resume",
        "discard",
        "force",
        "retries",
        "file_hash",
        "no_file_hash",
        "no_quiesce",
        "max_machines",
        "bwlimit",
        "space_wait",
        "datastore_min_free",
        "datastore_floor",
        "dry_run",
        "yes",
        "report",
    }
)
"""Flags that can be given with a job file: how to run it. The file says what to export and where to."""
_IN_FILE_TOO: Final = frozenset({"file_hash", "no_file_hash"})
"""Those of them that a job file can have as well; the flag takes precedence."""

READABLE: Final = "Give the path of a job file, or - for standard input."


def check_flags(given: Iterable[str]) -> None:
    """Raises UsageError for flags whose values the job file has."""
    foreign = sorted(set(given) - OWN_FLAGS)
    if foreign:
        raise UsageError(f"{_flags(foreign)} cannot be given with -f", next_step="Write it into the job file.")


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def write_jobs(
    cli: Cli, selection: Selection, spec: ExportSpec, path: Path, given: Iterable[str], *, own_folder: bool
) -> None:
    """Writes a job file with an export as ``spec`` for each selected machine. ``given`` are the other flags: those that
    belong to a run have no place in the file. Raises UsageError, LookupFailed and TargetError."""
    if running := sorted((OWN_FLAGS - _IN_FILE_TOO) & set(given)):
        raise UsageError(
            f"{_flags(running)} cannot be written into a job file",
            next_step="Give it with `hyper2kvm export -f`, when the file is run.",
        )
    check_new(path)
    with connected(cli) as session:
        inventory, chosen = read_selected(cli, session, selection)
    specs = exporting.specs_for(spec, chosen, own_folder=own_folder)
    size = format_size(sum(machine.provisioned_bytes or 0 for machine in chosen))
    heading = f"{count(len(chosen), 'machine')} of {session.endpoint.address}, {size} provisioned"
    text = job_text(specs, inventory, as_json=path.suffix.lower() == ".json", heading=heading)
    if str(path) == "-":
        cli.stdout.write(text)
        return
    write_new(path, text)
    run = shell_line(["hyper2kvm", "export", "-f", str(path), *connection_words(cli)])
    if cli.output.json_lines:
        cli.output.event("job_file", {"file": path.absolute(), "machines": len(chosen), "run_command": run})
    else:
        cli.output.line(f"{path}: {heading}")
        cli.output.note(f"Look at it with `{run} --dry-run`, and run it without --dry-run.")


def export_jobs(cli: Cli, path: Path, choices: Choices, changes: Mapping[str, Any]) -> None:
    """Runs all valid jobs of the file; invalid ones are reported and count as failed. ``changes`` are the fields of an
    ExportSpec that flags set."""
    batch = Batch()
    with exporting.reported(cli, choices, batch):
        entries = load_jobs(_read(cli, path), environ=cli.environ)
        batch.skipped += [Failure(f"job {entry.number}", entry.error) for entry in entries if entry.error is not None]
        if len(entries) > 1:
            for failure in batch.skipped:
                exporting.show_failure(cli, failure)
        groups = {
            endpoint: [replace(job.to_spec(), **changes) for job in jobs]
            for endpoint, jobs in _by_endpoint(cli, entries).items()
        }
        batch.unplanned = [(spec.machine, spec) for specs in groups.values() for spec in specs]
        for endpoint, specs in groups.items():
            wanted = _run_specs(
                cli, endpoint, specs, choices, batch, alone=len(entries) == 1, only_endpoint=len(groups) == 1
            )
            if not wanted:
                return
        exporting.conclude(cli, batch)
    exporting.show_next_steps(cli, batch.outcomes)


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


def _run_specs(
    cli: Cli,
    endpoint: EndpointOverrides,
    specs: list[ExportSpec],
    choices: Choices,
    batch: Batch,
    *,
    alone: bool,
    only_endpoint: bool,
) -> bool:
    """Returns False where the user does not want it. An endpoint that cannot be used does not stop those of other
    jobs: its machines are skipped."""
    named = {field.name: getattr(endpoint, field.name) for field in fields(endpoint)}
    overrides = {key: value for key, value in named.items() if value is not None}
    with ExitStack() as stack:
        try:
            session = stack.enter_context(connected(cli, overrides))
            inventory = read_named(cli, session, [spec.machine for spec in specs])
        except Cancelled:
            raise
        except HyperSDKError as error:
            if only_endpoint:
                raise
            _skip_all(cli, specs, error, batch)
            return True
        return exporting.run_exports(cli, session, specs, inventory, choices, batch, alone=alone)


def _skip_all(cli: Cli, specs: list[ExportSpec], error: HyperSDKError, batch: Batch) -> None:
    skipped = [Failure(spec.machine, error, spec) for spec in specs]
    batch.reached(specs)
    batch.skipped += skipped
    for failure in skipped:
        exporting.show_failure(cli, failure)
