"""What jobs of several kinds do with a machine whose images are there: its guest is converted, it is landed, proved and
started, as asked. What a step did is in the folder's record of the landing: the next attempt continues there, in
whichever process. A pause waits for the end of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

from hypersdk.errors import HyperSDKError, IntegrityError, NotRestored
from hypersdk.jobs.kinds.base import PAUSED, RunContext, StepOutcome, is_failure
from hypersdk.jobs.kinds.export import files_object
from hypersdk.jobs.remedies import next_step
from hypersdk.jobs.targets import known_target
from hypersdk.kvm.address import LibvirtAddress
from hypersdk.landing.guests import open_manifest
from hypersdk.landing.jobfile import LandingFields
from hypersdk.landing.landings import clean_conversion
from hypersdk.landing.progress import MigrationProgress
from hypersdk.landing.record import LAND, START, read_landing
from hypersdk.landing.report import read_report, write_machine_report
from hypersdk.landing.request import LandingRequest
from hypersdk.landing.results import migrated_dict
from hypersdk.landing.steps import Migrated, Notify, Place, Source, add_left, convert_images, land_until, undo_job
from hypersdk.landing.target import open_target
from hypersdk.landing.verifying import VERIFY_LANDED, verify_export
from hypersdk.migration.manifest import hex_of, tree_of
from hypersdk.migration.naming import EVIDENCE_FILES
from hypersdk.migration.outputs import PublishedFile
from hypersdk.migration.runfile import owner_text
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.staleholder import end_stale_holder
from hypersdk.migration.ticking import ticking
from hypersdk.model import Phase, read_job_object
from hypersdk.transfer.cancel import CancelToken

VERIFY: Final = "verify"
OpenSource: TypeAlias = Callable[[LandingRequest, Place], AbstractContextManager[Source]]
"""Opens the source for a step."""


@contextmanager
def job_folder(context: RunContext, *, create: bool) -> Iterator[Path]:
    """The job's folder, held open below its root, by its descriptor."""
    with context.worker.roots.opened(context.job.target, create=create) as descriptor:
        folder = Path(f"/proc/self/fd/{descriptor}")
        _end_stale_worker(context, folder)
        yield folder


def _end_stale_worker(context: RunContext, folder: Path) -> None:
    """Ends one that had this job before, was declared dead, and is only stopped."""
    claims = context.worker.claims
    pid = end_stale_holder(folder, owner_text(context.job.id), lambda: claims.check(context.claim))
    if pid is not None:
        context.progress.log(f"ended the process {pid}, a worker that had this job and did not answer any more")


