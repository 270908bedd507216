"""Writes job files: the other direction of ``jobfile``."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from hypersdk.errors import UsageError, register
from hypersdk.migration.jobfile import load_jobs
from hypersdk.migration.spec import PARALLEL, Compression, ExportSpec, FileHash, Method, SourceState
from hypersdk.model import MachineSummary
from hypersdk.text import clean
from hypersdk.transfer.files import FILE_MODE, sync_folder, target_errors

FILE_EXISTS: Final = register(
    "file_exists",
    "A file of that name exists, and is not overwritten.",
    "Choose another name, or remove the file.",
)


def job_text(
    specs: Sequence[ExportSpec], machines: Sequence[MachineSummary], *, as_json: bool, heading: str = ""
) -> str:
    """A job file of exports whose machines are named by their morefs. It has no endpoint and no secret, so that it runs
    with the login of the program that reads it. ``heading`` is a comment (YAML only).

    Raises UsageError for more jobs than a file may have.
    """
    rows = {machine.moref: machine for machine in machines}
    taken = Counter(text for machine in machines for text in {machine.path, machine.name})
    jobs = [_job(spec, rows[spec.machine], taken) for spec in specs]
    if as_json:
        text = json.dumps({"jobs": jobs}, indent=2) + "\n"
    else:
        comment = "".join(f"# {clean(line)}\n" for line in heading.splitlines())
        text = comment + yaml.safe_dump({"jobs": jobs}, sort_keys=False, allow_unicode=True, width=4096)
    for entry in load_jobs(text, environ={}):  # the file is accepted as it is written
        if entry.error is not None:
            raise entry.error
    return text


def check_new(path: Path) -> None:
    """Raises UsageError ``file_exists`` for a file that exists. ``-`` is standard output."""
    if str(path) != "-" and os.path.lexists(path):
        raise UsageError(f"{path} exists", code=FILE_EXISTS)


def write_new(path: Path, text: str) -> None:
    """Writes a file that must not exist yet. Raises UsageError ``file_exists`` and TargetError."""
    with target_errors(f"writing {path.name}"):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        except FileExistsError:
            raise UsageError(f"{path} exists", code=FILE_EXISTS) from None
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(handle)
            sync_folder(path.absolute().parent)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _job(spec: ExportSpec, machine: MachineSummary, taken: Mapping[str, int]) -> dict[str, Any]:
    """Only what differs from the defaults, and always the format: that of a job file is not that of the command."""
    facts: dict[str, Any] = {
        "name": clean(machine.name, 1000),
        "vm_path": _vm_path(machine, taken),
        "output_path": str(spec.output_dir.absolute()),
        "format": spec.format.value,
        "compress": None if spec.compress is Compression.NONE else spec.compress.value,
        "export_method": None if spec.method is Method.AUTO else spec.method.value,
    }
    options: dict[str, Any] = {
        "source": _source(spec),
        "remove_cdrom": spec.remove_cdrom or None,
        "file_hash": None if spec.file_hash is FileHash.TREE else spec.file_hash.value,
        "exclude_disks": list(spec.exclude_disks) or None,
        "parallel_downloads": None if spec.parallel == PARALLEL else spec.parallel,
    }
    return {**_given(facts), **({"options": _given(options)} if _given(options) else {})}


def _given(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _source(spec: ExportSpec) -> str | None:
    if spec.state is SourceState.SNAPSHOT:
        return f"snapshot:{spec.snapshot}"
    return None if spec.state is SourceState.AUTO else spec.state.value


def _vm_path(machine: MachineSummary, taken: Mapping[str, int]) -> str:
    """The inventory path, which people can read; the moref where the path has control characters, or is not that of
    this machine alone. A moref that is the name of another machine is written with its type."""
    if machine.path.isprintable() and taken[machine.path] == 1:
        return machine.path
    return f"VirtualMachine:{machine.moref}" if taken[machine.moref] else machine.moref
