"""Imports: an export, or a local package or image, is landed on KVM.

::

    images           of a package or image: qcow2 images in the output folder, with a manifest
    convert          the guest, in place
    land             its domain
    prove            it boots, in isolation
    start            it runs

Steps that nobody asked for do not exist; the folder of an export has its images. Nobody logs in to a source. A step
that was interrupted begins anew, or continues by the record in the folder. A cancel undoes what was done at the target;
finished images stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from hypersdk.jobs.kinds.base import RunContext, StepOutcome, SubmitContext
from hypersdk.jobs.kinds.landing import JobLanding, job_folder
from hypersdk.jobs.locks import domain_lock, folder_lock
from hypersdk.jobs.records import NewJob, digest_of
from hypersdk.jobs.remedies import warning_text
from hypersdk.jobs.roots import ImportRoots
from hypersdk.jobs.secrets import seal_secrets
from hypersdk.jobs.targets import known_target
from hypersdk.landing.importing import ImportPlan, LocalSource, make_images, plan_import
from hypersdk.landing.jobfile import ImportDefinition, parse_import
from hypersdk.landing.landed import check_not_landed
from hypersdk.landing.planning import safe_name
from hypersdk.landing.record import CONVERT, LAND, PROVE, START
from hypersdk.landing.steps import Source
from hypersdk.landing.target import open_target
from hypersdk.migration.convert import drop_conversion
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec

IMAGES: Final = "images"


class Import:
    """A local machine, and what makes a running one of it."""

    name: ClassVar[str] = "import"
    steps: ClassVar[tuple[str, ...]] = (IMAGES, CONVERT, LAND, PROVE, START)

    def accept(self, given: Mapping[str, Any], context: SubmitContext) -> tuple[NewJob, tuple[str, ...]]:
        """See JobKind."""
        definition = parse_import(given, context.environ)
        root = context.roots.of(definition.folder)
        ImportRoots(context.settings.import_roots, context.roots).of(definition.source)
        assert definition.to is not None, "it was checked"
        target, address = known_target(definition.to, context.endpoints, context.settings)
        stored = definition.model_copy(update={"to": target}).model_dump(mode="json", exclude_unset=True)
        images = (IMAGES,) if definition.is_package else ()
        domain = definition.domain or safe_name(Path(definition.source).stem)
        new = NewJob(
            id=definition.id,
            name=definition.title,
            kind=self.name,
            subject=definition.source,
            target=definition.folder,
            definition=stored,
            digest=digest_of(stored),
            endpoint_id=None,
            secret=seal_secrets(context.vault, None, definition.passphrases),
            site="",
            root_id=root.id,
            target_endpoint_id=target if "/" not in target else None,
            locks=(folder_lock(root.id, definition.folder), domain_lock(target, domain)),
            steps=(*images, *definition.request(address).steps),
            priority=context.priority,
            owner=context.owner,
        )
        return new, ()

    def run(self, context: RunContext) -> ImportRun:
        """See JobKind."""
        return ImportRun(context)


class ImportRun:
    """One attempt."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def step(self, name: str) -> StepOutcome:
        """See JobRun."""
        if name == self._context.job.steps[0].name:
            with self._planned() as plan:
                if name == IMAGES:
                    return self._make_images(plan)
        source = Source(self._context.job.subject)
        return self._landing.step(name, lambda _request, _place: nullcontext(source))

    @property
    def _definition(self) -> ImportDefinition:
        return ImportDefinition.model_validate(self._context.job.definition)

    @property
    def _settings(self) -> RunSettings:
        worker = self._context.worker
        return replace(worker.settings, runs=self._context.runs, guard=worker.guard, locate=worker.roots.locate)

    @property
    def _landing(self) -> JobLanding:
        return JobLanding(self._context, self._definition, self._settings)

    @contextmanager
    def _planned(self) -> Iterator[ImportPlan]:
        """Also looks at the target, before anything is done. What the plan names is open for the block."""
        context, request, definition = self._context, self._landing.request, self._definition
        tools, cancel = context.worker.turn.tools, context.at_once
        if request.conversion is not None:
            request.conversion.check_tools(tools)
        with self._folder() as spec, self._source() as source, open_target(request, cancel=cancel) as target:
            plan = plan_import(
                source,
                spec,
                request,
                target,
                inventory=target.inventory(request.options),
                source_off=definition.source_off,
                tools=tools,
                cancel=cancel,
            )
            for warning in plan.warnings():
                context.progress.log(f"warning: {warning_text(warning)}")
            yield plan

    @contextmanager
    def _source(self) -> Iterator[LocalSource]:
        """The source, opened below its root. It is read by that descriptor."""
        definition, worker = self._definition, self._context.worker
        named = Path(definition.source)
        if not definition.is_package:
            with worker.roots.opened(definition.folder, create=False) as descriptor:
                yield LocalSource(Path(f"/proc/self/fd/{descriptor}"), named)
            return
        with ImportRoots(worker.endpoints.settings.import_roots, worker.roots).opened(definition.source) as path:
            yield LocalSource(path, named, follow=False)

    @contextmanager
    def _folder(self) -> Iterator[ExportSpec]:
        """How images are made, in the folder of the job, which is held open."""
        job = self._context.job
        with job_folder(self._context, create=True) as folder:
            yield ExportSpec(
                machine="",
                output_dir=folder,
                display_dir=Path(job.target),
                force=job.discard,
                job_id=job.id,
                job_name=job.name,
                metadata=self._definition.tags,
            )

    def _make_images(self, plan: ImportPlan) -> StepOutcome:
        context = self._context
        if plan.package is None:
            context.progress.log(f"the images in {context.job.target} are used: they were made of this file")
            return StepOutcome()
        check_not_landed(plan.spec.output_dir)
        make_images(
            plan,
            settings=self._settings,
            cancel=context.at_once,
            observer=lambda now: context.progress.observe([now]),
        )
        return StepOutcome()

    def undo(self, *, keep_partial: bool) -> Mapping[str, Any] | None:  # noqa: ARG002 - images are made anew
        """See JobRun. Finished images stay."""
        landing, context = self._landing, self._context
        if not landing.has_folder:
            return None
        if (started := landing.started()) is not None:
            return started
        landing.undo_target()
        landing.end_conversion()
        with self._folder() as spec:
            drop_conversion(spec, self._settings)
        context.progress.log("cancelled; nothing is left at the target")
        return None

    def clean_up(self) -> None:
        """See JobRun. There is no source, and what is at the target stays: the job goes on, or is cancelled."""

    def close(self) -> None:
        """See JobRun. Each step closes what it opens."""
