"""The inbox: messages that were answered and are not settled yet, in files beside the database.

A message may be answered as soon as it is on the disk here, which costs one write and one sync, whoever holds the
write lock of the database meanwhile. Settling follows in its own time, in large transactions; each of them remembers
what it settled (`inbox_settled`), so that nothing is left out and nothing is settled twice, whichever file is there.

A file is only ever added to, by the process that made it, and never again after a write or a sync of it failed: what
the kernel then still has of it, and what is on the disk, nobody knows. It goes when all of it is settled. Behind its
lines are zeros, where the next ones go: a sync of what makes no file longer needs no journal of ext4.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kmp_smsd.storage.durable import sync
from kmp_smsd.storage.errors import StoreUnavailable
from kmp_smsd.storage.inbox_files import (
    LINE_OCTETS_MAX,
    NAME,
    ROOM_OCTETS,
    Content,
    device_and_inode,
    directory,
    listed,
    number_of,
    read_file,
)
from kmp_smsd.storage.locks import SHARED_MODE, InboxLock
from kmp_smsd.storage.received import Message, Received, Settled

log = logging.getLogger(__name__)

FILE_OCTETS = 1024 * 1024  # from there on the next one is begun: some ten thousand messages
FILE_S = 1.0  # and from there on: numbers of subscribers are not to stay behind in it while others come
DIRECTORY_MODE = 0o770  # its files are the group's, as the database is
DAMAGED = ".damaged"


@dataclass(slots=True)
class _File:
    path: Path
    identity: tuple[int, int]  # device and inode: people move files, and bring others back
    begun: int  # so many messages were given to be settled before it
    through: int  # and up to its end
    octets: int = 0  # of lines
    room: int = 0  # octets of lines and zeros
    begun_at: float = field(default_factory=time.monotonic)  # monotonic seconds

    @property
    def is_there(self) -> bool:
        """Whether its path still leads to it. Raises OSError."""
        try:
            return device_and_inode(os.lstat(self.path)) == self.identity
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove it, and nothing else that has its name by now. Raises OSError."""
        if self.is_there:
            self.path.unlink(missing_ok=True)


