"""Machines become domains of a real libvirtd: what is there afterwards, and what is not after a failure."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from lxml import etree

from hypersdk.errors import Cancelled, ConnectError, HyperSDKError, IntegrityError, NotRestored, Refused, TargetError
from hypersdk.kvm import imagefile
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.define import define_domain, domain_text
from hypersdk.kvm.preflight import read_domains
from hypersdk.landing import disks as landing_disks
from hypersdk.landing import land
from hypersdk.landing import owner as landing_owner
from hypersdk.landing import record as landing_record
from hypersdk.landing.guests import open_manifest
from hypersdk.landing.land import start_landed, undo_landing
from hypersdk.landing.options import LandOptions, NetworkTarget
from hypersdk.landing.record import LandingFile, StepState, read_landing
from hypersdk.landing.report import machine_page, read_report
from hypersdk.landing.verifying import verify_export
from hypersdk.migration.manifest import document_text
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.runfile import held_folder
from hypersdk.model import Firmware
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.exports import export_folder
from tests.support.guests.domains import serial_text
from tests.support.guests.guest import MARKER, Guest
from tests.support.landings import Lander, on_bridge
from tests.support.libvirtd import Libvirtd
from tests.support.libvirttunnel import Tunnel, tunnel_to
from tests.support.seeds import SEED
from tests.support.tools import run_tool, sha256
from tests.support.waiting import eventually

pytestmark = [pytest.mark.waits, pytest.mark.skipif(os.geteuid() != 0, reason="libvirt's system driver needs root")]

MAC: Final = "00:50:56:00:00:01"
"""Of the first card of all exports here."""


@pytest.fixture
def lan(libvirtd: Libvirtd, bridge_name: str) -> Iterator[Libvirtd]:
    """The daemon, whose host has a bridge."""
    run_tool("ip", "link", "add", bridge_name, "type", "bridge")
    yield libvirtd
    libvirtd.clear()
    run_tool("ip", "link", "delete", bridge_name)


@pytest.fixture
def small(bridge_name: str) -> LandOptions:
    """A small machine on that bridge."""
    return on_bridge(bridge_name)


@pytest.fixture
def export(guest_folder: Path) -> Path:
    """The folder of an export with two disks."""
    return reachable(export_folder(guest_folder / "web-01", disks=2))


def reachable(folder: Path) -> Path:
    folder.chmod(0o755)
    return folder


@pytest.fixture
def pool(lan: Libvirtd, guest_folder: Path) -> Path:
    """The folder of the storage pool ``images``, on the export's file system."""
    folder = guest_folder / "images"
    folder.mkdir()
    lan.virsh("pool-create-as", "images", "dir", "--target", folder)
    return folder


def domain_of(daemon: Libvirtd, name: str) -> Any:
    return etree.fromstring(daemon.virsh("dumpxml", "--inactive", name).encode())


def files_of(domain: Any) -> list[Path]:
    return [Path(str(source.get("file"))) for source in domain.iterfind("devices/disk/source")]


def nothing_is_left(daemon: Libvirtd, folder: Path, before: dict[str, str]) -> None:
    assert daemon.domains() == []
    assert digests(folder) == before
    record = read_landing(folder)
    assert record is None or record.open_changes == []


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.glob("*.qcow2")}


def test_a_guest_is_landed_where_its_images_lie_and_boots(
    lan: Libvirtd, small: LandOptions, boot_sector_guest: Guest, guest_folder: Path
) -> None:
    export = reachable(export_folder(guest_folder / "web-01", raw=boot_sector_guest.disks))
    lander = Lander(export, lan.uri, small)
    landed = lander.land()
    domain = domain_of(lan, "web-01")
    assert (landed.name, landed.uri, landed.disks) == ("web-01", lan.uri, tuple(files_of(domain)))
    assert landed.disks == (export / "web-01-disk1.qcow2",)
    assert "folder of the export" in landed.owner
    assert domain.find("devices/interface/mac").get("address") == MAC
    log = guest_folder / "serial.log"
    with lander.connected() as (connection, _), held_folder(export) as held:
        text = domain_text(connection, landed.uuid).replace(
            "<serial type='pty'>", f"<serial type='file'><source path='{log}'/>"
        )
        connection.call("cannot redefine", lambda raw: raw.defineXML(text) and None)
        start_landed(connection, LandingFile.opened(held), landed)
        eventually(lambda: MARKER in serial_text(log))
        assert undo_landing(connection, LandingFile.opened(held), cancel=CancelToken()) == []
    assert lan.domains() == []


