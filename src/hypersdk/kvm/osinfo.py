"""Names of operating systems in libosinfo, which programs read from a domain's metadata (virt-manager, Cockpit)."""

from __future__ import annotations

import re
from typing import Final

_VENDORS: Final = {
    "almalinux": "almalinux.org/almalinux",
    "alma": "almalinux.org/almalinux",
    "centos-stream": "centos.org/centos-stream",
    "centos": "centos.org/centos",
    "debian": "debian.org/debian",
    "fedora": "fedoraproject.org/fedora",
    "freebsd": "freebsd.org/freebsd",
    "ol": "oracle.com/ol",
    "opensuse": "opensuse.org/opensuse",
    "rhel": "redhat.com/rhel",
    "rocky": "rockylinux.org/rocky",
    "ubuntu": "ubuntu.com/ubuntu",
    "win": "microsoft.com/win",
}
"""Families whose identifiers in osinfo-db are made from the short id by one rule."""
_SHORT_ID: Final = re.compile(r"(?P<family>[a-z]+(?:-stream)?)(?P<version>[0-9][0-9a-z.]{0,15})")


def os_uri(short_id: str | None) -> str | None:
    """The identifier of ``debian12``: ``http://debian.org/debian/12``. None for one that is not known here: a wrong
    identifier is worse than none."""
    found = _SHORT_ID.fullmatch(short_id or "")
    vendor = _VENDORS.get(found["family"]) if found else None
    return f"http://{vendor}/{found['version']}" if found and vendor else None