class Inbox:
    """The inbox of the database at `path`. Used by one thread at a time, of one process.

    `settled` says what the database has settled; it is asked once no other intake is at work. Raises StoreBusy where
    another process has the inbox open, StoreUnavailable where it cannot be read, StoreUnusable where another version
    wrote it.
    """

    def __init__(self, path: Path, settled: Callable[[], Settled]) -> None:
        self._directory = directory(path)
        self._descriptor: int | None = None  # of the last of `_files`, while it may be added to
        self._files: deque[_File] = deque()
        self._serial = 0
        self._last = 0
        self._given = 0  # messages to be settled, since it was opened, in their order
        self._run = secrets.token_hex(8)
        with ExitStack() as opened:
            opened.enter_context(closing(InboxLock(path)))
            opened.callback(self._end_file)
            try:
                self._make_directory()
                with suppress(PermissionError):  # whose it is, doctor tells
                    self._share_directory()
                sync(self._directory)
                self._left = self._read(settled())
            except OSError as error:
                raise self._unavailable(error) from error
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def take_left(self) -> list[Received]:
        """What was not settled when it was opened, once; to be settled in this order, before all that is appended."""
        left, self._left = self._left, []
        return left

    def append(self, messages: Sequence[Message]) -> Received:
        """Bring `messages` to the disk. Raises StoreUnavailable where that fails: then none of them may be answered."""
        received = Received.of(self._run, self._last + 1, messages)
        self._last = received.last.number  # even where it fails: the line may be whole, and be found after a restart
        if len(received.line) >= LINE_OCTETS_MAX:
            raise StoreUnavailable(f"{self._directory}: a line of {len(received.line):,} octets would not be read back")
        try:
            if self._descriptor is None:
                self._begin_file()
            file = self._files[-1]
            if not file.is_there:  # after a restart nobody would find it
                raise FileNotFoundError(0, "was removed or replaced", str(file.path))
            self._write(file, received.line)
        except BaseException as error:  # an interrupt too: what is in the file now, nobody knows
            self._end_file()
            self._drop_unanswered()
            if isinstance(error, OSError):
                raise self._unavailable(error) from error
            raise
        self._given += received.count
        file.through = self._given
        if file.octets >= FILE_OCTETS:
            self._end_file()
        return received

    def forget(self, settled: int) -> None:
        """Remove the files of which all is settled: so many of the messages that were given, in their order.

        Raises StoreUnavailable where one has to stay. It need not reach the disk: whoever finds one again knows by the
        numbers that it is settled.
        """
        if self._files and time.monotonic() >= self._files[-1].begun_at + FILE_S:
            self._end_file()
            self._drop_unanswered()
        stay: list[tuple[_File, OSError]] = []
        while self._files and self._files[0].through <= settled:
            if len(self._files) == 1:
                self._end_file()
            file = self._files.popleft()
            try:
                file.remove()
            except OSError as error:
                stay.append((file, error))
        self._files.extendleft(file for file, _ in reversed(stay))
        if stay:
            raise self._unavailable(stay[0][1]) from stay[0][1]

    def _make_directory(self) -> None:
        if self._directory.is_dir():
            return
        try:
            self._directory.mkdir()
        except FileExistsError as error:
            raise StoreUnavailable(f"{self._directory} is in the place of the inbox: move it elsewhere") from error
        try:
            self._share_directory()
            sync(self._directory)
        except OSError:
            self._directory.rmdir()  # else the next message would be answered in it as it is
            raise

    def _share_directory(self) -> None:
        """Whatever the umask was, or a person did: its files are the group's, and nobody else's."""
        mode = stat.S_IMODE(self._directory.stat().st_mode)
        wanted = (mode | DIRECTORY_MODE) & ~0o007
        if mode != wanted:  # a sandbox forbids to repeat the setgid bit
            self._directory.chmod(wanted)

    def _begin_file(self) -> None:
        self._make_directory()
        self._serial += 1
        path = self._directory / f"{self._serial:012}-{self._run}.messages"
        if not NAME.fullmatch(path.name):  # nobody would read it
            raise OSError(
                0,
                "no number is left behind that of the last file: give that one a lower one, start intake again",
                str(path),
            )
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SHARED_MODE)
        self._files.append(_File(path, device_and_inode(os.fstat(self._descriptor)), self._given, self._given))
        os.fchmod(self._descriptor, SHARED_MODE)
        sync(path)  # its name, too

    def _end_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):  # what counts has been synced
                os.close(descriptor)

    def _drop_unanswered(self) -> None:
        """Remove the last file where nothing in it was answered: each try, or message on a full disk, makes one."""
        with suppress(OSError):
            if self._files and self._files[-1].begun == self._files[-1].through:
                self._files[-1].remove()
                self._files.pop()

    def _write(self, file: _File, line: bytes) -> None:
        assert self._descriptor is not None
        at, end = file.octets, file.octets + len(line)
        if end > file.room:
            line += bytes(min(end, ROOM_OCTETS))  # as much again as it then has: little in a file of few lines
        while at < end:  # on a full disk there are fewer zeros behind it
            at += os.pwrite(self._descriptor, line[at - file.octets :], at)
        os.fdatasync(self._descriptor)
        file.octets, file.room = end, max(file.room, at)

    def _read(self, settled: Settled) -> list[Received]:
        """What is not settled. Files of which all is settled are the first that `forget` removes."""
        files, foreign = listed(self._directory)
        for path in foreign:
            log.warning("%s is no file of ours, and not read", path, extra={"event": "inbox_foreign"})
        self._serial = max(map(number_of, (*files, *foreign)), default=0)
        left: list[Received] = []
        seen: set[tuple[str, int]] = set()  # a person may have copied a file, or added one to another
        for path in files:
            if not NAME.fullmatch(path.name):  # kept for people
                continue
            content = read_file(path)
            stays = _tell_of_damage(path, content)
            begun = self._given
            for received in content.received:
                rest = received.rest(settled)
                if rest.count and (rest.run, rest.first) not in seen:
                    seen.add((rest.run, rest.first))
                    left.append(rest)
                    self._given += rest.count
            if not stays:
                self._files.append(_File(path, content.identity, begun, self._given))
        return left

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"{error.filename or self._directory}: {error.strerror or error}")


def _tell_of_damage(path: Path, content: Content) -> bool:
    """Say what is wrong with a file, and keep it for people; whether that means that it must stay in its place."""
    kept = _kept(path, content.identity) if content.damaged or content.hollow else None
    if content.damaged:
        log.error(
            "%s:%s damaged: messages that were answered are lost; see what the kernel's log (dmesg) tells of its disk;"
            " the file stays as %s",
            path,
            ", ".join(map(str, content.damaged)),
            (kept or path).name,
            extra={"event": "inbox_damaged"},
        )
    if content.hollow:
        log.warning(
            "%s ends in zeros that do not belong there: nothing in their place was answered, if the disk is well; the"
            " file stays as %s",
            path,
            (kept or path).name,
            extra={"event": "inbox_torn"},
        )
    elif content.torn:
        log.warning(
            "%s ends in a torn line: nothing of it was answered, if the disk is well",
            path,
            extra={"event": "inbox_torn"},
        )
    return kept is None and bool(content.damaged or content.hollow)


def _kept(path: Path, identity: tuple[int, int]) -> Path | None:
    """A second name of this file, by which it stays; None where it gets none: an earlier one may have it."""
    kept = path.with_name(path.name + DAMAGED)
    try:
        with suppress(FileExistsError):
            os.link(path, kept)
        return kept if device_and_inode(os.lstat(kept)) == identity else None
    except OSError:  # a file system without links, a full disk: no reason to answer nobody
        return None
