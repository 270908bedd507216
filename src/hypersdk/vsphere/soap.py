"""Reading properties in bulk: PropertyCollector replies decoded straight from their XML.

pyVmomi decodes about 1,500 machines a second and fails on an unknown type or enum value; a reply read as plain XML is
several times faster, and unknown parts are ignored. Requests are still written by pyVmomi, and the reply comes over one
of its pooled connections, so it is the same session.
"""

from __future__ import annotations

import http.client
import io
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from lxml import etree

from hypersdk.errors import ConnectError, HyperSDKError, LookupFailed
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from hypersdk.vsphere.answers import PROPERTIES
from hypersdk.vsphere.faults import BAD_ANSWER, OBJECT_GONE, clean_text, fault_error, lineage
from hypersdk.vsphere.session import Session

VIM: Final = "{urn:vim25}"
XSI_TYPE: Final = "{http://www.w3.org/2001/XMLSchema-instance}type"
PAGE_SIZE: Final = 500
MAX_OBJECT_BYTES: Final = 4 * MiB
"""Limit per object: a machine with 60 disks and a long tree of snapshots takes a few hundred KiB."""
MAX_OBJECTS: Final = 200_000
"""Limit per read: four times as many as the machines that a vCenter can manage."""
MAX_PAGES: Final = 10_000
_FAULT: Final = "{http://schemas.xmlsoap.org/soap/envelope/}Fault"


Element: TypeAlias = etree._Element  # lxml has no public name for it


@dataclass(frozen=True, slots=True)
class ObjectProperties:
    """One object of a reply: its type, moref and the values that are set, by property path. Values are XML elements:
    see ``text`` and friends."""

    kind: str
    moref: str
    values: Mapping[str, Element]

    def text(self, path: str) -> str | None:
        """The value as text; None when unset."""
        element = self.values.get(path)
        return None if element is None else element.text

    def number(self, path: str) -> int | None:
        """The value as a whole number; None when unset or not a number."""
        return to_int(self.text(path))

    def flag(self, path: str) -> bool:
        """Whether the value is set and true."""
        return self.text(path) == "true"

    def items(self, path: str) -> list[Element]:
        """The entries of an array; empty when unset."""
        element = self.values.get(path)
        return [] if element is None else list(element)


def local(tag: str) -> str:
    """A tag or type name without namespace or prefix."""
    return tag.rpartition("}")[2].rpartition(":")[2]


def kind_of(element: Element | None) -> str:
    """The ``xsi:type`` of a value, without prefix; empty when it has none."""
    return "" if element is None else local(element.get(XSI_TYPE) or "")


def child(element: Element | None, *names: str) -> Element | None:
    """The element down the path ``names``; None where a step is missing."""
    for name in names:
        if element is None:
            return None
        element = element.find(VIM + name)
    return element


def children(element: Element | None, name: str) -> list[Element]:
    """All direct children called ``name``."""
    return [] if element is None else [item for item in element if item.tag == VIM + name]


def child_text(element: Element | None, *names: str) -> str | None:
    """Text of the element down the path ``names``; None where a step is missing."""
    found = child(element, *names)
    return None if found is None else found.text


def to_int(text: str | None) -> int | None:
    """A whole number of at most 20 digits, else None."""
    if text is None or len(text) > 20:
        return None
    try:
        return int(text)
    except ValueError:
        return None


