"""The question whether to trust a certificate that is not trusted yet."""

from __future__ import annotations

from typing import Final

from hypersdk.cli.programs.program import Run
from hypersdk.errors import HyperSDKError
from hypersdk.net.certificate import CERTIFICATE_UNKNOWN
from hypersdk.text import clean

FINGERPRINT_LINE: Final = 16 * 3
"""Characters of a fingerprint in one line: 16 bytes, which fits 80 columns; halves can be compared at a glance."""


def offers_certificate(error: HyperSDKError) -> bool:
    """Whether ``error`` is about a certificate that a person could decide to trust."""
    return error.code == CERTIFICATE_UNKNOWN and bool(error.fields.get("sha256"))


def trusts_certificate(run: Run, error: HyperSDKError, heading: str, compare: str) -> bool:
    """Shows the certificate in ``error`` below ``heading``, and asks whether to trust it. ``compare`` says where the
    fingerprint can be compared."""
    notes = run.output.notes
    notes.print(clean(heading, 300), style="yellow")
    facts = {key: clean(str(value), 200) for key, value in error.fields.items()}
    shown = (
        ("SHA-256", facts["sha256"][:FINGERPRINT_LINE]),
        ("", facts["sha256"][FINGERPRINT_LINE:]),
        ("SHA-1", facts.get("sha1", "")),
        ("subject", facts.get("subject", "")),
        ("issuer", facts.get("issuer", "")),
        ("valid until", facts.get("not_after", "")[:10]),
    )
    for label, text in shown:
        if text:
            notes.print(f"  {label:<12}{text}", soft_wrap=True)
    notes.print(f"Compare the SHA-256 fingerprint with the one {compare}.")
    return run.confirmed("Trust it from now on?")
