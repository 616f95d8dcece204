"""What the tests of the inbox put into it, and what they find there."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.inbox_files import directory
from kmp_smsd.storage.received import Message, Place, Settled
from tests.storage.stock import A, sync

NOWHERE = Place("", 0)


def opened(path: Path, settled: Place = NOWHERE) -> closing[Inbox]:
    """Beside a database that settled all of that run up to that place."""
    return closing(Inbox(path, lambda: up_to(settled)))


def up_to(settled: Place) -> Settled:
    return Settled.of([(settled.run, 1, settled.number)])


def left(path: Path, settled: Place = NOWHERE) -> list[Message]:
    """What the next intake finds."""
    with opened(path, settled) as one:
        return [message for received in one.take_left() for message in received.messages]


def files(path: Path) -> list[Path]:
    return sorted(directory(path).iterdir())


def write_behind_the_lines(file: Path, octets: bytes) -> None:
    with file.open("r+b") as changed:
        changed.seek(len(changed.read().rstrip(b"\0")))
        changed.write(octets)


def requests(*key_ids: str) -> list[SyncRequest]:
    return [sync(A, key_id) for key_id in key_ids]
