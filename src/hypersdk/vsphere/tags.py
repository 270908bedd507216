"""The machines that carry a tag, from vCenter's Automation API (``/rest/com/vmware/cis``: 6.5 and later).

Tags are not part of the SOAP API. This API has a login of its own, with the same account::

    POST   session                              name and password ──> an id, sent with every other request
    GET    tagging/tag, tagging/tag/id:ID       ids of all tags; name and category of one
    GET    tagging/category/id:ID               name of a category
    POST   tagging/tag-association?~action=...  objects that carry a tag
    DELETE session

An ESXi host has no tags.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from urllib.parse import quote

from hypersdk.errors import AccessError, HyperSDKError, LookupFailed, SourceError, register
from hypersdk.transfer.cancel import CancelToken
from hypersdk.vsphere.answers import CALL, LOGIN
from hypersdk.vsphere.connection import TrustedConnection, open_connection
from hypersdk.vsphere.faults import BAD_ANSWER, LOGIN_REFUSED, clean_text, translate
from hypersdk.vsphere.http import HTTP_REFUSED
from hypersdk.vsphere.inventory import AMBIGUOUS
from hypersdk.vsphere.session import Session

ROOT: Final = "/rest/com/vmware/cis"
SESSION: Final = f"{ROOT}/session"
TAGS: Final = f"{ROOT}/tagging/tag"
CATEGORIES: Final = f"{ROOT}/tagging/category"
OBJECTS: Final = f"{ROOT}/tagging/tag-association?~action=list-attached-objects-on-tags"
SESSION_HEADER: Final = "vmware-api-session-id"
MAX_TAGS: Final = 20_000
_MAX_NAMED: Final = 12

TAGS_UNAVAILABLE: Final = register(
    "tags_unavailable",
    "The server has no tags: an ESXi host has none, and a vCenter offers them from version 6.5 on.",
    "Select the machines by name, by folder or with a filter.",
)
TAG_NOT_FOUND: Final = register(
    "tag_not_found",
    "No tag has that name, or the account may not see it.",
    "Check the spelling in the vSphere client; a tag of a certain category is written CATEGORY:NAME.",
)


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag. Names are unique within a category."""

    id: str
    name: str
    category_id: str


def tagged_machines(session: Session, names: Iterable[str], *, cancel: CancelToken) -> set[str]:
    """Morefs of the machines that carry at least one of the tags ``names``, each a tag's name or ``CATEGORY:NAME``.

    Raises LookupFailed: ``tags_unavailable``, ``tag_not_found``, ``ambiguous``; AccessError, ConnectError and
    Cancelled.
    """
    if not session.about.is_vcenter:
        raise LookupFailed(f"{session.endpoint.address} is an ESXi host: it has no tags", code=TAGS_UNAVAILABLE)
    with _connected(session, cancel) as api:
        ids = [api.find(name).id for name in names]
        return api.machines(ids)


@contextmanager
def _connected(session: Session, cancel: CancelToken) -> Iterator[_TagApi]:
    connection = open_connection(session.endpoint)
    try:
        with cancel.calling(connection.abort):
            api = _TagApi(session, connection, cancel)
            api.log_in()
            try:
                yield api
            finally:  # a server allows an account a limited number of sessions
                api.log_out()
    except (OSError, http.client.HTTPException) as error:
        cancel.check()  # which ends the connection
        raise translate(error, session.endpoint.address) from error
    finally:
        connection.close()


