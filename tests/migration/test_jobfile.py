"""Job files as strangers write them: what is refused, and that it is refused at once."""

from __future__ import annotations

from typing import Any

import pytest

from hypersdk.errors import UsageError
from hypersdk.landing.jobfile import parse_import, parse_migration
from hypersdk.migration import jobfile
from hypersdk.migration.jobfile import load_jobs

JSON = "application/json"


def refused(text: str, content_type: str | None) -> str:
    """What is said of a text that is no job file."""
    with pytest.raises(UsageError) as caught:
        load_jobs(text, content_type=content_type, environ={})
    assert caught.value.code == "job_unreadable"
    return caught.value.message


@pytest.mark.timeout(30)
def test_a_field_given_twice_is_found_among_very_many_at_once() -> None:
    """Looking each of them up among all others would take minutes."""
    names = [*(f"k{number}" for number in range(200_000)), "k199999"]
    text = "{" + ",".join(f'"{name}":1' for name in names) + "}"
    assert refused(text, JSON) == "the field 'k199999' is given twice"


@pytest.mark.parametrize(
    ("text", "name"),
    [('{"a": 1, "b": 2, "a": 3}', "a"), ('{"a": 1, "b": 2, "b": 3, "a": 4}', "b"), ('[{"a": {"c": 1, "c": 1}}]', "c")],
)
def test_a_field_given_twice_is_named(text: str, name: str) -> None:
    assert refused(text, JSON) == f"the field '{name}' is given twice"


@pytest.mark.timeout(30)
def test_a_job_of_very_many_unknown_fields_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(jobfile, "_nearest", lambda _model, place: looked.append(place))
    text = "{" + ",".join(f'"k{number:06}":1' for number in range(100_000)) + "}"
    (entry,) = load_jobs(text, content_type=JSON, environ={})
    assert entry.error is not None
    assert entry.error.code == "job_unknown_field"
    assert entry.error.message.endswith("; and 99996 more")
    assert looked == ["k000000", "k000001", "k000002", "k000003", "k000004"]
    fields = entry.error.fields["fields"]
    assert isinstance(fields, list)
    assert len(fields) == 100


IMPORT: dict[str, Any] = {"kind": "import", "source": "/a/web.ova", "output_path": "/a/web", "to": "kvm"}
MIGRATION: dict[str, Any] = {"kind": "migrate", "vm_path": "web", "output_path": "/a/web", "to": "kvm"}


@pytest.mark.parametrize(
    ("job", "wrong", "near"),
    [
        (MIGRATION, {"netwoks": {}}, "networks"),
        (MIGRATION, {"remove_cdrom": True}, "options.remove_cdrom"),
        (MIGRATION, {"options": {"remove_cdrm": True}}, "options.remove_cdrom"),
        (MIGRATION, {"sorce": "shutdown"}, "options.source"),
        (IMPORT, {"sorce": "/a"}, "source"),
        (IMPORT, {"vm_pth": "web"}, None),
        (IMPORT, {"keys": [{"passphrase": "x", "sorce": "/dev/sda1"}]}, None),
    ],
)
def test_the_nearest_field_is_one_that_the_kind_has(
    job: dict[str, Any], wrong: dict[str, Any], near: str | None
) -> None:
    parse = parse_import if job is IMPORT else parse_migration
    with pytest.raises(UsageError) as caught:
        parse({**job, **wrong}, {})
    assert caught.value.code == "job_unknown_field"
    assert caught.value.message.partition("did you mean ")[2] == (f"'{near}'?)" if near else "")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keys": "secret"}, "keys: should be a list"),
        ({"keys": ["secret"]}, "keys.0: should be a set of fields"),
        ({"keys": [{"passphrase": 5}]}, "keys.0.passphrase: should be a text in quotes"),
        ({"networks": ["br0"]}, "networks: should be a set of fields"),
    ],
)
def test_a_wrong_shape_is_said_without_words_of_python_and_without_the_value(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_import({**IMPORT, **fields}, {})
    assert caught.value.message == message


def test_a_password_that_no_encoding_can_have_is_refused() -> None:
    """JSON can have half a character; it would only fail when it is sealed, or sent."""
    text = '{"vm_path": "web", "output_path": "/a", "vcenter": {"server": "vc", "password": "x\\ud800"}}'
    (entry,) = load_jobs(text, content_type=JSON, environ={})
    assert entry.error is not None
    assert (entry.error.code, entry.error.fields["field"]) == ("job_invalid", "vcenter.password")