def test_a_second_run_finds_what_was_landed(lan: Libvirtd, small: LandOptions, export: Path) -> None:
    lander = Lander(export, lan.uri, small)
    landed = lander.land()
    assert lander.land() == landed
    assert lan.domains() == ["web-01"]
    lan.virsh("undefine", "web-01")
    with pytest.raises(Refused) as caught:
        lander.land()
    assert caught.value.code == "landed_gone"
    assert lander.undo() == []
    assert lander.land().uuid != landed.uuid


def test_images_move_into_a_pool_of_the_same_file_system_and_back(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path
) -> None:
    before = digests(export)
    lander = Lander(export, lan.uri, small).to_pool("images")
    landed = lander.land()
    assert list(landed.disks) == [pool / "web-01-disk1.qcow2", pool / "web-01-disk2.qcow2"]
    assert [sha256(path) for path in landed.disks] == list(dict(sorted(before.items())).values())
    assert "web-01-disk1.qcow2" in lan.virsh("vol-list", "images")
    assert not list(pool.glob(".*")), "no partial file"
    assert lander.undo() == []
    nothing_is_left(lan, export, before)
    assert list(pool.iterdir()) == []


def findings(folder: Path) -> list[tuple[str, str | None]]:
    return [(finding.code, finding.file) for finding in verify_export(folder, cancel=CancelToken()).findings]


def owner(export: Path) -> tuple[str, str, tuple[str, ...]] | None:
    """Whose the images are by the manifest, with the domain and its disks."""
    facts = open_manifest(export).metadata.hypersdk
    landed = facts and facts.landed
    return (landed.owner, landed.uuid, landed.disks) if landed else None


def test_verify_knows_what_a_landing_did(lan: Libvirtd, small: LandOptions, export: Path, pool: Path) -> None:
    images = ["web-01-disk1.qcow2", "web-01-disk2.qcow2"]
    in_place, moved = Lander(export, lan.uri, small), Lander(export, lan.uri, small).to_pool("images")
    before = (export / "artifact-manifest.json").read_bytes()
    landed = in_place.land()
    assert findings(export) == []
    assert owner(export) == ("domain", landed.uuid, tuple(map(str, landed.disks)))
    with (export / images[0]).open("r+b") as image:
        image.seek(-5, os.SEEK_END)
        image.write(b"guest")
    assert findings(export) == [("verify_landed", images[0])]
    assert in_place.undo() == []
    assert findings(export) == [("verify_flipped", images[0])]
    assert (export / "artifact-manifest.json").read_bytes() == before
    assert owner(export) is None
    landed = moved.land()
    assert owner(export) == ("pool", landed.uuid, tuple(map(str, landed.disks)))
    assert findings(export) == [("verify_landed", image) for image in images]


@pytest.fixture
def other_file_system(lan: Libvirtd) -> Iterator[Path]:
    """The folder of the storage pool ``other``, in memory."""
    folder = Path("/dev/shm") / f"hypersdk-pool-{os.getpid()}"
    folder.mkdir()
    lan.virsh("pool-create-as", "other", "dir", "--target", folder)
    yield folder
    lan.virsh("pool-destroy", "other")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_images_are_copied_into_a_pool_of_another_file_system(
    lan: Libvirtd, small: LandOptions, export: Path, other_file_system: Path
) -> None:
    before = digests(export)
    lander = Lander(export, lan.uri, small).to_pool("other")
    landed = lander.land()
    assert [sha256(path) for path in landed.disks] == list(dict(sorted(before.items())).values())
    assert digests(export) == before, "the export is complete"
    assert "copies" in landed.owner
    assert lander.seen[-2][0] == "copying web-01-disk2.qcow2"
    assert lander.undo() == []
    nothing_is_left(lan, export, before)
    assert list(other_file_system.iterdir()) == []


def test_a_copy_keeps_holes(lan: Libvirtd, small: LandOptions, guest_folder: Path, other_file_system: Path) -> None:
    raw = guest_folder / "sparse.raw"
    with raw.open("wb") as file:
        file.write(b"begin" * 1000)
        file.truncate(64 * MiB)
        file.seek(40 * MiB)
        file.write(b"end" * 1000)
    export = reachable(export_folder(guest_folder / "web-01", raw=[raw], image_format="raw"))
    landed = Lander(export, lan.uri, small).to_pool("other").land()
    assert landed.disks[0].read_bytes() == raw.read_bytes()
    assert landed.disks[0].stat().st_blocks * 512 < MiB


