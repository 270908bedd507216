"""``/folder``: authentication, ranges, and files that are only sometimes readable."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.simulator import DiskSpec, MachineSpec, Simulator
from hypersdk.simulator.machine import SimulatedMachine, take_snapshot
from hypersdk.units import MiB
from tests.support.seeds import examples
from tests.support.simulatorclients import get, login, request, session_id, simulated, soap_login

SIZE = 2 * MiB + 512
MACHINES = (
    MachineSpec("vm", (DiskSpec(SIZE, allocated_bytes=MiB),)),
    MachineSpec("on", (DiskSpec(MiB),), power="poweredOn"),
)


def flat(name: str) -> str:
    return f"/folder/{name}/{name}-flat.vmdk?dcPath=Amsterdam&dsName=nvme-prod-01"


class Content(bytes):
    """A disk's bytes, not to be shown whole."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def cookie(server: Simulator) -> dict[str, str]:
    return {"Cookie": f"vmware_soap_session={soap_login(server)}"}


@pytest.fixture(scope="module")
def content(server: Simulator, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    server.write_raw("vm", 0, path)
    return Content(path.read_bytes())


def test_who_gets_in(server: Simulator, cookie: dict[str, str]) -> None:
    basic = base64.b64encode(f"{server.username}:{server.password}".encode()).decode()
    wrong = base64.b64encode(b"x:y").decode()
    value = cookie["Cookie"].partition("=")[2]
    for headers, status in (
        ({}, 401),
        ({"Authorization": f"Basic {wrong}"}, 401),
        ({"Cookie": "vmware_soap_session=nope"}, 401),
        (cookie, 200),
        ({"Cookie": f'vmware_soap_session="{value}"; Path=/; HttpOnly'}, 200),
        ({"Authorization": f"Basic {basic}"}, 200),
    ):
        assert get(server, flat("vm"), headers).status == status, headers
    got = request(server, "HEAD", flat("vm"), {"Authorization": f"Basic {basic}"})
    session = got.headers["set-cookie"].partition(";")[0]
    assert get(server, flat("vm"), {"Cookie": session}).status == 200, "the cookie of the answer lets in from then on"
    assert (got.headers["content-length"], got.headers["accept-ranges"]) == (str(SIZE), "bytes")


@examples(60)
@given(first=st.integers(0, SIZE + 10), last=st.one_of(st.none(), st.integers(0, SIZE + 10)))
def test_ranges(server: Simulator, cookie: dict[str, str], content: bytes, first: int, last: int | None) -> None:
    asked = f"bytes={first}-{'' if last is None else last}"
    got = get(server, flat("vm"), cookie | {"Range": asked})
    want = content[first : None if last is None else last + 1]
    if not want:
        assert (got.status, got.headers["content-range"]) == (416, f"bytes */{SIZE}")
    else:
        assert (got.status, got.body == want) == (206, True)
        assert got.headers["content-range"] == f"bytes {first}-{first + len(want) - 1}/{SIZE}"


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=-1", 206, slice(-1, None)),
        (f"bytes=-{SIZE * 2}", 206, slice(None)),
        ("bytes=-0", 416, None),
        ("bytes=0-0,5-6", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("bytes=5-4", 416, None),
    ],
)
def test_odd_ranges(
    server: Simulator, cookie: dict[str, str], content: bytes, asked: str, status: int, part: slice | None
) -> None:
    got = get(server, flat("vm"), cookie | {"Range": asked})
    assert got.status == status
    if part is not None:
        assert got.body == content[part]


def test_validators(server: Simulator, cookie: dict[str, str]) -> None:
    with simulated(machines=MACHINES) as own:
        entry = {"Cookie": f"vmware_soap_session={soap_login(own)}", "Range": "bytes=0-9"}
        first = get(own, flat("vm"), entry)
        for name in ("etag", "last-modified"):
            assert get(own, flat("vm"), entry | {"If-Range": first.headers[name]}).status == 206
        for nonsense in ('"x"', "yesterday", "Mon, 01 Jan 2024 00:00:00 -0000", "Mon, 01 Jan 99999 00:00:00 GMT"):
            assert get(own, flat("vm"), entry | {"If-Range": nonsense}).status == 200
        own.change_disk("vm", 0, [0])
        later = get(own, flat("vm"), entry | {"If-Range": first.headers["etag"]})
        assert (later.status, len(later.body)) == (200, SIZE)
        assert later.headers["etag"] != first.headers["etag"]


