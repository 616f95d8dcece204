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
# Number and run: a file that comes back takes no other's place. Without a run: as the version before named them.
NAME = re.compile(r"\d{12}(-[0-9a-f]{16})?\.messages", re.ASCII)


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


def listed(directory: Path) -> tuple[list[Path], list[Path]]:
    """What has a name of ours there, those kept for people included: files, the oldest first; and what is no file."""
    files: list[Path] = []
    foreign: list[Path] = []
    with os.scandir(directory) as entries:
        for one in entries:
            if NAME.match(one.name):
                (files if one.is_file(follow_symlinks=False) else foreign).append(Path(one.path))
    return sorted(files), foreign


class Content(NamedTuple):
    """What is in a file, and the numbers of its damaged lines. Where it is `torn`, what is at its end was not
    answered, if the disk is well.

    `identity` is that of the file that was read.
    """

    identity: tuple[int, int]
    received: list[Received]
    damaged: list[int]
    torn: bool


def read_file(path: Path) -> Content:
    """Read a file of the inbox. Raises StoreUnusable where another version wrote it, and OSError."""
    received: list[Received] = []
    damaged: list[int] = []
    octets = room = 0
    torn = False
    try:
        with path.open("rb") as file:
            identity = identity_of(os.fstat(file.fileno()))
            for number, line in enumerate(iter(lambda: file.readline(LINE_OCTETS_MAX), b""), start=1):
                if not line.strip(b"\0"):
                    room = len(line)
                    break
                octets += len(line)
                whole = line.rpartition(b"\0")[2]  # no line has a NUL
                torn = False
                try:
                    received.append(Received.parse(whole))
                except ForeignLine as error:
                    raise StoreUnusable(
                        f"{path}:{number} was written by another version of kmp-smsd: install that one,"
                        " or move the file elsewhere and bring it back later"
                    ) from error
                except DamagedLine:
                    damaged.append(number)
                    # The last one may be there in part; where it is not, there are zeros.
                    torn = b"\0" in line or not line.endswith(b"\n")
                else:
                    if whole != line:  # what was in front of it is gone
                        damaged.append(number)
    except OSError as error:
        error.filename = error.filename or str(path)  # reading names none
        raise
    if torn:
        damaged.pop()
    return Content(identity, received, damaged, torn or room > octets)  # we leave room for as much again at most


def identity_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
