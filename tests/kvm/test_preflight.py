"""What is in the way at the target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypersdk.errors import LookupFailed
from hypersdk.kvm.address import parse_libvirt_address
from hypersdk.kvm.connection import Connection, open_connection
from hypersdk.kvm.preflight import DomainFacts, TargetInventory, domain_refusals, read_inventory
from hypersdk.kvm.storage import PoolFacts, pool_refusals, read_pool
from hypersdk.model import Firmware
from hypersdk.model.guestplan import GuestNic, GuestPlan, NicModel
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import GiB

MAC = "00:50:56:aa:bb:cc"
UUID = "5f4dcc3b-aa76-4d61-8327-deb882cf9900"


def plan(*nics: GuestNic) -> GuestPlan:
    return GuestPlan(
        name="web-01", title=None, firmware=Firmware.BIOS, secure_boot=False, tpm=False, cpus=1, cores_per_socket=1,
        memory_bytes=GiB, machine_type="q35", cpu_mode="", video="vga", os_id=None, disks=(), nics=nics,
    )  # fmt: skip


def card(target: str, *, bridge: bool = False, mac: str | None = MAC) -> GuestNic:
    return GuestNic(mac, target, bridge, NicModel.VIRTIO)


def codes(inventory: TargetInventory, *nics: GuestNic, own: tuple[str, ...] = ()) -> list[str]:
    return [error.code for error in domain_refusals(plan(*nics), inventory, own=own)]


@pytest.fixture
def connection() -> Iterator[Connection]:
    with open_connection(parse_libvirt_address("test:///default"), cancel=CancelToken()) as opened:
        yield opened


def test_what_is_there_is_read(connection: Connection) -> None:
    connection.call(
        "cannot define",
        lambda raw: (
            raw.defineXML(
                "<domain type='test'><name>other</name>"
                f"<uuid>{UUID}</uuid><memory>1024</memory><os><type>hvm</type></os><metadata>"
                "<h:landing xmlns:h='urn:hypersdk:domain:1.0' id='20260101-000000-abcdef'/></metadata><devices>"
                f"<interface type='network'><mac address='{MAC.upper()}'/><source network='default'/></interface>"
                "</devices></domain>"
            )
            and None
        ),
    )
    inventory = read_inventory(connection, bridges={"eth1", "nobridge0"})
    landed = DomainFacts(UUID, "other", frozenset({MAC}), frozenset(), "20260101-000000-abcdef")
    assert landed in inventory.domains
    assert inventory.networks == {"default": True}
    assert inventory.bridges == frozenset(), "eth1 is one of the driver's, and no bridge"


def test_each_conflict_has_its_code_and_our_own_domain_is_none() -> None:
    same = DomainFacts(UUID, "web-01", frozenset({MAC}), frozenset(), "20260101-000000-abcdef")
    inventory = TargetInventory((same,), {"lan": True, "off": False}, frozenset({"br0"}))
    assert codes(inventory, card("lan")) == ["domain_exists", "mac_taken"]
    assert codes(inventory, card("lan"), own=("20260101-000000-abcdef",)) == []
    assert codes(inventory, card("lan", mac=None)) == ["domain_exists"]


def test_networks_and_bridges() -> None:
    inventory = TargetInventory((), {"lan": True, "off": False}, frozenset({"br0"}))
    assert codes(inventory, card("lan"), card("br0", bridge=True)) == []
    assert codes(inventory, card("off"), card("off"), card("none"), card("lan", bridge=True)) == [
        "network_inactive",
        "no_such_network",
        "no_such_bridge",
    ]
    unknown = TargetInventory((), {}, None)
    assert codes(unknown, card("br9", bridge=True)) == [], "nobody can tell"


def test_pools(connection: Connection) -> None:
    pool = read_pool(connection, "default-pool")
    assert (pool.kind, pool.active, pool.folder) == ("dir", True, Path("/default-pool"))
    with pytest.raises(LookupFailed) as caught:
        read_pool(connection, "nowhere")
    assert caught.value.code == "no_such_pool"


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (PoolFacts("p", "dir", True, Path("/p"), GiB, frozenset({"other"})), []),
        (PoolFacts("p", "logical", True, None, GiB, frozenset()), ["pool_unsuitable"]),
        (PoolFacts("p", "dir", False, Path("/p"), 0, frozenset()), ["pool_inactive"]),
        (PoolFacts("p", "dir", True, Path("/p"), GiB - 1, frozenset({"a"})), ["volume_exists", "pool_too_small"]),
    ],
)
def test_refusals_of_a_pool(pool: PoolFacts, expected: list[str]) -> None:
    assert [error.code for error in pool_refusals(pool, names=frozenset({"a", "b"}), needed_bytes=GiB)] == expected
