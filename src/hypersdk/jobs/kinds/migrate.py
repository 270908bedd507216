"""Migrations of a machine from vSphere onto KVM.

::

    copy, publish    as of an export; nothing where an export of the machine as it is now is in the folder
    convert          the guest, in place
    land             its domain
    prove            it boots, in isolation
    start            the source is off the network for good, the domain runs

Steps that nobody asked for do not exist. Those after ``publish`` log in to no vSphere; but the last of a machine that
comes on the network looks at its source first. What a step did is in the folder's record of the landing: the next
attempt continues there, in whichever process. A pause waits for the end of a step.

A failure undoes what was done at the target, then gives the source back; so does a cancel. The export stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

from hypersdk.errors import Cancelled, HyperSDKError, NotRestored, Refused, register
from hypersdk.jobs.kinds.base import PAUSED, RunContext, StepOutcome, SubmitContext
from hypersdk.jobs.kinds.export import COPY, PUBLISH, ExportRun, files_object, new_job
from hypersdk.jobs.locks import domain_lock
from hypersdk.jobs.records import NewJob
from hypersdk.jobs.states import StepState
from hypersdk.jobs.targets import known_target
from hypersdk.kvm.address import LibvirtAddress
from hypersdk.landing.earlier import is_current
from hypersdk.landing.guests import open_manifest
from hypersdk.landing.jobfile import MigrationDefinition, parse_migration
from hypersdk.landing.landings import clean_conversion
from hypersdk.landing.planning import safe_name
from hypersdk.landing.plans import plan_migration
from hypersdk.landing.progress import MigrationProgress
from hypersdk.landing.record import CONVERT, LAND, PROVE, START, read_landing
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.results import migrated_dict
from hypersdk.landing.steps import Migrated, Place, Source, add_left, land_until, undo_job
from hypersdk.landing.target import open_target
from hypersdk.migration.hold import held_run, holds_source, restore_held
from hypersdk.migration.jobfile import MachineJob
from hypersdk.migration.manifest import ArtifactManifest, hex_of, tree_of
from hypersdk.migration.outputs import PublishedFile
from hypersdk.migration.plan import Plan
from hypersdk.migration.point import PointKind
from hypersdk.migration.runfile import HELD_KINDS, RunFile, held_folder, owner_text
from hypersdk.migration.spec import ExportSpec
from hypersdk.migration.staleholder import end_stale_holder
from hypersdk.migration.ticking import ticking
from hypersdk.model import Phase, read_job_object
from hypersdk.remedies import Discard
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.lookup import look_up_one
from hypersdk.vsphere.machine import read_machine
from hypersdk.vsphere.session import Session

EXPORT_OUTDATED: Final = register(
    "export_outdated",
    "The source was given back after a failure, or was started, since it was exported: what it wrote since is not in"
    " the images.",
    Discard(),
)


class Migrate:
    """An export, and what makes a running machine of it."""

    name: ClassVar[str] = "migrate"
    steps: ClassVar[tuple[str, ...]] = (COPY, PUBLISH, CONVERT, LAND, PROVE, START)

    def accept(self, given: Mapping[str, Any], context: SubmitContext) -> tuple[NewJob, tuple[str, ...]]:
        """See JobKind."""
        definition = parse_migration(given, context.environ)
        target, address = known_target(definition.to, context.endpoints, context.settings)
        definition = definition.model_copy(update={"to": target})
        steps = (COPY, PUBLISH, *definition.request(address).steps)
        new, warnings = new_job(self.name, definition, context, steps)
        domain = definition.domain or safe_name(definition.vm_path.rstrip("/").rpartition("/")[2])
        stored = target if "/" not in target else None
        return replace(new, locks=(*new.locks, domain_lock(target, domain)), target_endpoint_id=stored), warnings

    def run(self, context: RunContext) -> MigrateRun:
        """See JobKind."""
        return MigrateRun(context)


class MigrateRun(ExportRun):
    """One attempt."""

    _model: ClassVar[type[MachineJob]] = MigrationDefinition

    def step(self, name: str) -> StepOutcome:
        """See JobRun."""
        if name in (COPY, PUBLISH):
            return super().step(name)
        self.close()  # the export has folder and login open
        self._context.cancel.check()
        try:
            return self._landing_step(name)
        except Cancelled:
            raise
        except HyperSDKError as error:
            self._undo_after(error)
            raise

    @property
    def _definition(self) -> MigrationDefinition:
        return MigrationDefinition.model_validate(self._context.job.definition)

    def _address(self) -> LibvirtAddress:
        worker = self._context.worker
        return known_target(self._definition.to, worker.endpoints.endpoints, worker.endpoints.settings)[1]

    def _request(self) -> LandingRequest:
        return self._definition.request(self._address())

    # The export

    def _plan(self, session: Session, spec: ExportSpec) -> Plan | None:
        """Also looks at the target, before anything is copied."""
        context, request = self._context, self._request()
        tools = context.worker.turn.tools
        if request.conversion is not None:
            request.conversion.check_tools(tools)
        with open_target(request, cancel=context.cancel) as target, session.breakable(context.cancel):
            machine = look_up_one(session, spec.machine, cancel=context.cancel)
            plan = plan_migration(
                session,
                replace(spec, machine=machine.moref),
                request,
                target,
                tools=tools,
                machines=[machine],
                settings=self._settings,
                cancel=context.cancel,
                anew=context.job.discard,
            )
        if plan.export is None:
            context.progress.log(f"the export in {context.job.target} is used: {plan.earlier}")
        for warning in plan.warnings():
            context.progress.log(f"warning: {warning.text}")
        return plan.export

    # The steps after it

    def _landing_step(self, name: str) -> StepOutcome:
        context, request = self._context, self._request()
        with open_target(request, cancel=context.at_once) as target:
            facts = target.facts
        with ExitStack() as stack:
            place = stack.enter_context(self._place())
            stack.enter_context(self._counting_changes(place, name))
            source = stack.enter_context(self._origin(name, request, place))
            migrated = land_until(
                name,
                place,
                request,
                facts,
                source,
                turn=context.worker.turn,
                settings=self._settings,
                cancel=context.at_once,
                notify=stack.enter_context(self._told()),
            )
            return StepOutcome(self._result(place, migrated))

    @contextmanager
    def _place(self) -> Iterator[Place]:
        """The folder, opened below its root. Programs and the hypervisor use its name, which is checked first."""
        job = self._context.job
        with self._context.worker.roots.opened(job.target, create=False) as descriptor:
            folder = Path(f"/proc/self/fd/{descriptor}")
            self._end_stale_worker(folder)
            yield Place(folder, Path(job.target), job.id)

    def _end_stale_worker(self, folder: Path) -> None:
        """One that had this job before, was declared dead, and is only stopped."""
        context = self._context
        claims = context.worker.claims
        pid = end_stale_holder(folder, owner_text(context.job.id), lambda: claims.check(context.claim))
        if pid is not None:
            context.progress.log(f"ended the process {pid}, a worker that had this job and did not answer any more")

    @contextmanager
    def _counting_changes(self, place: Place, step: str) -> Iterator[None]:
        """Stores how many changes at the target are open: after the step, and before it, as the worker may die."""
        if step == LAND:
            self._note_target(max(1, self._target_changes(place)))
        try:
            yield
        finally:
            self._note_target(self._target_changes(place))

    def _note_target(self, changes: int) -> None:
        self._context.worker.claims.note_target(self._context.claim, changes)

    def _target_changes(self, place: Place) -> int:
        """Those of this job, unless the machine is started: that is final."""
        landing = read_landing(place.folder)
        if landing is None or landing.job != self._context.job.id or START in landing.done_steps:
            return 0
        return len(landing.open_changes)

    @contextmanager
    def _told(self) -> Iterator[Callable[[Phase, str], None]]:
        """Reports phases and notes as the job's progress."""
        context = self._context
        before = replace(read_job_object(context.progress.latest or context.job.progress), machine=context.job.name)
        progress = MigrationProgress(lambda: before)
        progress.begin()

        def told(phase: Phase, note: str) -> None:
            progress.enter(phase, note)
            context.progress.observe([progress.snapshot()])  # each stage gets into the log

        def asked_to_stop() -> None:
            if context.cancel.reason == PAUSED:
                context.progress.log("the job pauses when this step has ended")

        told(Phase.LANDING, "")
        with (
            context.cancel.calling(asked_to_stop),
            ticking([progress.snapshot], context.progress.observe, self._settings.progress_interval_s),
        ):
            yield told

    @contextmanager
    def _origin(self, name: str, request: LandingRequest, place: Place) -> Iterator[Source]:
        """The source; with a login where its domain comes on the network in this step."""
        manifest = open_manifest(place.folder)
        text = f"{manifest.source.vm_name} ({manifest.source.vm_id}) at {self._context.job.site}"
        if name != request.steps[-1] or not self._definition.is_fenced:
            yield Source(text)
            return
        with self._source(self._context.at_once) as (session, _):
            self._check_current(session, place, manifest)
            yield Source(text, session, manifest.source.vm_id)

    def _check_current(self, session: Session, place: Place, manifest: ArtifactManifest) -> None:
        """Raises Refused ``export_outdated`` where the source may have run since its export."""
        landing, run = read_landing(place.folder), RunFile.load(place.folder, self._context.runs)
        if landing is not None and START in landing.done_steps:
            return
        held = [change for change in run.record.changes if change.kind in HELD_KINDS] if run is not None else []
        machine = read_machine(session, manifest.source.vm_id, cancel=self._context.at_once)
        if any(not change.undone for change in held) or is_current(manifest, machine):
            return
        facts = manifest.metadata.hypersdk
        was_off = facts is not None and facts.point is not None and facts.point.kind is PointKind.OFF
        if held or was_off:
            raise Refused(f"'{machine.name}' may have run since it was exported", code=EXPORT_OUTDATED)

    def _result(self, place: Place, migrated: Migrated | None) -> Mapping[str, Any] | None:
        """The ``result`` of the job; the files are those after the step."""
        job, manifest = self._context.job, open_manifest(place.folder)
        if migrated is None:
            return {"converted": True}
        machine, method = manifest.source.vm_name, manifest.source.export_method
        files = [PublishedFile(file.name, file.bytes, hex_of(file.checksum), tree_of(file)) for file in manifest.files]
        elapsed_s = (datetime.now(UTC) - (job.started_at or job.created_at)).total_seconds()
        return {
            **files_object(machine, Path(job.target), files, method, elapsed_s),
            **migrated_dict(machine, migrated, elapsed_s),
        }

    # Undo

    def _undo_after(self, error: HyperSDKError) -> None:
        """Undoes what is left at the target, then what is held at the source; adds to ``error`` what fails."""
        if isinstance(error, NotRestored):
            return
        try:
            self._undo_target()
            if self._holds_source():
                self._restore()
        except HyperSDKError as left:
            add_left(error, left)

    def _undo_target(self) -> None:
        with self._place() as place:
            try:
                undone = undo_job(place, self._address, settings=self._settings)
            finally:
                self._note_target(self._target_changes(place))
        if undone:
            self._context.progress.log(f"undone at the target: {', '.join(undone)}")

    def _holds_source(self) -> bool:
        """Also where its changes were made final for a machine that was then not started, and is undone."""
        run = held_run(Path(self._context.job.target), self._context.runs)
        if run is None or run.record.open_changes:
            return run is not None
        return holds_source(run.record) and not self._is_landed()

    def _is_landed(self) -> bool:
        """Whether something is at the target, of whichever job; it may be where the folder is gone."""
        if self._context.worker.roots.locate(Path(self._context.job.target)) is None:
            return True
        with self._place() as place:
            landing = read_landing(place.folder)
        return landing is not None and (bool(landing.open_changes) or START in landing.done_steps)

    def _restore(self) -> None:
        """Raises NotRestored, and errors of the login."""
        context, worker = self._context, self._context.worker
        with (
            self._source(CancelToken()) as (session, spec),
            held_folder(spec.output_dir, worker.roots.locate, spec.shown_dir, context.job.id) as held,
        ):
            run = held_run(held.path, context.runs)
            if run is not None:
                restore_held(session, run, note=context.progress.log)
        context.progress.log("the source is as it was found")

    def undo(self, *, keep_partial: bool) -> Mapping[str, Any] | None:
        """See JobRun. What was landed is undone first: it may keep the source off the network. A finished export
        stays."""
        self.close()
        context = self._context
        if context.worker.roots.locate(Path(context.job.target)) is not None:
            if (started := self._started()) is not None:
                return started
            self._undo_target()
            self._end_conversion()
        if not self._is_published():
            super().undo(keep_partial=keep_partial)
            return None
        if self._holds_source():
            self._restore()
        context.progress.log(f"cancelled; the export in {context.job.target} is complete and stays")
        return None

    def _started(self) -> Mapping[str, Any] | None:
        """The landed machine, if this job has started it: it may have done much since."""
        context = self._context
        with self._place() as place:
            landing = read_landing(place.folder)
        if landing is None or landing.job != context.job.id or START not in landing.done_steps:
            return None
        return {**(context.worker.claims.last_result(context.claim) or {}), "started": True}

    def _end_conversion(self) -> None:
        tools, state = self._context.worker.turn.tools, self._settings.state
        with self._place() as place:
            clean_conversion(place.folder, tools, state=state, cancel=CancelToken(), named=place.named, job=place.job)

    def _is_published(self) -> bool:
        """Also by this attempt, whose claim is older."""
        context = self._context
        steps = context.worker.endpoints.store.get(context.job.id).steps
        return any(step.name == PUBLISH and step.state is StepState.DONE for step in steps)

    def clean_up(self) -> None:
        """See JobRun. A source that is held stays so: the job goes on, or is cancelled."""
        if not self._is_published():
            super().clean_up()
