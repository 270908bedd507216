"""Records and manifests with any field missing or altered: an error with a code, and nothing is removed by them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pytest

from hypersdk.cli.landings import landing_object
from hypersdk.errors import HyperSDKError
from hypersdk.guest.tools import find_tools
from hypersdk.landing.commit import settle_conversion
from hypersdk.landing.examining import examine
from hypersdk.landing.fitness import check_digests, check_images
from hypersdk.landing.guests import open_guest
from hypersdk.landing.landed import check_not_landed, landed_images
from hypersdk.landing.landings import UnfinishedLanding, clean_target
from hypersdk.landing.options import LandOptions, NetworkTarget
from hypersdk.landing.planning import assumed_drivers, plan_guest
from hypersdk.landing.record import Conversion, ConversionState, LandingFile, StepState, read_landing
from hypersdk.landing.report import machine_page, read_report
from hypersdk.landing.verifying import verify_export
from hypersdk.migration.checked import checksum_of
from hypersdk.migration.manifest import document_text
from hypersdk.migration.naming import LANDING_FILE, MANIFEST_NAME
from hypersdk.migration.runfile import held_folder
from hypersdk.transfer.cancel import CancelToken
from tests.support.exports import export_folder
from tests.support.guestconversions import DRIVERS
from tests.support.hypervisors import KVM_FACTS
from tests.support.landings import domain_change
from tests.support.seeds import SEED

URI: Final = "test:///default"
VALUES: Final[tuple[Any, ...]] = (
    None, "", "x", "../x", "a\0b", "\ud800", 7, -1, 2**70, 1e300, True, [], ["x"], {}, {"x": 1}, "x" * 5000,
)  # fmt: skip
MISSING: Final = object()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each field below ``value``."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in entries:
        yield (*path, key)
        yield from places(child, (*path, key))


def altered(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy with another value there, or without the field."""
    changed = copy.deepcopy(document)
    owner = changed
    for key in path[:-1]:
        owner = owner[key]
    if value is MISSING:
        del owner[path[-1]]
    else:
        owner[path[-1]] = value
    return changed


def mutations(document: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], Any, dict[str, Any]]]:
    """Each field is left out, and gets some of VALUES, which are drawn."""
    drawn = random.Random(SEED)
    for path in places(document):
        for value in (MISSING, *drawn.sample(VALUES, 3)):
            yield path, value, altered(document, path, value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_folder(tmp_path / "web-01", name="web-01", disks=2)


def whole_record(folder: Path) -> dict[str, Any]:
    """A record with a step of each kind, a conversion and a change of each kind."""
    with held_folder(folder) as held:
        landing = LandingFile.opened(held)
        base = {"uri": URI, "landing": landing.record.landing_id}
        volume = {**base, "name": "web-01-disk1.qcow2", "pool": "default-pool", "path": "/default-pool/x"}
        with landing.step("land") as step:
            for kind, data in (
                ("image", {**volume, "image": "web-01-disk1.qcow2", "moved": True, "inode": 7}),
                ("volume", volume),
                ("domain", {**domain_change(landing, URI), "definition": "0" * 64}),
                ("started", {key: domain_change(landing, URI)[key] for key in ("uri", "landing", "uuid")}),
            ):
                with landing.change(kind, data):
                    pass
            step.result = {"uuid": "1", "name": "web-01", "uri": URI, "disks": ["/i/1"], "owner": "pool"}
        with landing.changing() as record:
            record.target = URI
            record.steps["land"].state = StepState.RUNNING
            overlays = {"web-01-disk1.qcow2": ".web-01-disk1.qcow2.overlay"}
            report = {"enabled": True, "drivers": asdict(DRIVERS)}
            record.conversion = Conversion(ConversionState.COMMITTING, overlays, report)
    found: dict[str, Any] = json.loads((folder / LANDING_FILE).read_bytes())
    del found["checksum"]
    return found


def test_a_record_of_a_landing(folder: Path, tmp_path: Path) -> None:
    record = whole_record(folder)
    assert read_landing(folder) is not None
    images = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".qcow2", ".ovf", ".json")}
    for path, value, changed in mutations(record):
        with suppress(UnicodeEncodeError):
            (folder / LANDING_FILE).write_text(json.dumps({**changed, "checksum": checksum_of(changed)}))
        _each(path, value, _uses_of_record(folder, tmp_path / "state"))
        now = {path.name: path.read_bytes() for path in folder.iterdir() if path.name in images}
        now.pop(LANDING_FILE, None)
        assert now.keys() >= images.keys() - {LANDING_FILE}, (path, value)


def _uses_of_record(folder: Path, state: Path) -> list[Callable[[], object]]:
    def settle() -> None:
        with held_folder(folder) as held:
            settle_conversion(LandingFile.opened(held), find_tools(), cancel=CancelToken())

    def show() -> None:
        if (record := read_landing(folder)) is not None:
            landing_object(UnfinishedLanding(folder, record, active=False))
            landed_images(record)

    return [
        show,
        lambda: check_not_landed(folder),
        lambda: machine_page(read_report(folder)),
        settle,
        lambda: clean_target(folder, state=state, cancel=CancelToken()),
    ]


def test_a_manifest(folder: Path) -> None:
    document = json.loads((folder / MANIFEST_NAME).read_bytes())
    for path, value, changed in mutations(document):
        try:
            text = document_text(changed)
        except (KeyError, TypeError, AttributeError, ValueError):  # it has no place for its seal
            text = json.dumps(changed).encode()
        (folder / MANIFEST_NAME).write_bytes(text)
        _each(path, value, _uses_of_manifest(folder))


def _uses_of_manifest(folder: Path) -> list[Callable[[], object]]:
    never = CancelToken()
    options = LandOptions(default_network=NetworkTarget("br0", bridge=True))

    def plan() -> None:
        guest = open_guest(folder)
        plan_guest(guest, assumed_drivers(guest), options, KVM_FACTS)
        check_images(folder, guest)

    def open_record() -> None:
        with held_folder(folder) as held:
            LandingFile.opened(held)

    return [
        plan,
        open_record,
        lambda: examine(folder, cancel=never),
        lambda: check_digests(folder, ["web-01-disk1.qcow2"], never),
        lambda: verify_export(folder, cancel=never),
        lambda: machine_page(read_report(folder)),
    ]


def _each(path: tuple[Any, ...], value: Any, uses: list[Callable[[], object]]) -> None:
    for use in uses:
        try:
            use()
        except HyperSDKError:  # which has a code
            continue
        except Exception as error:
            shown = "missing" if value is MISSING else repr(value)[:80]
            raise AssertionError(f"{'.'.join(map(str, path))} = {shown}: {type(error).__name__}: {error}") from error
