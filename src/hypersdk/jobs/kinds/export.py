"""Exports of a machine from vSphere into a folder.

::

    copy      log in ─> plan ─> prepare the source ─> copy all disks ─> restore the source ─> checksums
    publish   final names, descriptor, manifest last
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from hypersdk.access.kinds.vsphere import VSPHERE
from hypersdk.errors import Cancelled, HyperSDKError, UsageError
from hypersdk.jobs.claims import StaleAttempt
from hypersdk.jobs.kinds.base import RunContext, StepOutcome, SubmitContext
from hypersdk.jobs.locks import folder_lock, machine_lock
from hypersdk.jobs.records import NewJob, digest_of
from hypersdk.jobs.remedies import warning_text
from hypersdk.jobs.secrets import seal_secrets
from hypersdk.jobs.sizes import Unsized
from hypersdk.migration import runs
from hypersdk.migration.export import MachineExport, machine_export
from hypersdk.migration.jobfile import JobDefinition, MachineJob
from hypersdk.migration.outputs import PublishedFile
from hypersdk.migration.plan import Plan, make_plan
from hypersdk.migration.publish import ExportResult
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, ResumeMode
from hypersdk.model import MachineSummary, Power
from hypersdk.net.guard import EndpointGuard
from hypersdk.secret import Secret
from hypersdk.state.database import DatabaseError
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.endpoint import Endpoint, resolve_endpoint
from hypersdk.vsphere.inventory import list_machines
from hypersdk.vsphere.session import Session

COPY: Final = "copy"
PUBLISH: Final = "publish"


def new_job(
    kind: str,
    definition: MachineJob,
    context: SubmitContext,
    steps: tuple[str, ...],
    passphrases: Sequence[Secret] = (),
) -> tuple[NewJob, tuple[str, ...]]:
    """A job that begins with an export, and its warnings. See JobKind."""
    root = context.roots.of(definition.folder)
    stored = definition.as_dict()
    endpoint_id, endpoint = _endpoint(definition, context)
    site = f"{endpoint.host}:{endpoint.port}"
    own, warnings = definition.endpoint, definition.warnings
    if own.insecure and own.url is None:
        problem = "insecure has no effect on a job that names no server; trust of the daemon's own is configured there"
        warnings += (f"{definition.title}: {problem}",)
    new = NewJob(
        id=definition.id,
        name=definition.title,
        kind=kind,
        subject=definition.vm_path,
        target=definition.folder,
        definition=stored,
        digest=digest_of(stored),
        endpoint_id=endpoint_id,
        secret=seal_secrets(context.vault, own.password, passphrases),
        site=site,
        root_id=root.id,
        locks=(folder_lock(root.id, definition.folder), machine_lock(site, definition.vm_path)),
        steps=steps,
        priority=context.priority,
        owner=context.owner,
    )
    return new, warnings


def _endpoint(definition: MachineJob, context: SubmitContext) -> tuple[str | None, Endpoint]:
    """The id of the stored endpoint, if it is one, and the endpoint."""
    own, endpoint_id = definition.endpoint, context.endpoint_id
    if own.url is not None:
        named = resolve_endpoint({}, None, url=own.url, username=own.username)
        EndpointGuard(context.settings.allowed_endpoints)(named.host, named.port)
        return None, named
    if endpoint_id is None and context.environ.get("GOVC_URL"):
        return None, resolve_endpoint(context.environ, None)
    stored = context.endpoints.get(endpoint_id) if endpoint_id else context.endpoints.default()
    if stored is None:
        return None, resolve_endpoint({}, None)  # raises: no endpoint was named
    if stored.kind != VSPHERE:
        raise UsageError(f"the endpoint '{stored.name}' is of the kind {stored.kind}, not {VSPHERE}")
    return stored.id, resolve_endpoint({}, None, url=stored.url)


class ExportRun:
    """One attempt. Both steps share one login and one plan; a publish without a copy in this process resumes from the
    run's record, by which everything is copied."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._stack = ExitStack()
        self._export: MachineExport | None = None
        self._is_open = False
        context.progress.method = str(context.job.definition.get("export_method") or "auto")

    @property
    def _definition(self) -> MachineJob:
        return JobDefinition.model_validate(self._context.job.definition)

    def step(self, name: str) -> StepOutcome:
        """See JobRun."""
        if not self._is_open:
            self._export = self._stack.enter_context(self._opened())
            self._is_open = True
            if self._export is not None:
                self._export.copy()
        if name == COPY or self._export is None:
            return StepOutcome()
        result, problem = self._export.publish()
        for warning in result.warnings:
            self._context.progress.log(f"warning: {warning}")
        return StepOutcome(result_object(result), problem)

    @contextmanager
    def _opened(self) -> Iterator[MachineExport | None]:
        """None where nothing is to be exported."""
        context, log = self._context, self._context.progress.log
        with self._source(context.cancel) as (session, spec):
            plan = self._plan(session, spec)
            if plan is None:
                yield None
                return
            for change in plan.changes:
                log(f"at the source: {change}")
            for warning in plan.warnings:
                log(f"warning: {warning_text(warning)}")
            with (
                self._sizing(session),
                machine_export(
                    session,
                    plan,
                    cancel=context.cancel,
                    observer=context.progress.observe,
                    settings=self._settings,
                    resources=context.worker.resources_of(context.job.site),
                ) as export,
            ):
                yield export

    @contextmanager
    def _sizing(self, session: Session) -> Iterator[None]:
        """Looks up the machines of the jobs behind this one while the block runs."""
        ended = self._context.cancel.child()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sizes") as thread:
            thread.submit(self._find_sizes, session, ended)
            try:
                yield
            finally:
                ended.cancel("the export ended")

    def _find_sizes(self, session: Session, cancel: CancelToken) -> None:
        context = self._context
        try:
            context.worker.sizes.find(context.job, lambda due: _sizes(session, due, cancel))
        except Cancelled:
            return
        except HyperSDKError as error:
            context.progress.log(f"the sizes of waiting machines are not known: {error.message}")

    def _plan(self, session: Session, spec: ExportSpec) -> Plan | None:
        context = self._context
        if context.begun:
            spec = replace(spec, resume=ResumeMode.DISCARD if context.job.discard else ResumeMode.RESUME)
        with session.breakable(context.cancel):
            return make_plan(
                session, spec, cancel=context.cancel, min_free=context.worker.settings.min_free, runs=context.runs
            )

    @contextmanager
    def _source(self, cancel: CancelToken) -> Iterator[tuple[Session, ExportSpec]]:
        """A login, and the export as requested, into a folder that is held open."""
        job, worker = self._context.job, self._context.worker
        definition = self._definition
        endpoint = worker.endpoints.endpoint_for(job, definition)
        connecting = Session.connect(endpoint, cancel=cancel, guard=worker.guard)
        with connecting as session, worker.roots.opened(job.target, create=True) as descriptor:
            spec = replace(
                definition.to_spec(),
                output_dir=Path(f"/proc/self/fd/{descriptor}"),
                display_dir=Path(job.target),
                job_id=job.id,
                job_name=job.name,
            )
            yield session, spec

    @property
    def _settings(self) -> RunSettings:
        worker = self._context.worker
        return replace(
            worker.settings,
            runs=self._context.runs,
            guard=worker.guard,
            attempt_suffix=self._suffix,
            locate=worker.roots.locate,
        )

    @property
    def _suffix(self) -> str:
        return f".{self._context.claim.epoch}"

    def undo(self, *, keep_partial: bool) -> Mapping[str, Any] | None:
        """See JobRun. Uses a login of its own: the cancel that stopped the export must not stop this. Raises
        NotRestored and errors of the login; then the job is not cancelled, and its record is kept."""
        self.close()
        context, published = self._context, False
        if context.begun:
            never = CancelToken()
            with self._source(never) as (session, spec):
                published = runs.give_up(
                    session,
                    spec,
                    context.runs,
                    keep_partial=keep_partial,
                    attempt_suffix=self._suffix,
                    cancel=never,
                    note=context.progress.log,
                )
        if published and context.job.result is not None:
            context.progress.log("the source is restored; the files were complete before")
            return {**context.job.result, "restored": True}
        context.progress.log("cancelled; the source is restored")
        return None

    def clean_up(self) -> None:
        """See JobRun. Removes a temporary snapshot that is too old to resume from. An unreachable source is not an
        error: the reconciler starts another attempt later. Raises StaleAttempt, DatabaseError."""
        context = self._context
        if not context.begun:
            return
        never = CancelToken()
        try:
            with self._source(never) as (session, spec):
                done = runs.clean_up(
                    session,
                    spec.output_dir,
                    context.runs,
                    drop_snapshot=False,
                    attempt_suffix=self._suffix,
                    cancel=never,
                    note=context.progress.log,
                )
            for problem in done.problems:
                context.progress.log(f"not undone at the source: {problem.change}: {problem.error.message}")
        except (StaleAttempt, DatabaseError):
            raise
        except HyperSDKError as error:
            context.progress.log(f"the source could not be checked: {error.message}")

    def close(self) -> None:
        """See JobRun."""
        self._export, self._is_open = None, False
        self._stack.close()