class _TagApi:
    """The requests, on one connection. They raise OSError and HTTPException where that breaks."""

    def __init__(self, session: Session, connection: TrustedConnection, cancel: CancelToken) -> None:
        self._endpoint = session.endpoint
        self._connection = connection
        self._cancel = cancel
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}

    def log_in(self) -> None:
        """Raises AccessError and LookupFailed ``tags_unavailable``."""
        password = self._endpoint.password
        assert password is not None  # the session has logged in with it
        login = base64.b64encode(f"{self._endpoint.username}:{password.reveal()}".encode()).decode()
        self._connection.limits = LOGIN
        token = self._value("POST", SESSION, headers={"Authorization": f"Basic {login}"})
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise self._bad_answer()
        self._headers[SESSION_HEADER] = token
        self._connection.limits = CALL

    def log_out(self) -> None:
        """An unused session expires by itself, so a failure is not an error."""
        with suppress(OSError, http.client.HTTPException, HyperSDKError):
            self._request("DELETE", SESSION)

    @cached_property
    def tags(self) -> Sequence[Tag]:
        """All tags, read one by one: the API has no other way."""
        ids = self._texts(self._value("GET", TAGS))
        if len(ids) > MAX_TAGS:
            raise self._bad_answer()
        return [self._tag(id_) for id_ in ids]

    def find(self, wanted: str) -> Tag:
        """The tag ``NAME`` or ``CATEGORY:NAME``. Both parts may contain colons."""
        found = [tag for tag in self.tags if tag.name == wanted]
        found = found or [tag for tag in self.tags if self._is_called(tag, wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            candidates = [f"{self._category(tag.category_id)}:{tag.name}" for tag in found[:_MAX_NAMED]]
            raise LookupFailed(
                f"'{wanted}' means {len(found)} tags: {', '.join(candidates)}",
                code=AMBIGUOUS,
                next_step="Name it as CATEGORY:NAME.",
                candidates=candidates,
            )
        known = sorted({tag.name for tag in self.tags})
        hint = f" (there are: {', '.join(known[:_MAX_NAMED])})" if known else " (there are none)"
        raise LookupFailed(f"no tag is called '{wanted}'{hint}", code=TAG_NOT_FOUND)

    def machines(self, ids: Sequence[str]) -> set[str]:
        """Morefs of the machines that carry one of the tags."""
        rows = self._value("POST", OBJECTS, body={"tag_ids": list(ids)})
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._bad_answer()
        objects = [found for row in rows for found in row.get("object_ids") or () if isinstance(found, dict)]
        return {str(found.get("id")) for found in objects if found.get("type") == "VirtualMachine"}

    def _is_called(self, tag: Tag, wanted: str) -> bool:
        return wanted.endswith(f":{tag.name}") and wanted == f"{self._category(tag.category_id)}:{tag.name}"

    def _tag(self, id_: str) -> Tag:
        self._cancel.check()
        facts = self._facts(f"{TAGS}/id:{quote(id_, safe=':')}")
        return Tag(id_, self._text(facts.get("name")), self._text(facts.get("category_id")))

    def _category(self, id_: str) -> str:
        return self._text(self._facts(f"{CATEGORIES}/id:{quote(id_, safe=':')}").get("name"))

    def _facts(self, path: str) -> dict[str, Any]:
        value = self._value("GET", path)
        if not isinstance(value, dict):
            raise self._bad_answer()
        return value

    def _texts(self, value: object) -> list[str]:
        if value is None:  # none
            return []
        if not isinstance(value, list):
            raise self._bad_answer()
        return [self._text(text) for text in value]

    def _text(self, value: object) -> str:
        if not isinstance(value, str):
            raise self._bad_answer()
        return value

    def _value(self, method: str, path: str, *, body: object = None, headers: dict[str, str] | None = None) -> Any:
        """The ``value`` of the answer."""
        status, data = self._request(method, path, body=body, headers=headers or {})
        if status == http.HTTPStatus.NOT_FOUND:
            raise LookupFailed(f"{self._endpoint.address} offers no tags", code=TAGS_UNAVAILABLE)
        if status == http.HTTPStatus.UNAUTHORIZED:
            raise AccessError(f"{self._endpoint.address} refused the login for its tags", code=LOGIN_REFUSED)
        if status == http.HTTPStatus.FORBIDDEN:
            raise AccessError(f"the account may not read the tags of {self._endpoint.address}")
        if status != http.HTTPStatus.OK:
            said = clean_text(data[:400].decode("utf-8", "replace"))
            message = f"{self._endpoint.address} answered {status} when its tags were read: {said}"
            raise SourceError(message, code=HTTP_REFUSED, status=status)
        try:
            return json.loads(data)["value"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._bad_answer() from None

    def _request(
        self, method: str, path: str, *, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {**self._headers, **(headers or {})})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _bad_answer(self) -> SourceError:
        return SourceError(f"the tags of {self._endpoint.address} cannot be read", code=BAD_ANSWER)