def refusal(lander: Lander) -> set[str]:
    with pytest.raises(HyperSDKError) as caught:
        lander.land()
    return {reason.code for reason in caught.value.reasons} or {caught.value.code}


def test_everything_that_is_in_the_way_is_told_at_once(
    lan: Libvirtd, small: LandOptions, guest_folder: Path, export: Path, bridge_name: str
) -> None:
    Lander(export, lan.uri, small).land()
    definition = guest_folder / "lan.xml"
    definition.write_text(f"<network><name>lan</name><bridge name='{bridge_name}b'/></network>")
    lan.virsh("net-define", definition)
    other = reachable(export_folder(guest_folder / "other", name="web-01"))
    (guest_folder / "other").chmod(0o700)
    lander = Lander(other, lan.uri, replace(small, default_network=NetworkTarget("lan", bridge=False)))
    assert refusal(lander) == {"domain_exists", "mac_taken", "network_inactive", "image_unreachable"}
    assert lan.domains() == ["web-01"]
    lander.options = replace(small, name="web-02", new_macs=True, default_network=NetworkTarget("none", bridge=False))
    assert refusal(lander) == {"no_such_network", "image_unreachable"}
    lander.options = replace(lander.options, default_network=NetworkTarget("nobridge0", bridge=True))
    assert refusal(lander) == {"no_such_bridge", "image_unreachable"}


def test_what_a_pool_has_already_is_not_replaced(lan: Libvirtd, small: LandOptions, export: Path, pool: Path) -> None:
    foreign = pool / "web-01-disk2.qcow2"
    foreign.write_bytes(b"precious")
    before = digests(export)
    lander = Lander(export, lan.uri, small).to_pool("images")
    assert refusal(lander) == {"volume_exists"}
    nothing_is_left(lan, export, before)
    assert foreign.read_bytes() == b"precious"
    lander.options = replace(lander.options, pool="nowhere")
    assert refusal(lander) == {"no_such_pool"}
    lan.virsh("pool-define-as", "off", "dir", "--target", pool / "off")
    lander.options = replace(lander.options, pool="off")
    assert refusal(lander) == {"pool_inactive"}