def _sizes(session: Session, due: Sequence[Unsized], cancel: CancelToken) -> Mapping[str, int]:
    """The data of each machine in bytes, by job; without those whose name is none or several."""
    named: dict[str, list[int]] = {}
    for machine in list_machines(session, cancel=cancel):
        for name in {machine.path, machine.path.lstrip("/"), machine.name, machine.moref}:
            named.setdefault(name, []).append(_data_bytes(machine))
    found = {unsized.id: named.get(unsized.subject, []) for unsized in due}
    return {job_id: sizes[0] for job_id, sizes in found.items() if len(sizes) == 1 and sizes[0]}


def _data_bytes(machine: MachineSummary) -> int:
    """What its disks take up: the machine's files without its memory, which is a file while it runs; 0 if unknown."""
    memory_bytes = 0 if machine.power is Power.OFF else machine.memory_bytes
    return max(0, (machine.used_bytes or 0) - memory_bytes)


def files_object(
    machine: str, folder: Path, files: Sequence[PublishedFile], method: str, elapsed_s: float
) -> dict[str, Any]:
    """What a job of any kind says of its ``files``, first in the fields of the legacy routes. ``duration`` is in
    nanoseconds."""
    names = [file.name for file in files]
    ovf = next((name for name in names if name.endswith(".ovf")), "")
    return {
        "vm_name": machine,
        "output_dir": str(folder),
        "ovf_path": str(folder / ovf) if ovf else "",
        "files": names,
        "output_files": [str(folder / name) for name in names],
        "total_size": sum(file.size_bytes for file in files),
        "duration": int(elapsed_s * 1_000_000_000),
        "success": True,
        "export_method": method,
        "error": "",
        "artifacts": [asdict(file) for file in files],
    }


def result_object(result: ExportResult) -> dict[str, Any]:
    """The ``result`` of an export."""
    found = files_object(result.machine, result.output_dir, result.files, result.method, result.elapsed_s)
    for artifact in found["artifacts"]:
        artifact["content"] = result.content.get(artifact["name"])
    return {
        **found,
        "proof": result.proof,
        "warnings": list(result.warnings),
        "bytes_downloaded": result.wire_bytes,
        "data_bytes": result.data_bytes,
        "capacity_bytes": result.capacity_bytes,
        "blocks_skipped": result.blocks_skipped,
        "restored": result.restored,
    }
