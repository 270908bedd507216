"""The journal of changes at the source, where its own process is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.errors import Cancelled, SourceError, TargetError
from hypersdk.migration.journal import SourceJournal
from hypersdk.migration.runfile import Change, ChangeKind, FolderRuns, RunFile
from hypersdk.migration.spec import Compression, OutputFormat
from hypersdk.transfer.cancel import CancelToken


def journal_of(folder: Path, *kinds: ChangeKind) -> tuple[RunFile, SourceJournal]:
    """A run with changes that were made and not undone."""
    facts: dict[str, Any] = {
        "endpoint": "u@vcenter.example.com:443",
        "moref": "vm-1",
        "machine": "web",
        "format": OutputFormat.QCOW2,
        "compress": Compression.NONE,
    }
    run = RunFile.create(folder, FolderRuns(folder / "state"), **facts)
    with run.changing() as record:
        record.changes += [Change(kind, {}, made=True) for kind in kinds]
    return run, SourceJournal(cast(Any, None), run, note=lambda _: None)


def test_a_cancel_ends_the_undo_and_is_no_failure_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that drains while it waits for a stale lease hands the job back; the next attempt goes on undoing."""
    run, journal = journal_of(tmp_path, ChangeKind.POWER, ChangeKind.LEASE)

    def stopped(change: Change, cancel: CancelToken) -> None:
        raise Cancelled("stopped")

    monkeypatch.setattr(journal, "_undo_one", stopped)
    with pytest.raises(Cancelled):
        journal.undo(keep=(), cancel=CancelToken())
    assert [change.kind for change in run.record.open_changes] == [ChangeKind.POWER, ChangeKind.LEASE]


def test_a_failure_is_told_and_does_not_keep_the_others_from_being_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, journal = journal_of(tmp_path, ChangeKind.POWER, ChangeKind.SNAPSHOT, ChangeKind.CDROM)

    def undo(change: Change, cancel: CancelToken) -> None:
        if change.kind is ChangeKind.SNAPSHOT:
            raise SourceError("the task failed")

    monkeypatch.setattr(journal, "_undo_one", undo)
    problems = journal.undo(keep=(), cancel=CancelToken())
    assert [problem.error.message for problem in problems] == ["the task failed"]
    assert [change.kind for change in run.record.open_changes] == [ChangeKind.SNAPSHOT]


def test_a_state_folder_that_cannot_be_written_is_not_taken_for_the_output_folder(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(TargetError) as caught:
        FolderRuns(tmp_path / "state").make_known(tmp_path / "out", "run-1")
    assert str(tmp_path / "state") in next_step(caught.value)
    assert "XDG_STATE_HOME" in next_step(caught.value)
