"""The login session on one vCenter or ESXi host: kept alive, renewed when it expires, shared by all threads of a
run."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from xml.parsers.expat import ExpatError

from lxml import etree

from hypersdk.errors import AccessError, Cancelled, ConnectError, HyperSDKError, UsageError, register
from hypersdk.loading import loading
from hypersdk.remedies import GiveLogin
from hypersdk.secret import Secret
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.answers import CALL, LOGIN
from hypersdk.vsphere.connection import TrustedConnection, open_connection
from hypersdk.vsphere.endpoint import Endpoint
from hypersdk.vsphere.faults import BAD_ANSWER, NOT_AUTHENTICATED, clean_text, translate

if TYPE_CHECKING:
    from hypersdk.vsphere.stub import SessionStub

T = TypeVar("T")

NO_PASSWORD: Final = register(
    "no_password",
    "There is no user name or password to log in with.",
    GiveLogin(),
)

KEEPALIVE_S: Final = 240.0
"""vCenter ends a session after 30 minutes without a call; a download does not count as one. Several failed calls fit
in between."""
CLOSE_WAIT_S: Final = 5.0
NEVER: Final = CancelToken()
"""Never cancelled: for single reads of callers that have no token."""
COOKIE: Final = "vmware_soap_session"


@dataclass(frozen=True, slots=True)
class About:
    """The server's description of itself. ``instance_uuid`` is that of a vCenter; an ESXi host has none."""

    name: str
    full_name: str
    version: str
    build: str
    api_version: str
    api_type: str
    instance_uuid: str | None

    @property
    def is_vcenter(self) -> bool:
        """vCenter, not a lone ESXi host."""
        return self.api_type == "VirtualCenter"


