"""Certificate and key of the daemon, as systemd hands them over."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypersdk.api.tls import ReloadableTls
from tests.support.tls import Authority


@pytest.mark.parametrize("mode", [0o400, 0o440])
def test_a_key_that_is_a_credential_is_taken(tmp_path: Path, mode: int) -> None:
    identity = Authority(tmp_path).identity("localhost")
    key = tmp_path / "tls.key"
    key.write_bytes(identity.pem.read_bytes())
    key.chmod(mode)
    tmp_path.chmod(0o500)
    try:
        assert ReloadableTls(identity.pem, key).reload()
    finally:
        tmp_path.chmod(0o700)
