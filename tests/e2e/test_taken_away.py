"""The output folder is removed, moved, replaced or taken over while an export writes into it: the result never names
missing files or other data, and the source is restored anyway."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import pytest

from hypersdk.errors import TargetError
from hypersdk.migration import convert
from hypersdk.migration.convert import convert_file
from hypersdk.migration.export import export_machines
from hypersdk.migration.naming import MANIFEST_NAME
from hypersdk.migration.plan import make_plan
from hypersdk.migration.proof import PROVED
from hypersdk.migration.publish import ExportResult, Publishing
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import ExportSpec, OutputFormat, ResumeMode
from hypersdk.simulator.config import DiskSpec, MachineSpec
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.exportchecks import assert_finished, assert_holds, expected_raw
from tests.support.exporter import Engine, EngineFactory, succeeded
from tests.support.killed import Killed
from tests.support.takeaway import (
    CODES,
    MOMENTS,
    Act,
    at,
    linked,
    moved,
    moved_place,
    nothing_left_open,
    others_in,
    removed,
    swapped,
    taken,
)
from tests.support.tools import run_tool

DISKS: Final = (DiskSpec(4 * MiB, allocated_bytes=3 * MiB), DiskSpec(2 * MiB))
RUNNING: Final = MachineSpec("web-01", disks=DISKS, power="poweredOn")


@pytest.mark.parametrize("output", [OutputFormat.QCOW2, pytest.param(OutputFormat.OVA, marks=pytest.mark.slow)])
@pytest.mark.parametrize("act", list(CODES), ids=lambda act: act.__name__)
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_export_whose_folder_is_not_its_own_any_more_fails_with_a_code(
    moment: str, act: Act, output: OutputFormat, engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, folder = engine(machines=(RUNNING,)), tmp_path / "out"
    before, expected = ran.simulator.state(), expected_raw(ran.simulator, "web-01", tmp_path / "expected")
    left: dict[str, bytes] = {}

    def happens() -> None:
        act(folder)
        left.update(others_in(folder))

    with monkeypatch.context() as patch, nothing_left_open(folder):
        came = at(moment, patch, happens)
        outcome = ran.export("web-01", folder, format=output, parallel=1)
    assert came()
    if act is swapped and moment == "before the copy":
        assert outcome.error is None, "nothing was there that could have been swapped"
        return
    assert outcome.error is not None
    assert outcome.result is None
    assert outcome.error.code == CODES[act]
    assert "/proc/" not in f"{outcome.error.as_dict()}"
    assert ran.simulator.state() == before
    assert others_in(folder) == left, "what others wrote there is left as it is"
    assert not (folder / MANIFEST_NAME).exists()
    if act in (moved, linked):
        assert f"{moved_place(folder)}" in outcome.error.message
        folder.unlink(missing_ok=True)
        moved_place(folder).rename(folder)
        result = succeeded(ran.export("web-01", folder, format=output, resume=ResumeMode.RESUME))
    elif act is swapped:
        result = succeeded(ran.export("web-01", folder, format=output, resume=ResumeMode.RESUME))
        (folder / "theirs.qcow2.partial").unlink()
    else:
        removed(folder)
        result = succeeded(ran.export("web-01", folder, format=output))
    assert_holds(folder, expected, result.content, tmp_path / "judged", convert=False)
    assert_finished(folder)
    assert ran.simulator.state() == before


def package(folder: Path) -> Path:
    """An image whose conversion has the same file names as an export of ``web-01``, and other content."""
    folder.mkdir()
    raw, image = folder / "raw", folder / "web-01.vmdk"
    raw.write_bytes(b"theirs" * (MiB // 2))
    run_tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, image)
    return image


def converted(image: Path, folder: Path, state: Path) -> ExportResult:
    """Another program's run into the same folder."""
    return convert_file(
        image,
        ExportSpec(machine="web-01", output_dir=folder),
        cancel=CancelToken(),
        observer=lambda _: None,
        settings=RunSettings(state=state),
    )


def emptied(folder: Path) -> None:
    """Removes the content of the folder."""
    taken(folder)
    for name in others_in(folder):
        (folder / name).unlink()


