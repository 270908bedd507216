"""Diagnosis, check by check: name resolution, port, certificate, login, privileges, routes, free space; each with its
next step."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from hypersdk.errors import Cancelled, HyperSDKError
from hypersdk.model.check import CheckStatus, DoctorCheck
from hypersdk.net.address import HTTPS_PORT, ip_address
from hypersdk.net.certificate import PeerCertificate, format_fingerprint, peer_certificate
from hypersdk.net.proxy import Proxy, dial
from hypersdk.remedies import Advice, ChooseFolder, TrustCertificate
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import GiB, format_duration, format_size
from hypersdk.vsphere.connection import open_connection
from hypersdk.vsphere.endpoint import Endpoint, http_proxy_for
from hypersdk.vsphere.faults import translate
from hypersdk.vsphere.lookup import look_up_one
from hypersdk.vsphere.machine import DATASTORE, DatastoreFacts, datastore_facts, read_datastores
from hypersdk.vsphere.paths import decode_name
from hypersdk.vsphere.privileges import ESSENTIAL, ON_DATASTORES, ON_ROOT, Operation, missing_privileges
from hypersdk.vsphere.session import Session
from hypersdk.vsphere.soap import ObjectProperties, child_text, read_inventory, read_one

HOST_TIMEOUT_S: Final = 5.0
HOSTS_AT_ONCE: Final = 16
MAX_SKEW: Final = timedelta(minutes=5)
"""The limit of Kerberos; a larger difference also makes certificates and snapshot ages look wrong."""
EXPIRES_SOON: Final = timedelta(days=30)
FREE_LICENCE: Final = "esxBasic"
"""Edition key of the free ESXi licence, which does not include the export API."""


def run_doctor(
    endpoint: Endpoint,
    *,
    cancel: CancelToken,
    machine: str | None = None,
    output_dir: Path | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Iterator[DoctorCheck]:
    """All checks, as they finish; those that depend on a failed one are skipped.

    ``machine`` (any selector) narrows privileges and datastores down to one machine; ``output_dir`` adds the local free
    space.
    """
    if output_dir is not None:
        yield _local_space(output_dir)
    for check in _reach(endpoint, now):
        cancel.check()
        yield check
        if check.status is CheckStatus.FAIL:
            return
    try:
        session = Session.connect(endpoint, cancel=cancel)
    except Cancelled:
        raise
    except HyperSDKError as exc:
        yield _failed("login", exc)
        return
    with session:
        yield DoctorCheck(
            "login",
            CheckStatus.OK,
            f"{endpoint.username} on {session.about.full_name} (API {session.about.api_version})",
        )
        yield from _inside(session, machine, cancel, now)


def _failed(name: str, exc: HyperSDKError, status: CheckStatus = CheckStatus.FAIL) -> DoctorCheck:
    return DoctorCheck(name, status, exc.message, exc.remedies)


def _reach(endpoint: Endpoint, now: Callable[[], datetime]) -> Iterator[DoctorCheck]:
    """Name, port and certificate; the first check that fails is the last one."""
    proxy = http_proxy_for(endpoint, endpoint.host, endpoint.port)
    checks: dict[str, Callable[[], DoctorCheck]] = {
        "port": lambda: _port(endpoint, proxy),
        "certificate": lambda: _trust(endpoint, peer_certificate(endpoint.host, endpoint.port, proxy=proxy), now()),
    }
    if proxy is None:
        checks = {"name": lambda: _resolve(endpoint.host), **checks}
    for name, check in checks.items():
        try:
            yield check()
        except (OSError, HyperSDKError) as exc:
            yield _failed(name, translate(exc, endpoint.address))
            return


def _resolve(host: str) -> DoctorCheck:
    if ip_address(host) is not None:
        return DoctorCheck("name", CheckStatus.OK, f"{host} is an address")
    found = socket.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM)
    return DoctorCheck("name", CheckStatus.OK, f"{host} is {', '.join(sorted({str(entry[4][0]) for entry in found}))}")


def _port(endpoint: Endpoint, proxy: Proxy | None) -> DoctorCheck:
    started = time.monotonic()
    dial(endpoint.host, endpoint.port, proxy=proxy).close()
    took = format_duration(time.monotonic() - started)
    via = "" if proxy is None else f" through the proxy {proxy.host}:{proxy.port}"
    return DoctorCheck("port", CheckStatus.OK, f"{endpoint.host}:{endpoint.port} answers in {took}{via}")


def _trust(endpoint: Endpoint, shown: PeerCertificate, now: datetime) -> DoctorCheck:
    """Whether the endpoint trusts the certificate; the fingerprint is always shown."""
    owner, until = shown.subject, f"valid until {shown.not_after:%Y-%m-%d}"
    detail = f"{owner}, SHA-256 {format_fingerprint(shown.sha256)}, {until}"
    connection = open_connection(endpoint)
    try:
        connection.connect()
    except HyperSDKError as exc:
        return DoctorCheck("certificate", CheckStatus.FAIL, f"{exc.message}; {owner}, {until}", exc.remedies)
    finally:
        connection.close()
    if endpoint.tls.insecure and endpoint.tls.thumbprint is None:
        pin = TrustCertificate(format_fingerprint(shown.sha256))
        return DoctorCheck("certificate", CheckStatus.WARN, f"not verified: {detail}", (pin,))
    if shown.not_after - now < EXPIRES_SOON:
        return DoctorCheck(
            "certificate",
            CheckStatus.WARN,
            f"expires soon: {detail}",
            (Advice("Have it renewed; a pinned fingerprint changes with it."),),
        )
    return DoctorCheck("certificate", CheckStatus.OK, detail)


def _inside(
    session: Session, machine: str | None, cancel: CancelToken, now: Callable[[], datetime]
) -> Iterator[DoctorCheck]:
    """Checks that need a login. One that vSphere refuses is a finding of its own; the others continue."""
    moref = None
    if machine is not None:
        try:
            moref = look_up_one(session, machine, cancel=cancel, datacenter=session.endpoint.datacenter).moref
        except Cancelled:
            raise
        except HyperSDKError as exc:
            yield _failed("machine", exc)
    checks: dict[str, Callable[[], Iterator[DoctorCheck]]] = {
        "clock": lambda: _clock(session, now),
        "licence": lambda: _licence(session, cancel),
        "privileges": lambda: _privileges(session, moref, cancel),
        "hosts": lambda: _hosts(session, cancel),
        "datastores": lambda: _datastores(session, moref, cancel),
    }
    for name, check in checks.items():
        cancel.check()
        try:
            yield from check()
        except Cancelled:
            raise
        except HyperSDKError as exc:
            yield _failed(name, exc, CheckStatus.WARN)


def _clock(session: Session, now: Callable[[], datetime]) -> Iterator[DoctorCheck]:
    skew = session.server_time() - now()
    seconds = abs(skew.total_seconds())
    way = "ahead of" if skew > timedelta(0) else "behind"
    detail = f"the server's clock is {format_duration(seconds)} {way} this machine's"
    if seconds > MAX_SKEW.total_seconds():
        yield DoctorCheck("clock", CheckStatus.WARN, detail, (Advice("Synchronise both with the same NTP servers."),))
    else:
        yield DoctorCheck("clock", CheckStatus.OK, detail)


def _licence(session: Session, cancel: CancelToken) -> Iterator[DoctorCheck]:
    """A lone ESXi host on the free licence refuses every export."""
    if session.about.is_vcenter or session.content.licenseManager is None:
        return
    manager = session.content.licenseManager._moId
    licenses = read_one(session, "LicenseManager", manager, ["licenses"], cancel=cancel).items("licenses")
    editions = [child_text(item, "editionKey") or "" for item in licenses]
    if FREE_LICENCE in editions:
        advice = Advice("Give the host a license that includes the API, or add it to a vCenter.")
        yield DoctorCheck(
            "licence", CheckStatus.FAIL, "the host runs on the free licence, which refuses exports", (advice,)
        )
    else:
        yield DoctorCheck(
            "licence", CheckStatus.OK, ", ".join(edition for edition in editions if edition) or "no edition named"
        )


def _privileges(session: Session, moref: str | None, cancel: CancelToken) -> Iterator[DoctorCheck]:
    """One check per operation, on the objects where its privileges are granted: the machine and its datastores, or else
    every datacenter; or the root folder."""
    machines, stores, root = _scopes(session, moref, cancel)
    on_machine = [operation for operation in Operation if operation not in ON_ROOT | ON_DATASTORES]
    lacking = missing_privileges(session, machines, on_machine)
    lacking |= missing_privileges(session, stores, ON_DATASTORES)
    lacking |= missing_privileges(session, root, ON_ROOT)
    for operation in Operation:
        names = ", ".join(lacking.get(operation, ()))
        if not names:
            yield DoctorCheck(f"privileges: {operation}", CheckStatus.OK, "granted")
        else:
            status = CheckStatus.FAIL if operation in ESSENTIAL else CheckStatus.WARN
            advice = Advice(f"Have an administrator add {names} to the account's role.")
            yield DoctorCheck(f"privileges: {operation}", status, f"missing: {names}", (advice,))


def _scopes(session: Session, moref: str | None, cancel: CancelToken) -> tuple[list[Any], list[Any], list[Any]]:
    """The objects on which privileges are checked: for machines, for datastores, for the whole server."""
    root = [session.ref("Folder", session.content.rootFolder._moId)]
    if moref is not None:
        stores = read_datastores(session, moref, cancel=cancel)
        machine = [session.ref("VirtualMachine", moref)]
        return machine, [session.ref("Datastore", store.moref) for store in stores] or machine, root
    centers = _read_all(session, {"Datacenter": ("name",)}, cancel)
    found = [session.ref("Datacenter", item.moref) for item in centers] or root
    return found, found, root


def _read_all(session: Session, paths: dict[str, tuple[str, ...]], cancel: CancelToken) -> list[ObjectProperties]:
    """All objects of these types, with these properties."""
    return session.call(lambda: list(read_inventory(session, paths, cancel=cancel, keep=True)))


def _hosts(session: Session, cancel: CancelToken) -> Iterator[DoctorCheck]:
    """Whether the ESXi hosts can be reached: a disk stream comes from port 443 of the host that vCenter names in the
    lease."""
    if not session.about.is_vcenter:
        return
    hosts = _read_all(session, {"HostSystem": ("name", "runtime.connectionState")}, cancel)
    names = sorted(
        (decode_name(item.text("name") or item.moref), item.text("runtime.connectionState") or "") for item in hosts
    )
    pool = ThreadPoolExecutor(HOSTS_AT_ONCE, thread_name_prefix="doctor")
    try:
        for check in pool.map(lambda entry: _host(session.endpoint, *entry), names):
            cancel.check()
            yield check
    finally:
        pool.shutdown(cancel_futures=True)


def _host(endpoint: Endpoint, name: str, state: str) -> DoctorCheck:
    title = f"host {name}"
    if state != "connected":
        return DoctorCheck(
            title,
            CheckStatus.WARN,
            f"vCenter says it is {state or 'in an unknown state'}",
            (Advice("Reconnect it in vCenter."),),
        )
    started = time.monotonic()
    try:
        dial(name, HTTPS_PORT, proxy=http_proxy_for(endpoint, name), timeout_s=HOST_TIMEOUT_S).close()
    except OSError as exc:
        advice = Advice(
            f"Open port {HTTPS_PORT} from here to the host for full speed, and check that its name resolves here."
        )
        return DoctorCheck(
            title,
            CheckStatus.WARN,
            f"not reachable ({translate(exc, name).message}): its disks come through vCenter",
            (advice,),
        )
    return DoctorCheck(
        title, CheckStatus.OK, f"port {HTTPS_PORT} answers in {format_duration(time.monotonic() - started)}"
    )


def _datastores(session: Session, moref: str | None, cancel: CancelToken) -> Iterator[DoctorCheck]:
    """Whether the datastores have space for the delta of a temporary snapshot."""
    if moref is None:
        found = [datastore_facts(item) for item in _read_all(session, {"Datastore": DATASTORE}, cancel)]
    else:
        found = read_datastores(session, moref, cancel=cancel)
    for store in sorted(found, key=lambda facts: facts.name):
        yield _datastore(store)


def snapshot_floor(capacity_bytes: int) -> int:
    """Free bytes below which no snapshot is made: 10 % of the datastore, at least 20 GiB."""
    return max(capacity_bytes // 10, 20 * GiB)


def _datastore(store: DatastoreFacts) -> DoctorCheck:
    title = f"datastore {store.name}"
    if not store.accessible:
        return DoctorCheck(
            title,
            CheckStatus.WARN,
            "not accessible",
            (Advice("Make it accessible again: machines on it cannot be exported."),),
        )
    if store.free_bytes is None or store.capacity_bytes is None:
        return DoctorCheck(title, CheckStatus.WARN, "its free space is not known")
    detail = f"{format_size(store.free_bytes)} of {format_size(store.capacity_bytes)} free"
    if store.free_bytes < snapshot_floor(store.capacity_bytes):
        advice = Advice("Free space, or export its machines powered off: a running one needs a temporary snapshot.")
        return DoctorCheck(title, CheckStatus.WARN, detail, (advice,))
    return DoctorCheck(title, CheckStatus.OK, detail)


def _local_space(folder: Path) -> DoctorCheck:
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    try:
        usage = shutil.disk_usage(there)
    except OSError as exc:
        return DoctorCheck(
            "output",
            CheckStatus.FAIL,
            f"{folder} cannot be read: {exc.strerror}",
            (ChooseFolder(),),
        )
    return DoctorCheck("output", CheckStatus.OK, f"{format_size(usage.free)} free at {folder}")
