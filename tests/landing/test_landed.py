"""Images that a domain uses are not replaced by another export."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.errors import Refused
from hypersdk.landing.landed import check_not_landed
from hypersdk.landing.record import LandingFile
from hypersdk.migration.runfile import held_folder
from tests.support.exports import export_folder
from tests.support.landings import mark_landed


def test_only_while_the_domain_is_there(tmp_path: Path) -> None:
    folder = export_folder(tmp_path / "web-01")
    check_not_landed(folder)
    mark_landed(folder, "web-01-disk1.qcow2")
    with pytest.raises(Refused) as caught:
        check_not_landed(folder)
    assert caught.value.code == "images_landed"
    with held_folder(folder) as held:
        landing = LandingFile.opened(held)
        landing.note_undone(landing.record.changes[0])
    check_not_landed(folder)
