"""Programs that stand in for virt-v2v-in-place: shell scripts that behave like it, in milliseconds."""

from __future__ import annotations

import os
from pathlib import Path

from hypersdk.guest.distribution import Distribution, Family
from hypersdk.guest.findings import HAS_VIRTIO
from hypersdk.guest.tools import GuestTools, find_tools

DEBIAN = Distribution(Family.DEBIAN)
FEATURES = "virt-v2v-in-place virt-v2v-in-place-2.0 in-place mac-option mac-ip-option input:libvirtxml convert:linux"
HELP = """
  -i <disk|libvirt|libvirtxml|ova|vmx>
  --key <SELECTOR>                    Specify a LUKS key
  --mac <mac:network|bridge|ip:out>   Map NIC to network or bridge or assign static IP
  --machine-readable[=format]         Make output machine readable
  --root <ask|... >                   How to choose root filesystem
"""
GOOD_CONVERSION = f"""
say message "Setting up the source: -i libvirtxml x"
say warning "could not determine a way to update the configuration of Grub2"
printf 'i_type = %s\\ni_distro = x\\n' "${{system:-linux}}" >&2
echo "gcaps_net_bus = virtio-net" >&2
say info "{HAS_VIRTIO}"
"""
"""Part of a script: a conversion that ends well."""


def script(path: Path, body: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{body}")
    path.chmod(0o755)
    return path


def fake_v2v(folder: Path, conversion: str, *, options: str = HELP, version: str = "2.2.0") -> GuestTools:
    """The tools of this host with a virt-v2v-in-place that answers questions about itself and runs ``conversion``, a
    piece of a shell script: ``say TYPE TEXT`` writes a message."""
    path = script(
        folder / "virt-v2v-in-place",
        f"""
case "$1" in
--version) echo "virt-v2v-in-place {version}"; exit;;
--help) cat <<'END'
{options}
END
exit;;
--machine-readable) printf '%s\\n' {FEATURES}; exit;;
esac
for argument; do case "$argument" in --machine-readable=fd:*) fd=${{argument#*fd:}};; esac; done
say() {{ printf '{{ "message": "%s", "type": "%s" }}\\n' "$2" "$1" >/dev/fd/"$fd"; }}
{conversion}
""",
    )
    tools = find_tools()
    return GuestTools({**tools.paths, path.name: str(path)}, None, None, DEBIAN)


def own_processes(mark: str) -> list[int]:
    """The processes that have ``mark`` in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            known = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if mark.encode() in known:
            found.append(int(entry.name))
    return found
