"""The inbox: messages that were answered and are not settled yet, in files beside the database.

A message may be answered as soon as it is on the disk here, which costs one write and one sync, whoever holds the
write lock of the database meanwhile. Settling follows in its own time, in large transactions; each of them remembers
what it settled (`inbox_settled`), so that nothing is left out and nothing is settled twice, whichever file is there.

A file is only ever added to, by the process that made it, and never again after a write or a sync of it failed: what
the kernel then still has of it, and what is on the disk, nobody knows. It goes when all of it is settled.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kmp_smsd.storage.durable import sync
from kmp_smsd.storage.errors import StoreUnavailable, StoreUnusable
from kmp_smsd.storage.locks import SHARED_MODE, InboxLock
from kmp_smsd.storage.received import DamagedLine, ForeignLine, Message, Received, Settled

log = logging.getLogger(__name__)

FILE_OCTETS = 1024 * 1024  # from there on the next one is begun: some ten thousand messages
FILE_S = 1.0  # and from there on: numbers of subscribers are not to stay behind in it while others come
LINE_OCTETS_MAX = 8 * 1024 * 1024  # several times the largest batch
DIRECTORY_MODE = 0o770  # its files are the group's, as the database is
DAMAGED = ".damaged"
# Number and run: a file that comes back takes no other's place. Without a run: as the version before named them.
_NAME = re.compile(r"\d{12}(-[0-9a-f]{16})?\.messages", re.ASCII)


@dataclass(slots=True)
class _File:
    path: Path
    identity: tuple[int, int]  # device and inode: people move files, and bring others back
    begun: int  # so many messages were given to be settled before it
    through: int  # and up to its end
    octets: int = 0
    begun_at: float = field(default_factory=time.monotonic)  # monotonic seconds

    @property
    def is_there(self) -> bool:
        """Whether its path still leads to it. Raises OSError."""
        try:
            return _identity(os.lstat(self.path)) == self.identity
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove it, and nothing else that has its name by now. Raises OSError."""
        if self.is_there:
            self.path.unlink(missing_ok=True)


class Inbox:
    """The inbox of the database at `path`. Used by one thread at a time, of one process.

    `settled` says what the database has settled; it is asked once nobody else can settle. Raises StoreBusy where
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
        received = Received(self._run, self._last + 1, messages).with_line()
        self._last = received.last.number  # even where it fails: the line may be whole, and be found after a restart
        line = received.line()
        try:
            if self._descriptor is None:
                self._begin_file()
            file = self._files[-1]
            if not file.is_there:  # after a restart nobody would find it
                raise FileNotFoundError(0, "was removed or replaced", str(file.path))
            self._write(line)
        except BaseException as error:  # an interrupt too: what is in the file now, nobody knows
            self._end_file()
            self._drop_unanswered()
            if isinstance(error, OSError):
                raise self._unavailable(error) from error
            raise
        self._given += len(messages)
        file.through = self._given
        file.octets += len(line)
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
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, SHARED_MODE)
        self._files.append(_File(path, _identity(os.fstat(self._descriptor)), self._given, self._given))
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

    def _write(self, line: bytes) -> None:
        assert self._descriptor is not None
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fdatasync(self._descriptor)

    def _read(self, settled: Settled) -> list[Received]:
        """What is not settled. Files of which all is settled are the first that `forget` removes."""
        files, foreign = _listed(self._directory)
        for path in foreign:
            log.warning("%s is no file of ours, and not read", path, extra={"event": "inbox_foreign"})
        self._serial = max((int(path.name[:12]) for path in (*files, *foreign)), default=0)
        left: list[Received] = []
        seen: set[tuple[str, int]] = set()  # a person may have copied a file, or added one to another
        for path in files:
            if not _NAME.fullmatch(path.name):  # kept for people
                continue
            content = read_file(path)
            _tell_of_damage(path, content)
            begun = self._given
            for received in content.received:
                rest = received.rest(settled)
                if rest.messages and (rest.run, rest.first) not in seen:
                    seen.add((rest.run, rest.first))
                    left.append(rest)
                    self._given += len(rest.messages)
            self._files.append(_File(path, content.identity, begun, self._given))
        return left

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"{error.filename or self._directory}: {error.strerror or error}")


def _tell_of_damage(path: Path, content: Content) -> None:
    if content.damaged:
        with suppress(FileExistsError):
            os.link(path, path.with_name(path.name + DAMAGED))
        log.error(
            "%s:%s damaged: messages that were answered are lost; see what the kernel's log (dmesg) tells of its disk;"
            " the file stays as %s%s",
            path,
            ", ".join(map(str, content.damaged)),
            path.name,
            DAMAGED,
            extra={"event": "inbox_damaged"},
        )
    if content.torn:
        log.warning(
            "%s ends in a torn line: nothing of it was answered, if the disk is well",
            path,
            extra={"event": "inbox_torn"},
        )


def directory(path: Path) -> Path:
    """Where the inbox of the database at `path` is."""
    return path.with_name(path.name + "-inbox")


def waiting_in(path: Path, settled: Callable[[], Settled]) -> list[Message]:
    """What lies in the inbox of the database at `path` and is not settled, for who only looks; intake may be at work.

    Raises StoreUnavailable, StoreUnusable, and what `settled` raises.
    """
    received: list[Received] = []
    try:
        files, _ = _listed(directory(path)) if directory(path).exists() else ([], [])
        for file in files:
            with suppress(FileNotFoundError):  # settled meanwhile
                received += read_file(file).received if _NAME.fullmatch(file.name) else ()
    except OSError as error:
        raise StoreUnavailable(f"{error.filename}: {error.strerror}") from error
    known = settled()  # asked last: what is settled while we look does not wait
    return [message for one in received for message in one.rest(known).messages]


def _listed(directory: Path) -> tuple[list[Path], list[Path]]:
    """What has a name of ours there, those kept for people included: files, the oldest first; and what is no file."""
    files: list[Path] = []
    foreign: list[Path] = []
    with os.scandir(directory) as entries:
        for one in entries:
            if _NAME.match(one.name):
                (files if one.is_file(follow_symlinks=False) else foreign).append(Path(one.path))
    return sorted(files), foreign


class Content(NamedTuple):
    """What is in a file, and the numbers of its damaged lines. Where it is `torn`, the end of it was not answered.

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
    torn = False
    try:
        with path.open("rb") as file:
            identity = _identity(os.fstat(file.fileno()))
            for number, line in enumerate(iter(lambda: file.readline(LINE_OCTETS_MAX), b""), start=1):
                try:
                    received.append(Received.parse(line))
                except ForeignLine as error:
                    raise StoreUnusable(
                        f"{path}:{number} was written by another version of kmp-smsd: install that one,"
                        " or move the file elsewhere and bring it back later"
                    ) from error
                except DamagedLine:
                    torn = not line.endswith(b"\n")
                    if torn:
                        break
                    damaged.append(number)
    except OSError as error:
        error.filename = error.filename or str(path)  # reading names none
        raise
    return Content(identity, received, damaged, torn)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