class JobLanding:
    """The steps of one attempt. ``restore`` gives the source back, after the target is undone."""

    def __init__(
        self,
        context: RunContext,
        definition: LandingFields,
        settings: RunSettings,
        restore: Callable[[], None] = lambda: None,
    ) -> None:
        self._context: Final = context
        self._definition: Final = definition
        self._settings: Final = settings
        self._restore: Final = restore

    @property
    def address(self) -> LibvirtAddress:
        """The target. Raises as ``known_target``."""
        worker, to = self._context.worker, self._definition.to
        assert to is not None, "it is landed"
        return known_target(to, worker.endpoints.endpoints, worker.endpoints.settings)[1]

    @cached_property
    def request(self) -> LandingRequest:
        """What is done there, with the passphrases of the disks. Raises VaultError, and as ``known_target``."""
        context = self._context
        return self._definition.request(self.address, context.worker.endpoints.passphrases(context.job))

    @contextmanager
    def place(self) -> Iterator[Place]:
        """The folder, opened below its root. Programs and the hypervisor use its name, which is checked first."""
        job = self._context.job
        with job_folder(self._context, create=False) as folder:
            yield Place(folder, Path(job.target), job.id)

    # Steps

    def step(self, name: str, source: OpenSource) -> StepOutcome:
        """Runs a step. After a failure nothing is left at the target, and the source is given back; the error says what
        is. The report says how it went. Raises Cancelled and the errors of the database."""
        context = self._context
        context.cancel.check()
        try:
            with self._guarded():
                result = self._done(name, source)
        except HyperSDKError as error:
            if not is_failure(error):
                raise
            return StepOutcome({"success": False, "evidence": self._evidence(error)}, error)
        if name == context.job.steps[-1].name and result is not None:
            result = {**result, "evidence": self._evidence()}
        return StepOutcome(result)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Undoes what is left at the target, then what is held at the source; adds to the error what fails."""
        try:
            yield
        except HyperSDKError as error:
            if is_failure(error) and not isinstance(error, NotRestored):
                self._undo_after(error)
            raise

    def _undo_after(self, error: HyperSDKError) -> None:
        try:
            self.undo_target()
            self._restore()
        except HyperSDKError as left:
            add_left(error, left)

    def _done(self, name: str, source: OpenSource) -> Mapping[str, Any] | None:
        if name == VERIFY:
            return self._verified()
        return self._converted() if self._definition.to is None else self._landed(name, source)

    def _verified(self) -> Mapping[str, Any]:
        """The images are read back and compared with the manifest. Those of a machine that is landed already may
        differ."""
        context = self._context
        with self.place() as place, self.told(Phase.VERIFYING):
            report = verify_export(place.folder, cancel=context.cancel)
            found = [finding for finding in report.findings if finding.code != VERIFY_LANDED]
            if found:
                raise IntegrityError(
                    found[0].message, code=found[0].code, findings=[finding.as_dict() for finding in found]
                )
            return {**self.files(place), "verified": True}

    def _converted(self) -> Mapping[str, Any]:
        """The guest is converted, and lands nowhere."""
        context = self._context
        options = self._definition.conversion(context.worker.endpoints.passphrases(context.job))
        assert options is not None, "the step is there"
        with self.place() as place, self.told(Phase.CONVERTING) as notify:
            convert_images(
                place,
                options,
                turn=context.worker.turn,
                settings=self._settings,
                cancel=context.at_once,
                notify=notify,
            )
            return {**self.files(place), "converted": True}

    def _landed(self, name: str, source: OpenSource) -> Mapping[str, Any] | None:
        context, request = self._context, self.request
        with open_target(request, cancel=context.at_once) as target:
            facts = target.facts
        with ExitStack() as stack:
            place = stack.enter_context(self.place())
            stack.enter_context(self._counting_changes(place, name))
            migrated = land_until(
                name,
                place,
                request,
                facts,
                stack.enter_context(source(request, place)),
                turn=context.worker.turn,
                settings=self._settings,
                cancel=context.at_once,
                notify=stack.enter_context(self.told(Phase.LANDING)),
            )
            return self._result(place, migrated)

    @contextmanager
    def told(self, phase: Phase) -> Iterator[Notify]:
        """Reports phases and notes as the job's progress, from ``phase`` on."""
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

        told(phase, "")
        with (
            context.cancel.calling(asked_to_stop),
            ticking([progress.snapshot], context.progress.observe, self._settings.progress_interval_s),
        ):
            yield told

    def _result(self, place: Place, migrated: Migrated | None) -> Mapping[str, Any] | None:
        """The ``result`` of the job; the files are those after the step."""
        if migrated is None:
            return {"converted": True}
        machine = open_manifest(place.folder).source.vm_name
        return {**self.files(place), **migrated_dict(machine, migrated, self._elapsed_s)}

    def files(self, place: Place) -> dict[str, Any]:
        """What the manifest says of the files."""
        manifest = open_manifest(place.folder)
        machine, method = manifest.source.vm_name, manifest.source.export_method
        files = [PublishedFile(file.name, file.bytes, hex_of(file.checksum), tree_of(file)) for file in manifest.files]
        return files_object(machine, Path(self._context.job.target), files, method, self._elapsed_s)

    @property
    def _elapsed_s(self) -> float:
        job = self._context.job
        return (datetime.now(UTC) - (job.started_at or job.created_at)).total_seconds()

    def _evidence(self, error: HyperSDKError | None = None) -> list[str]:
        """Writes the report beside the manifest; returns the names of the files that tell how it went."""
        job = self._context.job
        try:
            with self.place() as place:
                step = next_step(error) if error is not None else ""
                report = read_report(
                    place.folder, machine=job.name, error=error, next_step=step, elapsed_s=self._elapsed_s
                )
                write_machine_report(report)
                return [name for name in sorted(EVIDENCE_FILES) if (place.folder / name).is_file()]
        except HyperSDKError as problem:
            self._context.progress.log(f"warning: the report could not be written: {problem.message}")
            return []

    # Changes at the target

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

    def is_landed(self) -> bool:
        """Whether something is at the target, of whichever job; it may be where the folder is gone."""
        if not self.has_folder:
            return True
        with self.place() as place:
            landing = read_landing(place.folder)
        return landing is not None and (bool(landing.open_changes) or START in landing.done_steps)

    @property
    def has_folder(self) -> bool:
        """Whether the folder of the job is there."""
        return self._context.worker.roots.locate(Path(self._context.job.target)) is not None

    # Undo

    def undo_target(self) -> None:
        """Undoes what this job landed. Raises NotRestored, ConnectError, TargetError, IntegrityError."""
        with self.place() as place:
            try:
                undone = undo_job(place, lambda: self.address, settings=self._settings)
            finally:
                self._note_target(self._target_changes(place))
        if undone:
            self._context.progress.log(f"undone at the target: {', '.join(undone)}")

    def started(self) -> Mapping[str, Any] | None:
        """The landed machine, if this job has started it: it may have done much since."""
        context = self._context
        with self.place() as place:
            landing = read_landing(place.folder)
        if landing is None or landing.job != context.job.id or START not in landing.done_steps:
            return None
        return {**(context.worker.claims.last_result(context.claim) or {}), "started": True}

    def end_conversion(self) -> None:
        """Removes what an interrupted conversion left, or finishes it. Raises as ``clean_conversion``."""
        tools, state = self._context.worker.turn.tools, self._settings.state
        with self.place() as place:
            clean_conversion(place.folder, tools, state=state, cancel=CancelToken(), named=place.named, job=place.job)
