"""Owners and modes: who could read what is secret, or change what the daemon trusts."""

from __future__ import annotations

import stat
from collections.abc import Collection
from dataclasses import dataclass

from kmp_smsd.diagnosis.finding import Finding, failure, ok, warning

SET_RIGHT = "systemd-tmpfiles --create kmp-smsd.conf, which sets owners and modes right"
_MADE_BY = {"public half": "kmp-smsd master-key create"}
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """A file or directory as `stat` shows it. `fault` is set, and nothing else is known, where it shows nothing."""

    path: str
    uid: int = 0
    gid: int = 0
    mode: int = 0
    owner: str = ""
    fault: str = ""
    is_missing: bool = False  # which is a fault, too


def judge_trusted(file: FileFacts, trusted: Collection[int], what: str, group: int | None = None) -> Finding:
    """A file of which the daemon believes what it says: only the users `trusted` (their numbers) may change it.

    `group` is that by which the roles read it, None where there are no such users.
    """
    if file.fault:
        made_by = _MADE_BY.get(what) if file.is_missing else None
        first = f"for a new installation: {made_by}; else " if made_by else ""
        return failure(
            f"{what} {file.path}: {file.fault}", f"{first}give it back, or run this as a user who may look at it"
        )
    if group is not None and not (file.mode & stat.S_IROTH or (file.mode & stat.S_IRGRP and file.gid == group)):
        return failure(f"{what} {file.path} cannot be read by the roles: neither starts, or reloads", SET_RIGHT)
    if file.mode & _OTHERS_WRITE:
        return failure(f"{what} {file.path} can be written by its group or by others", f"chmod go-w {file.path}")
    if file.uid not in trusted:
        return warning(
            f"{what} {file.path} is owned by {file.owner}, who can change what the daemon does",
            f"chown root {file.path}",
        )
    return ok(f"{what} {file.path}")


def judge_ignored(paths: Collection[str], directory: str) -> Finding:
    """Files beside the platforms' files that nobody reads, such as what an editor or a package left behind."""
    if not paths:
        return ok(f"no file in {directory} is ignored")
    return warning(
        f"ignored in {directory}: {', '.join(sorted(paths))}",
        "only NAME.toml is read: rename what is meant as a platform, delete the rest",
    )


def judge_shared_directory(directory: FileFacts, what: str, group: int | None = None) -> Finding:
    """Where both roles write: for two users it belongs to their `group`, and gives that group to new files."""
    path = directory.path
    give_to_group = f"chgrp kmp-smsd {path} && chmod 2770 {path}"
    if directory.fault:
        return failure(f"{what} {path}: {directory.fault}", "is its volume mounted? systemd-tmpfiles --create")
    if directory.mode & stat.S_IWOTH:
        return failure(f"{what} {path} can be written by everybody", f"chmod o-rwx {path}")
    if group is not None and (directory.gid != group or directory.mode & stat.S_IRWXG != stat.S_IRWXG):
        return failure(f"{what} {path} is closed to the roles' group: they do not start", give_to_group)
    if directory.mode & stat.S_IWGRP and not directory.mode & stat.S_ISGID:
        return warning(
            f"{what} {path} does not give its group to new files: one role could not open the other's", give_to_group
        )
    return ok(f"{what} {path}")


def judge_database_file(file: FileFacts, directory: FileFacts) -> Finding:
    """The database or a file beside it: closed to others, and the group's where the directory is."""
    if file.is_missing:  # no fault of permissions: whoever opens it tells that it is needed
        return warning(f"{file.path}: {file.fault}", "is its volume mounted? For a new one: kmp-smsd db migrate")
    if file.fault:
        return failure(f"{file.path}: {file.fault}", "run this as root, or as a member of the service's group")
    if file.mode & stat.S_IRWXO:
        return failure(f"{file.path}, which names subscribers, is open to other users", f"chmod o= {file.path}")
    if directory.mode & stat.S_IWGRP:
        needed, mode = (stat.S_IRWXG, "2770") if stat.S_ISDIR(file.mode) else (stat.S_IRGRP | stat.S_IWGRP, "0660")
        if file.mode & needed != needed:
            return failure(f"{file.path} is closed to its group: one role cannot use it", f"chmod {mode} {file.path}")
        if file.gid != directory.gid:
            return failure(
                f"{file.path} is not of its directory's group: one role cannot use it",
                f"chgrp --reference={directory.path} {file.path}",
            )
    return ok(f"{file.path}")
