"""Whether only trusted users can give the name of an image to another file.

QEMU, libvirt and virt-v2v open images by their names, after we have looked at them. Whoever can write in a folder above
an image can put another file, or a link, in its place in between: a guest would get a file of the host, or a conversion
would write into it. So such a folder is refused, as sshd(8) does it with keys (``StrictModes``).
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from hypersdk.errors import Refused, register
from hypersdk.remedies import Advice
from hypersdk.text import shell_line

FOLDER_UNTRUSTED: Final = register(
    "folder_untrusted",
    "Another user can replace files in the folder, or the folder itself. Programs that open the images by name could be"
    " led to other files of this machine.",
    "Take the write permission from others with chmod, or give the folder to your user or root with chown.",
)


def check_trusted(folder: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Raises Refused ``folder_untrusted`` with the commands that help, where ``folder`` or one above it can be changed
    by others than root, this user, and who became root by sudo. One that does not exist yet is not looked at. Raises
    OSError."""
    users = {0, os.geteuid()}
    if os.geteuid() == 0 and environ.get("SUDO_UID", "").isdecimal():
        users.add(int(environ["SUDO_UID"]))
    foreign, writable = [], []
    for above in _above(folder):
        facts = above.lstat()
        if facts.st_uid not in users:
            foreign.append(above)
        elif _others_may_write(facts):
            writable.append(above)
    if not foreign and not writable:
        return
    commands = [shell_line(["chmod", "go-w", *map(str, writable)])] if writable else []
    commands += [shell_line(["chown", str(os.geteuid()), *map(str, foreign)])] if foreign else []
    raise Refused(
        f"other users can change {', '.join(map(str, (*foreign, *writable)))}",
        code=FOLDER_UNTRUSTED,
        remedies=(Advice(f"Run {' and '.join(f'`{command}`' for command in commands)}, or choose another folder."),),
        folders=[str(path) for path in (*foreign, *writable)],
    )


def _above(folder: Path) -> Iterator[Path]:
    """``folder`` and all above it that exist, as they are named and where links lead."""
    named = folder.absolute()
    found = dict.fromkeys((named, *named.parents))
    real = named.resolve()
    found |= dict.fromkeys((real, *real.parents))
    return (path for path in reversed(found) if os.path.lexists(path))


def _others_may_write(facts: os.stat_result) -> bool:
    """In a folder with the sticky bit, nobody can replace the files of others (sticky(7)). The mode of a link means
    nothing."""
    if stat.S_ISLNK(facts.st_mode) or facts.st_mode & stat.S_ISVTX:
        return False
    if facts.st_mode & stat.S_IWOTH:
        return True
    return bool(facts.st_mode & stat.S_IWGRP) and not _is_own_group(facts.st_gid)


def _is_own_group(group: int) -> bool:
    """Root's, and the one that a user or a service has for itself, with the same name."""
    try:
        return group == 0 or grp.getgrgid(group).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
