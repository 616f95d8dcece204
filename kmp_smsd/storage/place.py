"""Where a database may lie: in a directory that is there, on a disk of this machine."""

from __future__ import annotations

import re
from pathlib import Path

from kmp_smsd.storage.errors import StoreUnusable

_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs"})


def check_place(path: Path) -> None:
    """Refuse a directory that is not there or on a network file system, whose locks and syncs cannot be trusted.

    Raises StoreUnusable.
    """
    if not path.parent.is_dir():
        raise StoreUnusable(f"no directory {path.parent}: is its volume mounted? Create it, or correct [storage] path")
    kind = _file_system(path.parent.resolve())
    if kind in _NETWORK or kind.startswith("fuse.ssh"):
        raise StoreUnusable(f"{path.parent} is a network file system ({kind}): put the database on a local disk")


def _file_system(directory: Path) -> str:
    """The type of the file system that `directory` lies on, as the kernel names it; '' where it does not say."""
    best, kind = "", ""
    for line in _mounts().splitlines():
        fields, _, rest = line.partition(" - ")
        mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields.split()[4])
        if len(mount_point) >= len(best) and directory.is_relative_to(mount_point):
            best, kind = mount_point, rest.split()[0]
    return kind


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