def parse_time(text: str | None) -> datetime | None:
    """An ``xsd:dateTime`` in UTC; one without a zone is UTC. None when unset or not valid."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text.strip()[:40])
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def traversal(kind: str, path: str, *, name: str | None = None, then: Iterable[str] = ()) -> Any:
    """A TraversalSpec: from objects of type ``kind`` along the reference property ``path``, and on by the traversals
    with the names ``then``."""
    from pyVmomi import vmodl
    from pyVmomi.VmomiSupport import GetWsdlType

    collector = vmodl.query.PropertyCollector
    following = [collector.SelectionSpec(name=step) for step in then]
    return collector.TraversalSpec(
        name=name, type=GetWsdlType("urn:vim25", kind), path=path, skip=False, selectSet=following
    )


def filter_spec(
    roots: Iterable[Any], paths: Mapping[str, Iterable[str]], *, select: Sequence[Any] = (), skip: bool = False
) -> Any:
    """A FilterSpec: the properties ``paths`` (by type name) of the objects ``roots``, unless ``skip``, and of those
    that the traversals ``select`` reach from them."""
    from pyVmomi import vmodl
    from pyVmomi.VmomiSupport import GetWsdlType

    collector = vmodl.query.PropertyCollector
    properties = [
        collector.PropertySpec(type=GetWsdlType("urn:vim25", kind), pathSet=list(names))
        for kind, names in paths.items()
    ]
    objects = [collector.ObjectSpec(obj=root, skip=skip, selectSet=list(select)) for root in roots]
    return collector.FilterSpec(propSet=properties, objectSet=objects)


def read_objects(
    session: Session, spec: Any, *, cancel: CancelToken, page_size: int = PAGE_SIZE, keep: bool = False
) -> Generator[ObjectProperties]:
    """All objects that the filter spec selects, page by page, each decoded when it is reached.

    A page's token comes before its objects, so the next page is requested on another connection before they are
    decoded: the server prepares it meanwhile. It waits there and in the socket, so at most two pages exist.
    Values are freed when the next object is requested, unless ``keep``. Iterate inside ``Session.call``, which
    translates faults; a reply that is not read to its end closes its connection.
    """
    from pyVmomi import vmodl

    collector = session.ref("PropertyCollector", session.content.propertyCollector._moId)
    options = vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=page_size)
    reply = _Reply(session, collector, "RetrievePropertiesEx", ([spec], options))
    following: _Reply | None = None
    count = 0
    try:
        for pages_left in reversed(range(MAX_PAGES)):
            for item in reply.objects(cancel, keep):
                if following is None and reply.token is not None and pages_left:
                    following = _Reply(session, collector, "ContinueRetrievePropertiesEx", (reply.token,))
                count += 1
                if count > MAX_OBJECTS:
                    raise ConnectError(f"the server's answer has more than {MAX_OBJECTS} objects", code=BAD_ANSWER)
                yield item
            if reply.token is None:
                return
            if not pages_left:
                raise ConnectError(f"the server's answer has more than {MAX_PAGES} pages", code=BAD_ANSWER)
            cancel.check()
            # A server may write the token behind the objects.
            reply = following or _Reply(session, collector, "ContinueRetrievePropertiesEx", (reply.token,))
            following = None
    finally:
        if following is not None:
            following.drop()


def read_one(session: Session, kind: str, moref: str, paths: Sequence[str], *, cancel: CancelToken) -> ObjectProperties:
    """Properties ``paths`` of one object, in one ``Session.call`` of its own. Raises LookupFailed ``object_gone``."""

    found = read_list(session, lambda: filter_spec([session.ref(kind, moref)], {kind: paths}), cancel=cancel)
    if not found:
        raise LookupFailed(f"{kind} {moref} is gone", code=OBJECT_GONE, object=f"{kind}:{moref}")
    return found[0]


def read_linked(
    session: Session, kind: str, moref: str, link: str, target: str, paths: Sequence[str], *, cancel: CancelToken
) -> list[ObjectProperties]:
    """Properties ``paths`` of the objects of type ``target`` that the property ``link`` of one object names, in one
    ``Session.call`` of its own. Raises LookupFailed ``object_gone`` for that object."""

    def spec() -> Any:
        return filter_spec([session.ref(kind, moref)], {target: paths}, select=[traversal(kind, link)], skip=True)

    return read_list(session, spec, cancel=cancel)


def read_list(session: Session, spec: Callable[[], Any], *, cancel: CancelToken) -> list[ObjectProperties]:
    """All objects that ``spec()`` selects, in one ``Session.call`` of its own."""
    return session.call(lambda: list(read_objects(session, spec(), cancel=cancel, keep=True)))


def read_inventory(
    session: Session,
    paths: Mapping[str, Iterable[str]],
    *,
    cancel: CancelToken,
    page_size: int = PAGE_SIZE,
    keep: bool = False,
) -> Generator[ObjectProperties]:
    """The properties ``paths`` (by type name) of all objects of these types, everywhere; otherwise as
    ``read_objects``."""
    from pyVmomi.VmomiSupport import GetWsdlType

    content = session.content
    types = [GetWsdlType("urn:vim25", kind) for kind in paths]
    view = content.viewManager.CreateContainerView(container=content.rootFolder, type=types, recursive=True)
    try:
        spec = filter_spec([view], paths, select=[traversal("ContainerView", "view")], skip=True)
        yield from read_objects(session, spec, cancel=cancel, page_size=page_size, keep=keep)
    finally:
        view.DestroyView()


class _Reply:
    """One call, sent when it is made, and its reply, decoded while it is read; ``token`` (known with the first object
    or at the end) continues with the next page."""

    def __init__(self, session: Session, collector: Any, method: str, arguments: tuple[Any, ...]) -> None:
        self._stub = session.stub
        self._element = f"{VIM}{method}Response"
        self.token: str | None = None
        body = self._stub.SerializeRequest(collector, collector._GetMethodInfo(method), arguments)
        self._connection = self._stub.GetConnection()
        self._connection.limits = PROPERTIES
        try:
            self._send(body)
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Closes the connection of a reply that is not read to its end."""
        self._connection.close()

    def objects(self, cancel: CancelToken, keep: bool) -> Iterator[ObjectProperties]:
        """The objects of the reply. To be called once."""
        try:
            answer = self._answer()
            yield from self._decode(answer, cancel, keep)
            answer.read()
        except BaseException:  # GeneratorExit too: the reply was not read to its end
            self.drop()
            raise
        self._stub.ReturnConnection(self._connection)

    def _send(self, body: Any) -> None:
        headers = {
            "Cookie": self._stub.cookie,
            "SOAPAction": self._stub.versionId,
            "Content-Type": "text/xml; charset=UTF-8",
        }
        self._connection.request("POST", self._stub.path, body, headers)

    def _answer(self) -> http.client.HTTPResponse:
        answer: http.client.HTTPResponse = self._connection.getresponse()
        if answer.status not in (200, 500):
            raise ConnectError(f"the server answered with status {answer.status}", code=BAD_ANSWER)
        return answer

    def _decode(self, answer: http.client.HTTPResponse, cancel: CancelToken, keep: bool) -> Iterator[ObjectProperties]:
        """A fault is recognized by what the answer holds, not by its status: some servers send it with 200."""
        source = _Bounded(answer)
        events = etree.iterparse(
            source,
            events=("end",),
            tag=(VIM + "objects", VIM + "token", self._element, _FAULT),
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
        )
        answered = False
        try:
            for _, element in events:
                if element.tag == _FAULT:
                    raise _soap_fault(etree.tostring(element.getroottree()), self._stub)
                if element.tag == self._element:
                    answered = True
                elif element.tag == VIM + "token":
                    self.token = element.text
                else:
                    cancel.check()
                    source.next_object()
                    yield _object(element)
                    if not keep:
                        _forget(element)
        except etree.XMLSyntaxError as exc:
            raise ConnectError(f"the server's answer is not valid XML: {exc.msg}", code=BAD_ANSWER) from exc
        if not answered:
            raise ConnectError("the server's answer does not contain the requested data", code=BAD_ANSWER)


