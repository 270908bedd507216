"""A column that is declared in one place is in the SQL, the parameters, the answer, the client's record and the
table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from hypersdk.api.listing import PageQuery, query_of
from hypersdk.api.views import View, view_of
from hypersdk.cli.columns import table
from hypersdk.client import DaemonError
from hypersdk.client.records import decode
from hypersdk.resource import ListColumn, ListRecord, Resource, TableColumn
from hypersdk.state.pages import Listing


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(ListRecord):
    """A toy."""

    name: Annotated[str, ListColumn(part=True, table=TableColumn("Name", 1))]
    full: Annotated[bool, ListColumn("No space is left", facet=True, table=TableColumn("Full", 3))] = False
    load: Annotated[float, ListColumn(bounds=(0, 100), digits=1)] = 0.0
    made_at: Annotated[datetime | None, ListColumn(table=TableColumn("Made", 2))] = None
    inside: Annotated[int, ListColumn(internal=True)] = 0


VOLUMES = Resource("volumes", Volume, key="name", sort="-made_at")
ROWS = sa.Table(
    "volumes",
    sa.MetaData(),
    *(sa.Column(name, kind) for name, kind in (("name", sa.Text), ("full", sa.Boolean), ("load", sa.Double))),
    sa.Column("made_at", sa.Double),
    sa.Column("inside", sa.Integer),
)


@query_of(VOLUMES)
class VolumeQuery(PageQuery):
    """Of the toy."""


@view_of(Volume)
class VolumeView(View):
    """Of the toy."""


def test_the_parameters_follow_from_the_types_and_find_the_rows() -> None:
    given = {"name": "A", "full": "true", "load_max": 5.04, "made_after": "1970-01-01T00:00:01Z", "sort": "load"}
    found = Listing(VOLUMES, ROWS).conditions(VolumeQuery.model_validate(given).where())
    assert sorted(str(one.compile(compile_kwargs={"literal_binds": True})) for one in found) == [
        "lower(volumes.name) LIKE '%' || lower('A') || '%' ESCAPE '/'",
        'volumes."full" IN (true)',
        "volumes.load < 5.09",
        "volumes.made_at >= 0.9999995",
    ]
    assert VolumeQuery.model_validate({}).sort == "-made_at"
    for wrong in ({"inside_min": 1}, {"sort": "inside"}, {"load_max": 101}):
        with pytest.raises(ValidationError):
            VolumeQuery.model_validate(wrong)


def test_a_row_becomes_the_record_the_answer_and_the_clients_record() -> None:
    stored = Listing(VOLUMES, ROWS).record(("a", 1, 1.26, 2.5, 7))
    assert stored == Volume(name="a", full=True, load=1.26, made_at=datetime.fromtimestamp(2.5, UTC), inside=7)
    answer = VolumeView.model_validate(stored).model_dump()
    assert answer == {"name": "a", "full": True, "load": 1.3, "made_at": "1970-01-01T00:00:02.500000Z"}
    received = decode(Volume, {**answer, "newer": 1})
    assert received == Volume(name="a", full=True, load=1.3, made_at=stored.made_at)
    assert received.raw["newer"] == 1
    assert decode(Volume, {"name": "a"}) == Volume(name="a"), "an older daemon does not send all columns"
    with pytest.raises(DaemonError, match="'name'"):
        decode(Volume, {"full": True})


def test_the_table_has_the_declared_columns_in_their_places() -> None:
    lines = table([Volume(name="a", full=True)], Volume, None).plain.splitlines()
    assert [line.split() for line in lines] == [["Name", "Made", "Full"], ["a", "-", "yes"]]


def test_a_column_without_one_in_the_database_is_found_at_the_start() -> None:
    with pytest.raises(KeyError, match="inside"):
        Listing(VOLUMES, sa.Table("volumes", sa.MetaData(), *(sa.Column(c.name, c.type) for c in list(ROWS.c)[:-1])))
