"""Job files as strangers write them: what is refused, and that it is refused at once."""

from __future__ import annotations

import pytest

from hypersdk.errors import UsageError
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
    monkeypatch.setattr(jobfile, "_nearest", looked.append)
    text = "{" + ",".join(f'"k{number:06}":1' for number in range(100_000)) + "}"
    (entry,) = load_jobs(text, content_type=JSON, environ={})
    assert entry.error is not None
    assert entry.error.code == "job_unknown_field"
    assert entry.error.message.endswith("; and 99996 more")
    assert looked == ["k000000", "k000001", "k000002", "k000003", "k000004"]
    fields = entry.error.fields["fields"]
    assert isinstance(fields, list)
    assert len(fields) == 100