@pytest.mark.parametrize("ends", ["within", "last"])
@pytest.mark.parametrize("act", [removed, emptied], ids=lambda act: act.__name__)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_second_run_in_the_same_folder_publishes_its_own_bytes_and_the_first_none(
    moment: str, act: Act, ends: str, engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody empties the folder and starts another run there, which ends before or after the first one."""
    ran, folder, image = engine(machines=(RUNNING,)), tmp_path / "out", package(tmp_path / "package")
    before = ran.simulator.state()
    first_ended, second_waits = threading.Event(), threading.Event()
    second: list[ExportResult] = []

    class Late(Publishing):
        def publish(self) -> ExportResult:
            second_waits.set()
            assert first_ended.wait(60)
            return super().publish()

    other = threading.Thread(target=lambda: second.append(converted(image, folder, tmp_path / "theirs")))

    def happens() -> None:
        act(folder)
        if ends == "last":
            monkeypatch.setattr(convert, "Publishing", Late)
            other.start()
            assert second_waits.wait(60)
        else:
            second.append(converted(image, folder, tmp_path / "theirs"))

    came = at(moment, monkeypatch, happens)
    with ran.log_in() as session:
        plan = make_plan(session, ExportSpec(machine="web-01", output_dir=folder, parallel=1), cancel=CancelToken())
        settings = RunSettings(state=ran.state)
        (outcome,) = export_machines(session, [plan], cancel=CancelToken(), observer=ran.seen.extend, settings=settings)
    first_ended.set()
    if other.ident is not None:
        other.join(60)
    assert came()
    assert outcome.result is None
    assert outcome.error is not None
    assert outcome.error.code in ("folder_removed" if act is removed else "folder_taken", "output_replaced")
    assert ran.simulator.state() == before
    (result,) = second
    assert [file.name for file in result.files] == ["web-01-disk1.qcow2"]
    run_tool("qemu-img", "compare", "-f", "raw", "-F", "qcow2", image.with_name("raw"), folder / "web-01-disk1.qcow2")
    assert_finished(folder)


@pytest.fixture(params=[OutputFormat.QCOW2, OutputFormat.RAW, OutputFormat.OVA])
def copied(
    request: pytest.FixtureRequest, engine: EngineFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Engine, Path, OutputFormat]:
    """A run that ended after everything was copied and hashed, just before the files were renamed."""
    ran, folder = engine(machines=(RUNNING,)), tmp_path / "out"

    def ends(_: Publishing) -> ExportResult:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Publishing, "publish", ends)
        with pytest.raises(Killed):
            ran.export("web-01", folder, format=request.param)
    return ran, folder, request.param


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_an_unfinished_export_goes_on_in_a_copy_of_its_folder(
    how: str, copied: tuple[Engine, Path, OutputFormat], tmp_path: Path
) -> None:
    ran, folder, output = copied
    expected, place = expected_raw(ran.simulator, "web-01", tmp_path / "expected"), tmp_path / "larger disk"
    if how == "copied":
        run_tool("cp", "-a", folder, place)
    else:
        folder.rename(place)
    ran.simulator.reset_counters()
    result = succeeded(ran.export("web-01", place, format=output, resume=ResumeMode.RESUME))
    assert dict(ran.simulator.counters.opened) == {}, "nothing is copied again"
    assert result.proof == PROVED
    assert_holds(place, expected, result.content, tmp_path / "judged", convert=False)
    assert_finished(place)


@pytest.mark.parametrize("act", list(CODES), ids=lambda act: act.__name__)
@pytest.mark.parametrize("moment", ["before publishing", "before the manifest", "after the manifest"])
def test_a_conversion_whose_folder_is_not_its_own_any_more_fails_with_a_code(
    moment: str, act: Act, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, image, left = tmp_path / "out", package(tmp_path / "package"), {}

    def happens() -> None:
        act(folder)
        left.update(others_in(folder))

    with monkeypatch.context() as patch, nothing_left_open(folder):
        came = at(moment, patch, happens)
        with pytest.raises(TargetError) as caught:
            converted(image, folder, tmp_path / "state")
    assert came()
    assert caught.value.code == CODES[act]
    assert others_in(folder) == left
    assert not (folder / MANIFEST_NAME).exists()
    assert list((tmp_path / "state" / "runs").iterdir()) == []
    if act is swapped:
        removed(folder)
    if act is removed or act is swapped:
        assert converted(image, folder, tmp_path / "state").files
