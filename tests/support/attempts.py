"""Attempts of jobs in this process, without a worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypersdk.guest.tools import find_tools
from hypersdk.jobs.attempt import JobAttempt
from hypersdk.jobs.claims import Claims
from hypersdk.jobs.kinds.base import WorkerContext
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.sizes import QueueSizes
from hypersdk.landing.steps import GuestTurn
from hypersdk.migration.settings import RunResources, RunSettings
from hypersdk.transfer.cancel import CancelToken
from tests.support.services import endpoint_resolver
from tests.support.site import Site


@dataclass
class Hand:
    """Does the attempts of a site's jobs in this process."""

    site: Site
    context: WorkerContext = field(init=False)

    def __post_init__(self) -> None:
        site, settings = self.site, RunSettings(state=self.site.folder / "hand")
        shared = RunResources(settings)
        self.context = WorkerContext(
            Claims(site.database, "hand"),
            endpoint_resolver(site.services, site.environ),
            site.service.roots,
            lambda: None,
            settings,
            lambda _: shared,
            QueueSizes(site.database),
            GuestTurn(find_tools()),
            lambda _: True,
        )

    def attempt(self, job: JobRecord) -> JobAttempt:
        """The one that is due."""
        claim = self.context.claims.claim(job.id, self.site.store.get(job.id).attempt)
        assert claim is not None
        return JobAttempt(self.context, claim, CancelToken())
