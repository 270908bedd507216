"""The endpoint that a job logs in to: its own, a stored one, or that of the daemon's environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from hypersdk.access.endpoints import EndpointStore
from hypersdk.access.kinds.vsphere import VSPHERE, connection_to
from hypersdk.access.vault import Vault
from hypersdk.errors import ConnectError, Refused, UsageError, register
from hypersdk.jobs.records import JobRecord
from hypersdk.jobs.secrets import open_secrets
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.store import JobStore
from hypersdk.migration.jobfile import MachineJob
from hypersdk.net.guard import EndpointGuard
from hypersdk.secret import Secret
from hypersdk.vsphere.endpoint import Endpoint, resolve_endpoint

_LOGIN: Final = ("GOVC_URL", "GOVC_USERNAME", "GOVC_PASSWORD", "GOVC_INSECURE")
ENDPOINT_MOVED: Final = register(
    "endpoint_moved",
    "The vCenter or ESXi host that this worker would log in to is not the one that the job was submitted for.",
    "Give all hosts of the daemon the same GOVC_URL, or store the endpoint with `hyperctl endpoints add`; then submit"
    " the job again.",
)


@dataclass(frozen=True, slots=True)
class EndpointResolver:
    """Resolves the endpoints of jobs, with their passwords, which stay in memory only while they are used."""

    store: JobStore
    vault: Vault
    endpoints: EndpointStore
    settings: DaemonSettings
    environ: Mapping[str, str]

    def endpoint_for(self, job: JobRecord, definition: MachineJob) -> Endpoint:
        """The endpoint that ``job`` logs in to. Raises UsageError, LookupFailed, Refused or AccessError."""
        endpoint = self._found(job, definition)
        if (site := f"{endpoint.host}:{endpoint.port}") != job.site:
            raise Refused(
                f"this worker's endpoint is {site}, the job was submitted for {job.site}", code=ENDPOINT_MOVED
            )
        return endpoint

    def passphrases(self, job: JobRecord) -> tuple[Secret, ...]:
        """Those of the job's ``keys``, in their order. Raises VaultError."""
        return self._secrets(job)[1]

    def _secrets(self, job: JobRecord) -> tuple[Secret | None, tuple[Secret, ...]]:
        return open_secrets(self.vault, self.store.sealed_secret(job.id), len(job.definition.get("keys", ())))

    def _found(self, job: JobRecord, definition: MachineJob) -> Endpoint:
        own = definition.endpoint
        if job.endpoint_id is not None and own.url is None:
            stored = connection_to(self.endpoints.login_of(job.endpoint_id, kind=VSPHERE))
            return replace(stored, datacenter=own.datacenter or stored.datacenter)
        password, _ = self._secrets(job)
        # A job that names its server does not get the daemon's own login: any submitter could have it sent anywhere.
        environ = {name: text for name, text in self.environ.items() if own.url is None or name not in _LOGIN}
        # Nor may a job have that login sent to an unverified server.
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
    """Checks every host of the job. An ESXi host that must not be connected to is treated as unreachable: the data then
    comes through the server itself, which has been checked."""

    def address_of(host: str, port: int) -> str:
        if (host, port) == (endpoint.host, endpoint.port):
            return guard(host, port)
        try:
            return guard(host, port)
        except UsageError as error:
            raise ConnectError(error.message, cause=error.cause, remedies=error.remedies) from error

    return address_of