class Session(AbstractContextManager["Session"]):
    """A login session. Thread-safe; ``close`` (or leaving the ``with`` block) logs out.

    ``key`` changes when the session was renewed: leases and views of the old one no longer exist then. ``user`` is
    the account as the server writes it, like ``VSPHERE.LOCAL\\Administrator``.
    """

    def __init__(
        self, endpoint: Endpoint, stub: SessionStub, content: Any, keepalive_s: float, guard: Callable[[], None]
    ) -> None:
        self.endpoint: Final = endpoint
        self.stub: Final = stub
        self.content: Final = content
        self.about: Final = _about(content.about)
        self.key = ""
        self.user = ""
        self.detours: Final[set[str]] = set()
        """ESXi hosts that cannot be reached directly, so that their data is read through this server (see
        ``routes``)."""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._keepalive_s = keepalive_s
        self._guard = guard
        self.keepalive = threading.Thread(target=self._keep_alive, name="vsphere-keepalive", daemon=True)

    @classmethod
    def connect(
        cls,
        endpoint: Endpoint,
        *,
        cancel: CancelToken,
        keepalive_s: float = KEEPALIVE_S,
        guard: Callable[[], None] = lambda: None,
    ) -> Session:
        """Logs in. ``guard`` is called before every call, and raises when this process must no longer use the server.

        Raises ConnectError (no answer, not trusted, no vSphere), AccessError ``login_refused``, UsageError
        ``no_password``."""
        if not endpoint.username or endpoint.password is None:
            raise UsageError(f"no user name or password for {endpoint.address}", code=NO_PASSWORD)
        cancel.check()
        stub = _make_stub(endpoint, cancel)
        from pyVmomi import vim

        try:
            with _broken_off(cancel, stub.abort):
                content = _translated(
                    endpoint.address, lambda: vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
                )
                # What every login needs; pyVmomi leaves out what an answer leaves out.
                if not all((content.about, content.rootFolder, content.propertyCollector, content.sessionManager)):
                    raise _not_vsphere(endpoint.address)
                session = cls(endpoint, stub, content, keepalive_s, guard)
                stub.limits = LOGIN
                session._log_in()
                stub.limits = CALL
        except BaseException:
            stub.DropConnections()
            raise
        session.keepalive.start()
        return session

    def breakable(self, cancel: CancelToken) -> AbstractContextManager[None]:
        """In the block, a cancel also ends pending calls, and the session with them: a vCenter that hangs would block
        the caller for three minutes. For work that needs no undo."""
        return _broken_off(cancel, self.stub.abort)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, fn: Callable[[], T]) -> T:
        """Runs ``fn`` with all faults translated; when the session has expired, logs in again and runs it once more.

        So ``fn`` must look up its objects itself, by ``ref``. It is repeated only after NotAuthenticated, when the
        server has done nothing.
        """
        self._check_open()
        key = self.key
        try:
            return _translated(self.endpoint.address, fn)
        except AccessError as exc:
            if exc.code != NOT_AUTHENTICATED:
                raise
        self._log_in(instead_of=key)
        return _translated(self.endpoint.address, fn)

    def renew(self, instead_of: str) -> None:
        """Logs in again although the session seems valid, for when the data plane no longer accepts its cookie; unless
        another thread has already replaced the session with the key ``instead_of``. The old session is left to expire:
        other leases may belong to it."""
        self._log_in(instead_of, forget_cookie=True)

    def ref(self, type_name: str, moref: str) -> Any:
        """The managed object of a moref, like ``ref("VirtualMachine", "vm-42")``; no call is made. Type names are those
        on the wire."""
        from pyVmomi.VmomiSupport import GetWsdlType

        return GetWsdlType("urn:vim25", type_name)(moref, self.stub)

    def cookie_value(self) -> Secret:
        """The bare value of the session cookie, for downloads from the session's own host."""
        try:
            cookie = SimpleCookie(self.stub.cookie).get(COOKIE)
        except CookieError as exc:
            raise ConnectError("the server's session cookie cannot be read", code=BAD_ANSWER) from exc
        if cookie is None or not cookie.value:
            raise ConnectError("the server gave no session cookie", code=BAD_ANSWER)
        return Secret(cookie.value)

    def server_time(self) -> datetime:
        """The server's clock, in UTC."""
        now: datetime = self.call(lambda: self.ref("ServiceInstance", "ServiceInstance").CurrentTime())
        return now.astimezone(UTC)

    def close(self) -> None:
        """Ends the keep-alive and logs out. A server that cannot be reached is not an error: its session expires."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self.keepalive.is_alive() and self.keepalive is not threading.current_thread():
            self.keepalive.join(CLOSE_WAIT_S)
        with suppress(HyperSDKError):
            self._guard()
            _translated(
                self.endpoint.address, lambda: self.content.sessionManager.Logout()
            )  # fails at once after an abort
        self.stub.DropConnections()

    def _check_open(self) -> None:
        self._guard()
        if self._closing.is_set():
            raise AccessError(f"the session on {self.endpoint.address} is closed", code=NOT_AUTHENTICATED)

    def _log_in(self, instead_of: str = "", *, forget_cookie: bool = False) -> None:
        """Logs in, unless another thread has already replaced the session with the key ``instead_of``."""
        with self._lock:
            if self.key != instead_of:
                return
            self._check_open()
            if forget_cookie:
                self.stub.cookie = ""  # a login is refused while a session is valid
            password = self.endpoint.password
            assert password is not None  # checked by connect()
            user = _translated(
                self.endpoint.address,
                lambda: self.content.sessionManager.Login(self.endpoint.username, password.reveal(), None),
            )
            self.user = str(user.userName)
            self.key = str(user.key)

    def _keep_alive(self) -> None:
        """Asks for the server's time at intervals. An unreachable server is reported by the next real call; a refused
        login is not retried. A guard that raises now may allow the next call: only ``close`` ends it otherwise."""
        while not self._closing.wait(self._keepalive_s):
            try:
                with suppress(ConnectError, Cancelled):
                    self.server_time()
            except AccessError:
                return


@contextmanager
def _broken_off(cancel: CancelToken, abort: Callable[[], None]) -> Iterator[None]:
    """Calls ``abort`` when cancelled, and raises the errors that it causes as Cancelled."""
    try:
        with cancel.calling(abort):
            yield
    except ConnectError:
        cancel.check()
        raise
    cancel.check()


def _translated(peer: str, fn: Callable[[], T]) -> T:
    """``fn()``; vSphere faults and failed connections to ``peer`` are raised as HyperSDKError."""
    from pyVmomi import vmodl

    try:
        return fn()
    except (vmodl.MethodFault, OSError, http.client.HTTPException, ExpatError) as exc:
        raise translate(exc, peer) from exc


def _not_vsphere(peer: str, status: str = "") -> ConnectError:
    return ConnectError(f"{peer} does not answer like a vSphere API{status}", code=BAD_ANSWER)


def _about(info: Any) -> About:
    return About(
        name=str(info.name),
        full_name=str(info.fullName),
        version=str(info.version),
        build=str(info.build),
        api_version=str(info.apiVersion),
        api_type=str(info.apiType),
        instance_uuid=info.instanceUuid or None,
    )


def _make_stub(endpoint: Endpoint, cancel: CancelToken) -> SessionStub:
    """A stub for the newest version of the API that both sides support; it reuses the connection that asked for the
    versions."""
    connection = open_connection(endpoint)
    try:
        with _broken_off(cancel, connection.abort):
            document = _translated(endpoint.address, lambda: _service_versions(connection))
        from hypersdk.vsphere.stub import SessionStub, api_versions

        offered = _offered_versions(document, endpoint)
        version = next((name for name, number in api_versions() if number in offered), None)
        if version is None:
            raise ConnectError(
                f"{endpoint.address} offers no version of the vSphere API that is supported", code=BAD_ANSWER
            )
    except BaseException:
        connection.close()
        raise
    stub = SessionStub(endpoint.address, version, lambda: open_connection(endpoint))
    stub.ReturnConnection(connection)
    return stub


def _service_versions(connection: TrustedConnection) -> bytes:
    connection.request("GET", "/sdk/vimServiceVersions.xml")
    with loading():
        import hypersdk.vsphere.stub  # noqa: F401 - while the server answers

    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise _not_vsphere(connection.host, f" (status {answer.status} {clean_text(answer.reason)})")
    return body


def _offered_versions(document: bytes, endpoint: Endpoint) -> set[str]:
    """Version numbers in a ``vimServiceVersions.xml``: those of ``urn:vim25``, current and prior."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(document, parser)
    except etree.XMLSyntaxError as exc:
        raise _not_vsphere(endpoint.address) from exc
    spaces = [space for space in root.findall("namespace") if space.findtext("name") == "urn:vim25"]
    return {version.text or "" for space in spaces for version in space.iter("version")}
