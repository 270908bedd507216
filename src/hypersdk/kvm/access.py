"""Whether the hypervisor's user can get at an image: the folders above it must let that user through.

libvirt gives a guest's disk to QEMU's user when the guest starts, but it does not change the folders above it. So an
image below a home folder of mode 0700 is the most frequent reason why a guest does not start.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypersdk.errors import Refused, register
from hypersdk.remedies import Advice
from hypersdk.text import shell_line

IMAGE_UNREACHABLE: Final = register(
    "image_unreachable",
    "The hypervisor's user cannot get through a folder above the image, so the guest could not be started.",
    "Let it through with setfacl or chmod, or land the disks in a storage pool.",
)

_ACL: Final = "system.posix_acl_access"
_OWNER, _USER, _GROUP_OF_FILE, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_EXECUTE: Final = 1


@dataclass(frozen=True, slots=True)
class Account:
    """A user with all its groups. ``name`` is for remedies."""

    user: int
    groups: frozenset[int]
    name: str


def account_of(user: int, group: int) -> Account:
    """The account with this user id, which need not have a name here; ``group`` is its first group."""
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        return Account(user, frozenset({group}), str(user))
    return Account(user, frozenset(os.getgrouplist(name, group)), name)


def check_reachable(folder: Path, account: Account) -> None:
    """Raises Refused ``image_unreachable``, with the commands that help, where ``account`` cannot get to the files in
    ``folder``. Raises OSError where we cannot look at the folders ourselves."""
    closed = list(closed_folders(folder, account))
    if not closed:
        return
    setfacl = shell_line(["setfacl", "-m", f"u:{account.name}:x", *map(str, closed)])
    chmod = shell_line(["chmod", "o+x", *map(str, closed)])
    raise Refused(
        f"the user {account.name}, as which guests run, cannot enter {', '.join(map(str, closed))}",
        code=IMAGE_UNREACHABLE,
        remedies=(Advice(f"Run `{setfacl}`, or `{chmod}`, or land the disks in a storage pool."),),
        folders=[str(folder) for folder in closed],
        user=account.name,
    )


def closed_folders(folder: Path, account: Account) -> Iterator[Path]:
    """``folder`` and the folders above it, from the root on, that do not let ``account`` through. Raises OSError."""
    found = folder.resolve(strict=True)
    return (above for above in (*reversed(found.parents), found) if not may_enter(above, account))


def may_enter(folder: Path, account: Account) -> bool:
    """Whether ``account`` has search permission: by the access control list, or by the mode (acl(5))."""
    facts = folder.stat()
    if account.user == 0:
        return True
    try:
        return _by_list(os.getxattr(folder, _ACL), facts, account)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
    return bool(stat.S_IMODE(facts.st_mode) >> _shift(facts, account) & _EXECUTE)


def _shift(facts: os.stat_result, account: Account) -> int:
    if facts.st_uid == account.user:
        return 6
    return 3 if facts.st_gid in account.groups else 0


def _by_list(acl: bytes, facts: os.stat_result, account: Account) -> bool:
    """The algorithm of acl(5): the first kind of entry that fits decides; of groups, any."""
    entries = [struct.unpack_from("<HHI", acl, at) for at in range(4, len(acl) - 7, 8)]
    mask = next((permission for tag, permission, _ in entries if tag == _MASK), 7)
    if facts.st_uid == account.user:
        return any(permission & _EXECUTE for tag, permission, _ in entries if tag == _OWNER)
    for tag, permission, user in entries:
        if tag == _USER and user == account.user:
            return bool(permission & mask & _EXECUTE)
    of_groups = _of_groups(entries, facts, account.groups)
    if of_groups:
        return any(permission & mask & _EXECUTE for permission in of_groups)
    return any(permission & _EXECUTE for tag, permission, _ in entries if tag == _OTHER)


def _of_groups(entries: Collection[tuple[int, int, int]], facts: os.stat_result, groups: frozenset[int]) -> list[int]:
    return [
        permission
        for tag, permission, group in entries
        if (tag == _GROUP_OF_FILE and facts.st_gid in groups) or (tag == _GROUP and group in groups)
    ]
