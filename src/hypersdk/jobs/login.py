"""Where a job's machine is and how to get in: the job's own endpoint, a stored one, or the daemon's environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.kinds.vsphere import VSPHERE, connection_to
from hypersdk.access.vault import Vault
from hypersdk.errors import ConnectError, Refused, UsageError, register
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.store import JobStore
from hypersdk.migration.jobfile import JobDefinition
from hypersdk.net.guard import EndpointGuard
from hypersdk.vsphere.endpoint import Endpoint, resolve_endpoint

JOB_PASSWORD: Final = "job-password"  # noqa: S105 - what the vault seals it for
ENDPOINT_MOVED: Final = register(
    "endpoint_moved",
    "The vCenter or ESXi host that this worker would log in to is not the one that the job was submitted for.",
    "Give all hosts of the daemon the same GOVC_URL, or store the endpoint with `hyperctl endpoints add`; then submit"
    " the job again.",
)


@dataclass(frozen=True, slots=True)
class EndpointResolver:
    """Endpoints of jobs, with their passwords, which stay in memory only as long as they are used."""

    store: JobStore
    vault: Vault
    endpoints: EndpointStore
    settings: DaemonSettings
    environ: Mapping[str, str]

    def endpoint_for(self, job: JobRecord, definition: JobDefinition) -> Endpoint:
        """Where ``job`` is to log in. Raises UsageError, LookupFailed, Refused or AccessError."""
        endpoint = self._found(job, definition)
        if (site := f"{endpoint.host}:{endpoint.port}") != job.site:
            raise Refused(
                f"this worker's endpoint is {site}, the job was submitted for {job.site}", code=ENDPOINT_MOVED
            )
        return endpoint

    def _found(self, job: JobRecord, definition: JobDefinition) -> Endpoint:
        own = definition.endpoint
        if job.endpoint_id is not None and own.url is None:
            stored = connection_to(self.endpoints.login_of(job.endpoint_id, kind=VSPHERE))
            return replace(stored, datacenter=own.datacenter or stored.datacenter)
        sealed = self.store.sealed_secret(job.id)
        password = None if sealed is None else self.vault.open(sealed, JOB_PASSWORD)
        # A job that names its server gets nothing of the daemon's own login: that would send it wherever a submitter
        # likes.
        environ = self.environ if own.url is None else _without_login(self.environ)
        # Nor may it have that login sent to a server that nobody vouches for.
        insecure = own.insecure if own.url is not None else None
        endpoint = resolve_endpoint(
            environ,
            None,
            url=own.url,
            username=own.username,
            password=password,
            insecure=insecure,
            datacenter=own.datacenter,
        )
        if own.url is None:
            return endpoint
        return replace(endpoint, judge=_judge(endpoint, EndpointGuard(self.settings.allowed_endpoints)))


def _judge(endpoint: Endpoint, guard: EndpointGuard) -> Callable[[str, int], str]:
    """Judges every host of the job. An ESXi host that may not be connected to is like one that cannot be reached: the
    data then comes through the server itself, which has been judged."""

    def address_of(host: str, port: int) -> str:
        if (host, port) == (endpoint.host, endpoint.port):
            return guard(host, port)
        try:
            return guard(host, port)
        except UsageError as error:
            raise ConnectError(error.message, cause=error.cause, remedies=error.remedies) from error

    return address_of


def _without_login(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in environ.items()
        if key not in ("GOVC_URL", "GOVC_USERNAME", "GOVC_PASSWORD", "GOVC_INSECURE")
    }
