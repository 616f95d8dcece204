"""Owners and modes of files."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path

from kmp_smsd.cli.settings import DEFAULT_CONFIG
from kmp_smsd.diagnosis.files import FileFacts


def look_at(path: Path) -> FileFacts:
    """What `stat` shows of a file or directory."""
    try:
        found = path.stat()
    except OSError as error:
        fault = error.strerror or "cannot be looked at"
        return FileFacts(path=str(path), fault=fault, is_missing=isinstance(error, FileNotFoundError))
    return FileFacts(path=str(path), uid=found.st_uid, gid=found.st_gid, mode=found.st_mode, owner=_name(found.st_uid))


def group_of_roles(config: Path) -> int | None:
    """The number of the group of both roles, which the package makes; None for another configuration than its own."""
    try:
        return grp.getgrnam("kmp-smsd").gr_gid if config == DEFAULT_CONFIG else None
    except KeyError:
        return None


def ignored_in(directory: Path) -> list[str]:
    """The names in a platforms.d that nobody reads."""
    try:
        return [path.name for path in directory.iterdir() if path.suffix != ".toml" or path.name.startswith(".")]
    except OSError:
        return []


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
