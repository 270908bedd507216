"""Migrations of a machine from vSphere onto KVM.

::

    copy, publish    as of an export; nothing where an export of the machine as it is now is in the folder
    convert          the guest, in place
    verify           the images are read back
    land             its domain
    prove            it boots, in isolation
    start            the source is off the network for good, the domain runs

Steps that nobody asked for do not exist. Those after ``publish`` log in to no vSphere; but the last of a machine that
comes on the network looks at its source first. What a step did is in the folder's record of the landing: the next
attempt continues there, in whichever process. A pause waits for the end of a step.

A failure undoes what was done at the target, then gives the source back; so does a cancel. The export stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from hypersdk.errors import Refused, register
from hypersdk.jobs.kinds.base import RunContext, StepOutcome, SubmitContext
from hypersdk.jobs.kinds.export import COPY, PUBLISH, ExportRun, new_job
from hypersdk.jobs.kinds.landing import VERIFY, JobLanding
from hypersdk.jobs.locks import domain_lock
from hypersdk.jobs.records import NewJob
from hypersdk.jobs.states import StepState
from hypersdk.jobs.targets import known_target
from hypersdk.kvm.address import LibvirtAddress
from hypersdk.landing.earlier import is_current
from hypersdk.landing.guests import described_guest, open_manifest
from hypersdk.landing.jobfile import MigrationDefinition, parse_migration
from hypersdk.landing.pipeline import parse_pipeline, pipeline_of
from hypersdk.landing.planning import safe_name
from hypersdk.landing.plans import plan_migration
from hypersdk.landing.record import CONVERT, LAND, PROVE, START, read_landing
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.steps import Place, Source
from hypersdk.landing.target import open_target
from hypersdk.migration.hold import held_run, restore_held
from hypersdk.migration.jobfile import JobDefinition, MachineJob
from hypersdk.migration.manifest import ArtifactManifest
from hypersdk.migration.plan import Plan
from hypersdk.migration.point import PointKind
from hypersdk.migration.runfile import HELD_KINDS, RunFile, held_folder
from hypersdk.migration.spec import ExportSpec
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
    steps: ClassVar[tuple[str, ...]] = (COPY, PUBLISH, CONVERT, VERIFY, LAND, PROVE, START)

    def accept(self, given: Mapping[str, Any], context: SubmitContext) -> tuple[NewJob, tuple[str, ...]]:
        """See JobKind."""
        definition = parse_migration(given, context.environ)
        assert definition.to is not None, "it was checked"
        target, address = known_target(definition.to, context.endpoints, context.settings)
        stored = definition.model_copy(update={"to": target})
        return migration_job(self.name, stored, definition, target, address, context)

    def run(self, context: RunContext) -> MigrateRun:
        """See JobKind."""
        return MigrateRun(context)


class Export:
    """The default kind of a job: an export, and the steps that its options ask for."""

    name: ClassVar[str] = "export"
    steps: ClassVar[tuple[str, ...]] = (COPY, PUBLISH, CONVERT, VERIFY, LAND, PROVE)

    def accept(self, given: Mapping[str, Any], context: SubmitContext) -> tuple[NewJob, tuple[str, ...]]:
        """See JobKind."""
        definition, migration = parse_pipeline(given, context.environ)
        if migration is None:
            return new_job(self.name, definition, context, (COPY, PUBLISH))
        target, address = None, None
        if migration.to is not None:
            target, address = known_target(migration.to, context.endpoints, context.settings)
            options = definition.options.model_copy(update={"libvirt_uri": target})
            definition = definition.model_copy(update={"options": options})
        return migration_job(self.name, definition, migration, target, address, context)

    def run(self, context: RunContext) -> ExportRun:
        """See JobKind."""
        migration = pipeline_of(JobDefinition.model_validate(context.job.definition))
        return ExportRun(context) if migration is None else PipelineRun(context)


def migration_job(
    kind: str,
    stored: MachineJob,
    definition: MigrationDefinition,
    target: str | None,
    address: LibvirtAddress | None,
    context: SubmitContext,
) -> tuple[NewJob, tuple[str, ...]]:
    """The job of ``definition``, which is kept as ``stored``, and its warnings. ``target`` is as ``known_target`` has
    it; None lands nothing."""
    later = definition.request(address).steps if address is not None else (CONVERT,) * definition.convert
    if definition.verify:
        later = (*(step for step in later if step == CONVERT), VERIFY, *(step for step in later if step != CONVERT))
    new, warnings = new_job(kind, stored, context, (COPY, PUBLISH, *later), definition.passphrases)
    if target is None:
        return new, warnings
    domain = definition.domain or safe_name(definition.vm_path.rstrip("/").rpartition("/")[2])
    endpoint_id = target if "/" not in target else None
    return replace(new, locks=(*new.locks, domain_lock(target, domain)), target_endpoint_id=endpoint_id), warnings


class MigrateRun(ExportRun):
    """One attempt."""

    def step(self, name: str) -> StepOutcome:
        """See JobRun."""
        if name in (COPY, PUBLISH):
            return super().step(name)
        self.close()  # the export has folder and login open
        return self._landing.step(name, lambda request, place: self._origin(name, request, place))

    @property
    def _definition(self) -> MigrationDefinition:
        return MigrationDefinition.model_validate(self._context.job.definition)

    @property
    def _landing(self) -> JobLanding:
        return JobLanding(self._context, self._definition, self._settings, self._give_back)

    # The export

    def _plan(self, session: Session, spec: ExportSpec) -> Plan | None:
        """Also looks at the target, before anything is copied."""
        context = self._context
        tools = context.worker.turn.tools
        if self._definition.to is None:
            return self._plan_converted(session, spec)
        request = self._landing.request
        if request.conversion is not None:
            request.conversion.check_tools(tools)
        with open_target(request, cancel=context.cancel) as target, session.breakable(context.cancel):
            machine = look_up_one(session, spec.machine, cancel=context.cancel)
            plan = plan_migration(
                session,
                replace(spec, machine=machine.moref),
                request,
                target,
                inventory=target.inventory(request.options),
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

    def _plan_converted(self, session: Session, spec: ExportSpec) -> Plan | None:
        """The export of a machine that is converted, and lands nowhere."""
        plan, tools = super()._plan(session, spec), self._context.worker.turn.tools
        options = self._definition.conversion()
        if options is not None:
            options.check_tools(tools)
            if plan is not None:
                options.check_guest(described_guest(plan.machine, plan.disks, spec), tools)
        return plan

    # The steps after it

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

    # Undo

    def _give_back(self) -> None:
        if self._holds_source():
            self._restore()

    def _holds_source(self) -> bool:
        """Also where its changes were made final for a machine that was then not started, and is undone."""
        run = held_run(Path(self._context.job.target), self._context.runs)
        if run is None or run.record.open_changes:
            return run is not None
        return run.record.holds_source and not self._landing.is_landed()

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
        context, landing = self._context, self._landing
        if landing.has_folder:
            if (started := landing.started()) is not None:
                return started
            landing.undo_target()
            landing.end_conversion()
        if not self._is_published():
            super().undo(keep_partial=keep_partial)
            return None
        self._give_back()
        context.progress.log(f"cancelled; the export in {context.job.target} is complete and stays")
        return None

    def _is_published(self) -> bool:
        """Also by this attempt, whose claim is older."""
        context = self._context
        steps = context.worker.endpoints.store.get(context.job.id).steps
        return any(step.name == PUBLISH and step.state is StepState.DONE for step in steps)

    def clean_up(self) -> None:
        """See JobRun. A source that is held stays so: the job goes on, or is cancelled."""
        if not self._is_published():
            super().clean_up()


class PipelineRun(MigrateRun):
    """One attempt of an export whose options ask for more."""

    @property
    def _definition(self) -> MigrationDefinition:
        definition = pipeline_of(JobDefinition.model_validate(self._context.job.definition))
        assert definition is not None, "else it would be an ExportRun"
        return definition