class _Bounded(io.RawIOBase):
    """The body of an answer; no more than ``MAX_OBJECT_BYTES`` are read per object."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        super().__init__()
        self._answer = answer
        self._left = MAX_OBJECT_BYTES

    def next_object(self) -> None:
        """Resets the count after a complete object."""
        self._left = MAX_OBJECT_BYTES

    def read(self, size: int = -1) -> bytes:
        """The next bytes; b"" at the end."""
        data = self._answer.read(max(size, 64 * 1024))
        self._left -= len(data)
        if self._left < 0:
            raise ConnectError(
                f"an object in the server's answer is larger than {MAX_OBJECT_BYTES} bytes", code=BAD_ANSWER
            )
        return data


def _object(element: Any) -> ObjectProperties:
    """Decodes an ``ObjectContent``. A property that may not be read is unset; an expired session is raised."""
    reference: Any = None
    values: dict[str, Element] = {}
    for item in element:
        tag = item.tag
        if tag == VIM + "propSet":
            name, value = item.find(VIM + "name"), item.find(VIM + "val")
            if name is not None and value is not None:
                values[name.text] = value
        elif tag == VIM + "obj":
            reference = item
        elif tag == VIM + "missingSet":
            _check_missing(item)
    if reference is None:
        raise ConnectError("the server's answer names no object", code=BAD_ANSWER)
    return ObjectProperties(local(reference.get("type") or ""), reference.text or "", values)


def _check_missing(item: Any) -> None:
    if kind_of(child(item, "fault", "fault")) == "NotAuthenticated":
        raise fault_error(["NotAuthenticated"], child_text(item, "fault", "localizedMessage"))


def _forget(element: Any) -> None:
    """Frees a decoded object and its preceding siblings."""
    element.clear()
    parent = element.getparent()
    while element.getprevious() is not None:
        del parent[0]


def _soap_fault(body: bytes, stub: Any) -> BaseException:
    """The fault in the body of an answer, as pyVmomi raises it."""
    from pyVmomi.SoapAdapter import SoapResponseDeserializer

    try:
        fault = SoapResponseDeserializer(stub).Deserialize(body, object)
    except (KeyError, AttributeError, TypeError, ValueError) as exc:
        raise ConnectError("the server's fault cannot be decoded", code=BAD_ANSWER) from exc
    return fault if isinstance(fault, Exception) else ConnectError("the server failed without a fault", code=BAD_ANSWER)


def localized_fault(element: Element) -> HyperSDKError:
    """The HyperSDKError for a ``LocalizedMethodFault`` (a task's or lease's ``error``)."""
    from pyVmomi.VmomiSupport import GetWsdlType

    fault = child(element, "fault")
    name = kind_of(fault)
    try:
        names = lineage(GetWsdlType("urn:vim25", name))
    except KeyError:
        names = [name or "unknown fault"]
    fields: dict[str, object] = {}
    if privilege := child_text(fault, "privilegeId"):
        fields["privilege"] = privilege
    if file := child_text(fault, "file"):
        fields["file"] = clean_text(file)
    return fault_error(names, child_text(element, "localizedMessage"), **fields)
