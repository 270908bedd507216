"""What a job without a name is called."""

from __future__ import annotations

import pytest

from hypersdk.migration.jobfile import JobDefinition


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"vm_path": "/DC0/vm/Web/web-01"}, "web-01"),
        ({"vm_path": "R&D / prototype"}, "R&D / prototype"),
        ({"vm_path": "vm-42"}, "vm-42"),
        ({"vm_path": "/DC0/vm/web-01", "name": "nightly"}, "nightly"),
    ],
)
def test_a_job_is_called_after_its_machine(given: dict[str, str], title: str) -> None:
    assert JobDefinition.model_validate({"output_path": "/tmp/x", **given}).title == title
