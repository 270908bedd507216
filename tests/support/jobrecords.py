"""Jobs as rows, for what needs no worker."""

from __future__ import annotations

from hypersdk.jobs.records import NewJob


def new_job(**changes: object) -> NewJob:
    """One that can be submitted."""
    facts: dict[str, object] = {
        "id": None,
        "name": "web",
        "vm_path": "/DC0/vm/web",
        "output_path": "/tmp/web",
        "format": "qcow2",
        "definition": {"vm_path": "/DC0/vm/web"},
        "digest": "0" * 64,
        "endpoint_id": None,
        "secret": None,
        "site": "vcenter.example.com:443",
        "root_id": "root",
    }
    return NewJob(**{**facts, **changes})  # type: ignore[arg-type]
