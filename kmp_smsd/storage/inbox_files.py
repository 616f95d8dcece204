"""The files of the inbox: where they are, and what is in them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kmp_smsd.storage.errors import StoreUnavailable, StoreUnusable
from kmp_smsd.storage.received import DamagedLine, ForeignLine, Message, Received, Settled

LINE_OCTETS_MAX = 8 * 1024 * 1024  # several times the largest batch
ROOM_OCTETS = 64 * 1024  # of zeros behind the lines at most, and no more than there are octets of lines
# Number and run: a file that comes back takes no other's place. Without a run: as the version before named them.
NAME = re.compile(r"(\d{12,18})(-[0-9a-f]{16})?\.messages", re.ASCII)


def directory(path: Path) -> Path:
    """Where the inbox of the database at `path` is."""
    return path.with_name(path.name + "-inbox")


def waiting_in(path: Path, settled: Callable[[], Settled]) -> list[Message]:
    """What lies in the inbox of the database at `path` and is not settled, for who only looks; intake may be at work.

    Raises StoreUnavailable, StoreUnusable, and what `settled` raises.
    """
    received: list[Received] = []
    try:
        files, _ = listed(directory(path)) if directory(path).exists() else ([], [])
        for file in files:
            with suppress(FileNotFoundError):  # settled meanwhile
                received += read_file(file).received if NAME.fullmatch(file.name) else ()
    except OSError as error:
        raise StoreUnavailable(f"{error.filename}: {error.strerror}") from error
    known = settled()  # asked last: what is settled while we look does not wait
    return [message for one in received for message in one.rest(known).messages]


def files_with(path: Path, mdn: str) -> list[Path]:
    """The files of the inbox in which `mdn` stands, settled or not, and those that are kept for people."""
    found: list[Path] = []
    try:
        files, _ = listed(directory(path)) if directory(path).exists() else ([], [])
        for file in files:
            with suppress(FileNotFoundError):  # settled meanwhile
                if mdn.encode() in _octets(file):
                    found.append(file)
    except OSError as error:
        raise StoreUnavailable(f"{error.filename}: {error.strerror}") from error
    return found


def unread_in(path: Path) -> list[str]:
    """What lies in the inbox and is not read: damaged files, which are kept for people, and what is none of ours."""
    try:
        files, foreign = listed(directory(path)) if directory(path).exists() else ([], [])
    except OSError as error:
        raise StoreUnavailable(f"{error.filename}: {error.strerror}") from error
    return sorted(one.name for one in (*files, *foreign) if not NAME.fullmatch(one.name) or one in foreign)


def _octets(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        error.filename = str(path)  # reading names none
        raise


def listed(directory: Path) -> tuple[list[Path], list[Path]]:
    """The files that have a name of ours there, those kept for people included, the oldest first; and what else is."""
    files: list[Path] = []
    foreign: list[Path] = []
    with os.scandir(directory) as entries:
        for one in entries:
            is_ours = NAME.match(one.name) and one.is_file(follow_symlinks=False)
            (files if is_ours else foreign).append(Path(one.path))
    return sorted(files, key=lambda path: (number_of(path), path.name)), foreign


def number_of(path: Path) -> int:
    """Where a file is in the order of all; 0 where its name is not one of ours."""
    named = NAME.match(path.name)
    return int(named[1]) if named else 0


class Content(NamedTuple):
    """What is in a file, and the numbers of its damaged lines.

    Where it is `torn`, its last line was not answered, if the disk is well. Where it is `hollow`, there are zeros in
    that line, or more of them at the end than we leave there: by a write that a power cut took back, or in the place of
    lines that were answered. Fewer zeros in their place than there was room cannot be told from it.

    `identity` is that of the file that was read.
    """

    identity: tuple[int, int]
    received: list[Received]
    damaged: list[int]
    torn: bool
    hollow: bool


def read_file(path: Path) -> Content:
    """Read a file of the inbox. Raises StoreUnusable where another version wrote it, and OSError."""
    received: list[Received] = []
    damaged: list[int] = []
    octets = zeros = 0
    torn = holes = False  # of the last line that was read
    try:
        with path.open("rb") as file:
            identity = device_and_inode(os.fstat(file.fileno()))
            for number, line in enumerate(iter(lambda: file.readline(LINE_OCTETS_MAX), b""), start=1):
                written = line.rstrip(b"\0")
                zeros = len(line) - len(written)
                if not written:  # whatever is behind so many: a file of ours it is not
                    break
                octets += len(written)
                parts = [part for part in written.split(b"\0") if part]  # no line has a NUL
                parsed = [_parsed(part, path, number) for part in parts]
                received += filter(None, parsed)
                # The last one may be there in part; where it is not, there are zeros.
                holes = b"\0" in written
                torn = parsed[-1] is None and (holes or not line.endswith(b"\n"))
                if torn and _stands_behind_zeros(written, parts, parsed):
                    torn = False  # each is synced before the next one is written: what was before it was answered
                if holes or None in parsed:  # what was in the place of zeros is gone
                    damaged.append(number)
    except OSError as error:
        error.filename = str(path)  # reading names none
        raise
    if torn:
        damaged.pop()
    return Content(identity, received, damaged, torn, (torn and holes) or zeros > min(octets, ROOM_OCTETS))


def _stands_behind_zeros(written: bytes, parts: list[bytes], parsed: list[Received | None]) -> bool:
    """Whether one of the whole lines among `parts` of what is `written` has zeros before it."""
    whole = [part for part, one in zip(parts, parsed, strict=True) if one is not None]
    return bool(whole) and b"\0" in written[: written.rfind(whole[-1])]


def _parsed(part: bytes, path: Path, number: int) -> Received | None:
    """What is in a part of a line; None where it is not a whole one, but for its end."""
    try:
        return Received.parse(part)
    except ForeignLine as error:
        raise StoreUnusable(
            f"{path}:{number} was written by another version of kmp-smsd: install that one,"
            " or move the file elsewhere and bring it back later"
        ) from error
    except DamagedLine:
        return None


def device_and_inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