def test_a_running_machine_locks_its_disk_until_a_snapshot_frees_it(server: Simulator, cookie: dict[str, str]) -> None:
    assert get(server, flat("on"), cookie).status == 500
    with server.platform.world.lock:
        snapshot = take_snapshot(server.vm("on"), "s", "")
    assert get(server, flat("on"), cookie).status == 200
    with server.platform.world.lock:
        snapshot.remove(children=False)
    assert get(server, flat("on"), cookie).status == 500


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/folder/vm/none.vmdk?dcPath=Amsterdam&dsName=nvme-prod-01", 404),
        ("/folder/vm/vm-flat.vmdk?dcPath=Berlin&dsName=nvme-prod-01", 404),
        ("/folder/vm/vm-flat.vmdk?dcPath=Amsterdam&dsName=x", 404),
        ("/folder/vm/vm-flat.vmdk", 400),
        ("/folder/?dsName=iso-library", 400),
        ("/folder/../etc/passwd?dsName=iso-library", 400),
        ("/folder/vm/vm%2dflat.vmdk?dcPath=/Amsterdam&dsName=nvme-prod-01", 200),
    ],
)
def test_places(server: Simulator, cookie: dict[str, str], path: str, status: int) -> None:
    assert get(server, path, cookie).status == status


def test_uploads(server: Simulator, cookie: dict[str, str]) -> None:
    place = "/folder/up/a.bin?dcPath=Amsterdam&dsName=iso-library"
    assert request(server, "PUT", place, cookie, b"one").status == 201
    assert request(server, "PUT", place, cookie, b"two").status == 200
    assert get(server, place, cookie).body == b"two"
    assert request(server, "PUT", flat("vm"), cookie, b"x").status == 500, "a machine's file is not overwritten"
    assert server.state()["files"]["/Amsterdam/datastore/iso-library"].count(("up/a.bin", 3)) == 1


def test_an_upload_that_does_not_fit() -> None:
    with simulated(datastore_bytes=MiB) as small:
        entry = {"Cookie": f"vmware_soap_session={soap_login(small)}"}
        place = "/folder/a.bin?dcPath=Amsterdam&dsName=nvme-prod-01"
        assert request(small, "PUT", place, entry, b"x" * MiB).status == 201
        assert request(small, "PUT", place.replace("a.bin", "b.bin"), entry, b"x").status == 507


@pytest.mark.parametrize(
    ("privilege", "statuses"), [("Datastore.Browse", (403, 201)), ("Datastore.FileManagement", (200, 403))]
)
def test_privileges(privilege: str, statuses: tuple[int, int]) -> None:
    with simulated(machines=MACHINES, denied_privileges=frozenset({privilege})) as server:
        entry = {"Cookie": f"vmware_soap_session={soap_login(server)}"}
        up = request(server, "PUT", "/folder/a?dcPath=Amsterdam&dsName=iso-library", entry, b"x")
        assert (get(server, flat("vm"), entry).status, up.status) == statuses


def test_two_machines_of_one_name_keep_their_files_apart(tmp_path: Path) -> None:
    """Also where the second one's disk lies on the first one's datastore."""
    machines = (
        MachineSpec("twin", (DiskSpec(MiB),)),
        MachineSpec("twin", (DiskSpec(2 * MiB, datastore="nvme-prod-01"),), datastore="nvme-prod-02", folder="B"),
    )
    with simulated(machines=machines) as server, login(server) as instance:
        first, second = server.platform.world.all(SimulatedMachine)
        assert first.folder_name != second.folder_name
        entry: dict[str, Any] = {"Cookie": f"vmware_soap_session={session_id(instance)}"}
        for machine, size in ((first, MiB), (second, 2 * MiB)):
            name = machine.folder_name
            assert len(get(server, flat(name), entry).body) == size