def test_a_file_that_comes_into_the_pool_meanwhile_is_not_replaced(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign, before = pool / "web-01-disk2.qcow2", digests(export)
    give_name = imagefile.give_name

    def late(existing: Path, name: Path) -> None:
        if name == foreign:
            foreign.write_bytes(b"precious")
        give_name(existing, name)

    monkeypatch.setattr(landing_disks, "give_name", late)
    assert refusal(Lander(export, lan.uri, small).to_pool("images")) == {"name_in_use"}
    monkeypatch.undo()
    nothing_is_left(lan, export, before)
    assert foreign.read_bytes() == b"precious"


def test_a_failure_leaves_nothing(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(export)

    def refused(*_: object) -> None:
        raise Refused("not today", code="libvirt_xml_refused")

    monkeypatch.setattr("hypersdk.landing.land.define_domain", refused)
    assert refusal(Lander(export, lan.uri, small).to_pool("images")) == {"libvirt_xml_refused"}
    nothing_is_left(lan, export, before)
    assert list(pool.iterdir()) == []
    record = read_landing(export)
    assert record is not None
    assert record.steps["land"].state is StepState.FAILED


def test_a_domain_that_gets_the_same_address_meanwhile_is_seen(
    lan: Libvirtd, small: LandOptions, export: Path, guest_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of two that look for the other at the same time, and then define theirs, stays unseen."""
    before = digests(export)
    clone = Lander(reachable(export_folder(guest_folder / "clone", name="clone", disks=1)), lan.uri, small)

    def both(connection: Connection, xml: str) -> None:
        monkeypatch.setattr(land, "define_domain", define_domain)
        clone.land()
        define_domain(connection, xml)

    monkeypatch.setattr(land, "define_domain", both)
    assert refusal(Lander(export, lan.uri, small)) == {"mac_taken"}
    assert lan.domains() == ["clone"]
    assert digests(export) == before


@pytest.mark.parametrize("pool_name", [None, "images"])
@pytest.mark.parametrize("way", ["link", "backing file", "data file"])
def test_an_image_gives_the_guest_no_other_file_of_the_host(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path, guest_folder: Path, way: str, pool_name: str | None
) -> None:
    secret = guest_folder / "secret"
    secret.write_bytes(b"secret" * MiB)
    image = export / "web-01-disk1.qcow2"
    image.unlink()
    if way == "link":
        image.symlink_to(secret)
    elif way == "backing file":
        run_tool("qemu-img", "create", "-f", "qcow2", "-b", secret, "-F", "raw", image)
    else:
        run_tool("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={secret},data_file_raw=on", image, "6M")
    codes = {"link": "target_failed", "backing file": "image_has_backing_file", "data file": "unreadable_image"}
    assert refusal(Lander(export, lan.uri, replace(small, pool=pool_name))) == {codes[way]}
    assert lan.domains() == []
    assert list(pool.iterdir()) == []


def test_what_a_killed_run_defined_is_not_taken_for_something_else(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path
) -> None:
    """The same command goes on with it; another one gets what it asks for."""
    last = moments(export, lan.uri, small, "") - 1
    assert Lander(export, lan.uri, small).undo() == []
    for lander in (
        Lander(export, lan.uri, replace(small, new_macs=True)),
        Lander(export, lan.uri, small).to_pool("images"),
    ):
        assert dying_landing(export, lan.uri, small, "", str(last - 1)).returncode == -signal.SIGKILL
        assert lan.domains() == ["web-01"]
        landed = lander.land()
        domain = domain_of(lan, "web-01")
        assert files_of(domain) == list(landed.disks)
        assert (domain.find("devices/interface/mac").get("address") == MAC) is not lander.options.new_macs
        assert lander.undo() == []


def test_a_missing_image_is_told_before_anything_is_defined(lan: Libvirtd, small: LandOptions, export: Path) -> None:
    (export / "web-01-disk2.qcow2").unlink()
    with pytest.raises(IntegrityError) as caught:
        Lander(export, lan.uri, small).land()
    assert caught.value.code == "image_missing"
    assert lan.domains() == []


def test_a_guest_that_does_not_start_is_off_and_told_why(lan: Libvirtd, small: LandOptions, export: Path) -> None:
    lander = Lander(export, lan.uri, small)
    landed = lander.land()
    (export / "web-01-disk2.qcow2").write_bytes(b"not a qcow2 image")
    with lander.connected() as (connection, _), held_folder(export) as held:
        landing = LandingFile.opened(held)
        with pytest.raises(TargetError) as caught:
            start_landed(connection, landing, landed)
        assert caught.value.code == "libvirt_failed"
        assert "web-01-disk2.qcow2" in caught.value.message or "qcow2" in caught.value.message
        assert [change.kind for change in landing.record.open_changes] == ["domain"]
    assert lan.virsh("domstate", "web-01").strip() == "shut off"


def test_an_undo_on_a_full_disk_is_complete(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it cannot write, in record and manifest, does not keep it from its work and is no failure."""
    before = digests(export)
    lander = Lander(export, lan.uri, small).to_pool("images")
    lander.land()

    def full(*_: object, **__: object) -> int:
        raise TargetError("no space left", code="no_space")

    with monkeypatch.context() as broken:
        broken.setattr(landing_owner, "write_atomic", full)
        broken.setattr(landing_record, "write_held", full)
        assert lander.undo() == []
    assert lan.domains() == []
    assert digests(export) == before
    assert lander.undo() == [], "the record says what it said before: undone again"
    nothing_is_left(lan, export, before)


def test_a_running_guest_is_not_stopped_by_an_undo_that_did_not_start_it(
    lan: Libvirtd, small: LandOptions, export: Path
) -> None:
    lander = Lander(export, lan.uri, small)
    lander.land()
    lan.virsh("start", "web-01")
    problems = lander.undo()
    assert [problem.error.code for problem in problems] == ["domain_runs"]
    assert lan.domains() == ["web-01"]
    lan.virsh("destroy", "web-01")
    assert lander.undo() == []
    assert lan.domains() == []


def test_a_domain_that_is_not_ours_is_left_alone(lan: Libvirtd, small: LandOptions, export: Path) -> None:
    lander = Lander(export, lan.uri, small)
    landed = lander.land()
    lan.virsh("metadata", "web-01", "urn:hypersdk:domain:1.0", "--remove", "--config")
    assert lander.undo() == []
    assert lan.virsh("domuuid", "web-01").strip() == landed.uuid


def define_copy(daemon: Libvirtd, folder: Path, name: str, of: str) -> None:
    """Somebody defines another domain with the same disks, by hand."""
    domain = domain_of(daemon, of)
    for element in (*domain.findall("uuid"), *domain.findall("metadata"), *domain.findall(".//mac")):
        element.getparent().remove(element)
    domain.find("name").text = name
    (folder / "copy.xml").write_bytes(etree.tostring(domain))
    daemon.virsh("define", folder / "copy.xml")


def forge(export: Path, uri: str, **forged: object) -> Path:
    """A record that says that an image was moved to a file outside of the pool; returns that file."""
    precious = export.parent / "precious"
    precious.write_bytes(b"precious")
    with held_folder(export) as held:
        landing = LandingFile.opened(held)
        data: dict[str, object] = {
            "uri": uri,
            "landing": landing.record.landing_id,
            "pool": "images",
            "path": str(precious),
        }
        data |= {"name": "web-01-disk1.qcow2", "image": "web-01-disk1.qcow2"} | forged
        with landing.change("image", data | {"moved": True, "inode": precious.stat().st_ino}):
            pass
    return precious


@pytest.mark.parametrize(
    ("forged", "codes"),
    [
        ({}, []),
        ({"pool": "other"}, ["no_such_pool"]),
    ],
)
def test_an_undo_touches_no_file_outside_of_pool_and_export(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path, forged: dict[str, str], codes: list[str]
) -> None:
    """Exports are handed on, and others may have written in their folders."""
    before, precious = digests(export), forge(export, lan.uri, **forged)
    problems = Lander(export, lan.uri, small).undo()
    assert [problem.error.code for problem in problems] == codes
    assert precious.read_bytes() == b"precious"
    assert digests(export) == before


def test_a_domain_gets_no_file_that_only_a_record_names(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path
) -> None:
    forge(export, lan.uri)
    landed = Lander(export, lan.uri, small).to_pool("images").land()
    assert list(landed.disks) == [pool / "web-01-disk1.qcow2", pool / "web-01-disk2.qcow2"]


def test_images_come_back_into_an_export_that_was_moved(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path
) -> None:
    before = digests(export)
    Lander(export, lan.uri, small).to_pool("images").land()
    moved = export.rename(export.with_name("moved"))
    assert Lander(moved, lan.uri, small).undo() == []
    nothing_is_left(lan, moved, before)
    assert list(pool.iterdir()) == []


def test_an_undo_needs_the_pool_of_the_images(lan: Libvirtd, small: LandOptions, export: Path, pool: Path) -> None:
    before = digests(export)
    lander = Lander(export, lan.uri, small).to_pool("images")
    lander.land()
    lan.virsh("pool-destroy", "images")
    assert {problem.error.code for problem in lander.undo()} == {"no_such_pool"}
    lan.virsh("pool-create-as", "images", "dir", "--target", pool)
    assert lander.undo() == []
    nothing_is_left(lan, export, before)


def test_images_that_another_domain_uses_are_neither_landed_again_nor_removed(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path, tunnel: Tunnel
) -> None:
    lander = Lander(export, tunnel.uri, small).to_pool("images")
    landed = lander.land()
    define_copy(lan, export.parent, "shop", "web-01")
    assert [problem.error.code for problem in lander.undo()] == ["image_of_domain", "image_of_domain"]
    assert lan.domains() == ["shop"]
    assert all(path.exists() for path in landed.disks)
    lan.virsh("undefine", "shop")
    assert lander.undo() == []
    assert list(pool.iterdir()) == []


def test_a_volume_of_another_domain_is_not_removed_however_it_is_named(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path
) -> None:
    """By pool and volume, or attached to a guest until it ends."""
    lander = Lander(export, lan.uri, small).to_pool("images")
    first, second = lander.land().disks
    shop = f"""<domain type='qemu'><name>shop</name><memory>16384</memory><os><type arch='x86_64'>hvm</type></os>
      <devices><disk type='volume'><driver name='qemu' type='qcow2'/><source pool='images' volume='{first.name}'/>
      <target dev='vda' bus='virtio'/></disk><controller type='scsi' model='virtio-scsi'/></devices></domain>"""
    (export.parent / "shop.xml").write_text(shop)
    lan.virsh("define", export.parent / "shop.xml")
    lan.virsh("start", "shop")
    lan.virsh("attach-disk", "shop", second, "sdb", "--targetbus", "scsi", "--subdriver", "qcow2", "--live")
    assert [problem.error.code for problem in lander.undo()] == ["image_of_domain", "image_of_domain"]
    assert (first.exists(), second.exists()) == (True, True)
    lan.virsh("destroy", "shop")
    assert [problem.error.code for problem in lander.undo()] == ["image_of_domain"]
    lan.virsh("pool-destroy", "images")
    lan.virsh("pool-define-as", "images", "dir", "--target", pool)
    with lander.connected() as (connection, _):
        assert [domain.files for domain in read_domains(connection)] == [frozenset()], "its pool is off"
    lan.virsh("pool-start", "images")
    lan.virsh("undefine", "shop")
    assert lander.undo() == []
    assert list(pool.iterdir()) == []


def test_images_in_the_folder_of_an_export_are_of_one_domain(lan: Libvirtd, small: LandOptions, export: Path) -> None:
    lander = Lander(export, lan.uri, small)
    lander.land()
    define_copy(lan, export.parent, "shop", "web-01")
    assert lander.undo() == []
    assert refusal(lander) == {"image_of_domain"}


def test_an_image_of_another_domain_is_known_by_any_name(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path
) -> None:
    """And does not get into a pool, where that domain would lose it."""
    (export.parent / "link").symlink_to(export)
    image = export.parent / "link" / "web-01-disk1.qcow2"
    shop = f"""<domain type='qemu'><name>shop</name><memory>16384</memory><os><type arch='x86_64'>hvm</type></os>
      <devices><disk><driver name='qemu' type='qcow2'/><source file='{image}'/><target dev='vda' bus='virtio'/></disk>
      </devices></domain>"""
    (export.parent / "shop.xml").write_text(shop)
    lan.virsh("define", export.parent / "shop.xml")
    for lander in (Lander(export, lan.uri, small), Lander(export, lan.uri, small).to_pool("images")):
        assert refusal(lander) == {"image_of_domain"}
    assert list(pool.iterdir()) == []


def test_another_target_waits_until_the_first_is_undone(lan: Libvirtd, small: LandOptions, export: Path) -> None:
    lander = Lander(export, lan.uri, small)
    lander.land()
    assert refusal(Lander(export, "test:///default", small)) == {"other_target"}
    with pytest.raises(Refused):
        Lander(export, "test:///default", small).undo()


def test_firmware_variables_go_with_the_domain(lan: Libvirtd, small: LandOptions, export: Path) -> None:
    efi = reachable(export_folder(export.parent / "efi", name="efi", firmware=Firmware.EFI))
    lander = Lander(efi, lan.uri, replace(small, memory_bytes=128 * MiB))
    landed = lander.land()
    variables = lan.socket.parent / "var/lib/libvirt/qemu/nvram"
    with lander.connected() as (connection, _), held_folder(efi) as held:
        start_landed(connection, LandingFile.opened(held), landed)
        assert [path.name for path in variables.iterdir()] == ["efi_VARS.fd"]
        assert undo_landing(connection, LandingFile.opened(held), cancel=CancelToken()) == []
    assert list(variables.iterdir()) == []


@pytest.mark.parametrize("firmware", [Firmware.BIOS, Firmware.EFI])
def test_a_machine_with_a_tpm_starts_with_a_new_one(
    lan: Libvirtd, small: LandOptions, guest_folder: Path, firmware: Firmware
) -> None:
    """Emulated by swtpm; its state goes with the domain."""
    export = reachable(export_folder(guest_folder / "web-01", firmware=firmware, tpm=True))
    lander = Lander(export, lan.uri, replace(small, memory_bytes=128 * MiB))
    landed = lander.land()
    assert domain_of(lan, "web-01").find("devices/tpm/backend").get("version") == "2.0"
    state = lan.socket.parent / "var/lib/libvirt/swtpm" / landed.uuid
    with lander.connected() as (connection, _), held_folder(export) as held:
        start_landed(connection, LandingFile.opened(held), landed)
        assert lan.virsh("list", "--name").split() == ["web-01"]
        assert list(state.rglob("tpm2-00.permall"))
        assert undo_landing(connection, LandingFile.opened(held), cancel=CancelToken()) == []
    assert lan.domains() == []
    assert not state.exists()
    lander.options = replace(lander.options, tpm=False)
    lander.land()
    assert domain_of(lan, "web-01").find("devices/tpm") is None


def test_a_cancel_leaves_nothing(lan: Libvirtd, small: LandOptions, export: Path, other_file_system: Path) -> None:
    before = digests(export)
    lander = Lander(export, lan.uri, small).to_pool("other")
    cancelling = replace(lander, seen=Cancelling(lander.cancel))
    with pytest.raises(Cancelled):
        cancelling.land()
    nothing_is_left(lan, export, before)
    assert list(other_file_system.iterdir()) == []


class Cancelling(list[Any]):
    """Cancels when the second disk begins."""

    def __init__(self, cancel: CancelToken) -> None:
        super().__init__()
        self._cancel = cancel

    def append(self, progress: Any) -> None:
        if "disk2" in progress[0]:
            self._cancel.cancel("test")


@pytest.fixture
def tunnel(lan: Libvirtd) -> Iterator[Tunnel]:
    """The same daemon as a remote one."""
    with tunnel_to(lan.socket) as opened:
        yield opened


def test_a_remote_target_gets_the_disks_by_upload(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path, tunnel: Tunnel
) -> None:
    before = digests(export)
    lander = Lander(export, tunnel.uri, small)
    assert refusal(lander) == {"remote_needs_pool"}
    lander = lander.to_pool("images")
    landed = lander.land()
    assert [sha256(path) for path in landed.disks] == list(dict(sorted(before.items())).values())
    assert digests(export) == before, "the export is complete"
    assert files_of(domain_of(lan, "web-01")) == list(landed.disks)
    assert lander.undo() == []
    nothing_is_left(lan, export, before)
    assert list(pool.iterdir()) == []


def test_who_may_not_write_in_the_folder_of_a_pool_uploads(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user of the group libvirt; the tests are root, who may write everywhere."""
    monkeypatch.setattr(landing_disks, "may_write", lambda _: False)
    before = digests(export)
    landed = Lander(export, lan.uri, small).to_pool("images").land()
    assert digests(export) == before
    assert [sha256(path) for path in landed.disks] == list(dict(sorted(before.items())).values())


def test_holes_are_neither_sent_nor_stored(
    lan: Libvirtd, small: LandOptions, guest_folder: Path, pool: Path, tunnel: Tunnel
) -> None:
    raw = guest_folder / "sparse.raw"
    with raw.open("wb") as file:
        file.write(os.urandom(MiB))
        file.seek(200 * MiB - 5)
        file.write(b"end")
        file.truncate(201 * MiB + 512)
    export = reachable(export_folder(guest_folder / "web-01", raw=[raw], image_format="raw"))
    lander = Lander(export, tunnel.uri, small).to_pool("images")
    landed = lander.land()
    run_tool("cmp", raw, landed.disks[0])
    assert landed.disks[0].stat().st_blocks * 512 < 3 * MiB
    assert tunnel.sent_bytes < 3 * MiB
    uploads = [progress for progress in lander.seen if progress[0] == "uploading web-01-disk1.raw"]
    assert uploads[-1][1] <= uploads[-1][2] < 3 * MiB, "data is counted, not holes"


def test_an_upload_whose_connection_breaks_is_cleaned_up_by_the_next_run(
    lan: Libvirtd, small: LandOptions, guest_folder: Path, pool: Path, tunnel: Tunnel
) -> None:
    raw = guest_folder / "full.raw"
    raw.write_bytes(os.urandom(8 * MiB))
    export = reachable(export_folder(guest_folder / "web-01", raw=[raw], image_format="raw"))
    lander = Lander(export, tunnel.uri, small).to_pool("images")
    tunnel.cut_after = 4 * MiB
    with pytest.raises(NotRestored) as caught:
        lander.land()
    assert caught.value.code == "target_not_restored"
    assert isinstance(caught.value.__cause__, ConnectError)
    assert list(pool.iterdir()) != []
    tunnel.cut_after = None
    landed = lander.land()
    run_tool("cmp", raw, landed.disks[0])


def test_a_cancelled_upload_leaves_nothing(
    lan: Libvirtd, small: LandOptions, export: Path, pool: Path, tunnel: Tunnel
) -> None:
    before = digests(export)
    lander = Lander(export, tunnel.uri, small).to_pool("images")
    with pytest.raises(Cancelled):
        replace(lander, seen=Cancelling(lander.cancel)).land()
    nothing_is_left(lan, export, before)
    assert list(pool.iterdir()) == []


def moments(folder: Path, uri: str, small: LandOptions, pool: str) -> int:
    """How many moments a landing has; what it made is undone."""
    done = dying_landing(folder, uri, small, pool)
    assert done.returncode == 0, done.stderr
    assert Lander(folder, uri, small).undo() == []
    return int(done.stdout)


def dying_landing(
    folder: Path, uri: str, small: LandOptions, pool: str, *moment: str
) -> subprocess.CompletedProcess[str]:
    assert small.default_network is not None
    module = "tests.support.programs.dyinglanding"
    program = [sys.executable, "-m", module, str(folder), uri, small.default_network.name, pool, *moment]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)


WAYS: Final = ("in place", "move", "copy", "upload")


@pytest.mark.kill
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_kill_at_any_moment_is_continued_or_undone(
    lan: Libvirtd,
    small: LandOptions,
    export: Path,
    pool: Path,
    other_file_system: Path,
    tunnel: Tunnel,
    way: str,
    goes_on: bool,
) -> None:
    """At moments that are drawn, each followed by another run or by an undo."""
    uri = tunnel.uri if way == "upload" else lan.uri
    name, folder = {"in place": ("", pool), "copy": ("other", other_file_system)}.get(way, ("images", pool))
    before = digests(export)
    count = moments(export, uri, small, name)
    for moment in random.Random(f"{SEED}{way}{goes_on}").sample(range(count), 2):
        assert dying_landing(export, uri, small, name, str(moment)).returncode == -signal.SIGKILL
        lander = Lander(export, uri, replace(small, pool=name or None))
        if goes_on:
            landed = lander.land()
            assert lan.domains() == ["web-01"]
            assert [sha256(path) for path in landed.disks] == list(dict(sorted(before.items())).values()), moment
            assert files_of(domain_of(lan, "web-01")) == list(landed.disks)
        assert lander.undo() == [], moment
        nothing_is_left(lan, export, before)
        assert list(folder.iterdir()) == [], moment


NAMES: Final = (
    "Büro-Server ünïcødé 日本", "日" * 200, "two  words", "../../etc/passwd", "<name>&amp;\"'</name>]]>",
    "$(reboot); `id` | rm -rf /", "x" * 255, "bell\x07 escape\x1b[2J new\nline", "-rf", ".hidden",
    "%s{0}%n", "a,b=c,readonly=on", "\u202eltr",
)  # fmt: skip


@pytest.mark.parametrize("pool_name", [None, "images"])
def test_any_name_of_a_machine_is_only_a_name(
    lan: Libvirtd, small: LandOptions, guest_folder: Path, pool: Path, pool_name: str | None
) -> None:
    """Landed, started, reported and undone, side by side; with files of safe names in the pool, and nowhere else."""
    lander, seen = Lander(guest_folder, lan.uri, replace(small, new_macs=True, pool=pool_name)), set[str]()
    (deep := guest_folder / "far" / "down").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        folder = reachable(export_folder(deep / f"export{number}"))
        document = json.loads((folder / MANIFEST_NAME).read_bytes())
        document["source"]["vm_name"] = name
        (folder / MANIFEST_NAME).write_bytes(document_text(document))
        one = replace(lander, folder=folder)
        landed = one.land()
        seen.add(landed.name)
        assert re.fullmatch(r"\w[\w.+-]*", landed.name), name
        assert {path.parent for path in landed.disks} == {pool if pool_name else folder}
        with one.connected() as (connection, _), held_folder(folder) as held:
            start_landed(connection, LandingFile.opened(held), landed)
        assert lan.virsh("domstate", landed.uuid).strip() == "running"
        assert "\x1b" not in machine_page(read_report(folder))
        assert one.undo() == []
        assert lan.domains() == []
    assert len(seen) > len(NAMES) - 3
    assert list(pool.iterdir()) == []
    assert [path.name for path in (*guest_folder.glob("far*"), *deep.parent.iterdir())] == ["far", "down"]
    assert {path.name for path in deep.iterdir()} == {f"export{number}" for number in range(len(NAMES))}
