"""What became of a migrated machine, for programs."""

from __future__ import annotations

from typing import Any

from hypersdk.landing.plans import domain_dict
from hypersdk.landing.steps import Migrated
from hypersdk.model.guestplan import BootProof


def migrated_dict(name: str, migrated: Migrated, elapsed_s: float) -> dict[str, Any]:
    """A landed machine as JSON."""
    landed = migrated.landed
    return {
        "machine": name,
        "uuid": landed.uuid,
        "uri": landed.uri,
        "disks": [str(path) for path in landed.disks],
        "owner": landed.owner,
        "converted": migrated.converted,
        "proof": _proof_dict(migrated.proof) if migrated.proof else None,
        "started": migrated.started,
        "domain": {**domain_dict(migrated.domain), "name": landed.name},
        "warnings": [warning.text for warning in migrated.warnings],
        "elapsed_s": round(elapsed_s, 1),
    }


def _proof_dict(proof: BootProof) -> dict[str, Any]:
    """A boot proof."""
    return {
        "verdict": proof.verdict.value,
        "line": proof.line,
        "seconds": proof.seconds,
        "accelerated": proof.accelerated,
        "screenshot": None if proof.screenshot is None else str(proof.screenshot),
        "serial_log": None if proof.serial_log is None else str(proof.serial_log),
        "warnings": list(proof.warnings),
    }
