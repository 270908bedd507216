"""The step ``prove``: evidence beside the manifest, the record and the manifest, with guests on a real libvirtd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hypersdk.errors import IntegrityError, LookupFailed
from hypersdk.kvm.connection import Connection
from hypersdk.kvm.prove import ProofOptions
from hypersdk.landing.guests import export_id, open_manifest
from hypersdk.landing.prove import proof_text, prove_landed
from hypersdk.landing.record import LandingFile, StepState
from hypersdk.landing.verifying import verify_export
from hypersdk.migration.runfile import held_folder
from hypersdk.model.guestplan import BootProof, Verdict
from hypersdk.transfer.cancel import CancelToken
from tests.support.exports import export_folder
from tests.support.guests.acts import acting_guest
from tests.support.guests.domains import domain_xml
from tests.support.guests.guest import Guest
from tests.support.libvirtd import Libvirtd
from tests.support.proofs import connected

OPTIONS = ProofOptions(marker="is UP", timeout_s=240)


@pytest.fixture
def connection(libvirtd: Libvirtd) -> Iterator[Connection]:
    with connected(libvirtd) as opened:
        yield opened


def exported(libvirtd: Libvirtd, folder: Path, text: str) -> tuple[Path, str]:
    """An export whose image is the disk of a domain; returns its folder and the UUID."""
    guest = acting_guest(folder, text)
    export = export_folder(folder / "web-01", name="web-01", image_format="raw", raw=[guest.image])
    export.chmod(0o755)
    image = export / "web-01-disk1.raw"
    (folder / "domain.xml").write_text(domain_xml(Guest("web-01", (image,), "", 32), "web-01", folder, bus="sata"))
    libvirtd.virsh("define", folder / "domain.xml")
    return export, libvirtd.virsh("domuuid", "web-01").strip()


def prove(connection: Connection, export: Path, uuid: str) -> BootProof:
    with held_folder(export) as held:
        return prove_landed(connection, LandingFile.opened(held), uuid, OPTIONS, cancel=CancelToken())


def test_evidence_record_and_manifest(libvirtd: Libvirtd, connection: Connection, guest_folder: Path) -> None:
    export, uuid = exported(libvirtd, guest_folder, r"app <b>is UP</b>\r\n")
    identity = export_id(open_manifest(export))
    proof = prove(connection, export, uuid)
    assert (proof.verdict, proof.line) == (Verdict.MARKER, "app <b>is UP</b>")
    assert proof_text(proof).startswith("the guest printed 'app <b>is UP</b>' (after ")
    assert proof.screenshot == export / "screenshot.png"
    assert proof.screenshot.read_bytes().startswith(b"\x89PNG")
    assert proof.serial_log is not None
    assert proof.serial_log.read_text() == "app <b>is UP</b>\n"
    manifest = open_manifest(export)
    part = manifest.pipeline.validate_
    assert (part.enabled, part.verdict, part.line, part.seconds) == (True, "marker", proof.line, proof.seconds)
    assert export_id(manifest) == identity, "the record of the landing would not be that of this export"
    assert verify_export(export, cancel=CancelToken()).findings == ()
    libvirtd.virsh("undefine", uuid)  # proved once: not looked at again
    assert prove(connection, export, uuid) == proof
    with pytest.raises(LookupFailed):
        prove(connection, export, "00000000-0000-4000-8000-000000000001")  # another domain, which does not exist


def test_a_failed_boot_keeps_its_evidence(libvirtd: Libvirtd, connection: Connection, guest_folder: Path) -> None:
    export, uuid = exported(libvirtd, guest_folder, r"mounting root\r\n(initramfs) ")
    with pytest.raises(IntegrityError) as caught:
        prove(connection, export, uuid)
    assert caught.value.code == "boot_no_root"
    assert caught.value.fields["serial_log"] == str(export / "serial.log")
    assert (export / "serial.log").read_text() == "mounting root\n(initramfs)\n"
    assert (export / "screenshot.png").exists()
    with held_folder(export) as held:
        step = LandingFile.opened(held).record.steps["prove"]
    assert step.state is StepState.FAILED
    assert step.error is not None
    assert step.error["code"] == "boot_no_root"
    assert not open_manifest(export).pipeline.validate_.enabled
    assert verify_export(export, cancel=CancelToken()).findings == ()
